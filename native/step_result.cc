#include "step_result.h"

#include <bit>

namespace longhaul {
namespace {

void put_tokens(std::vector<int32_t>& words, std::span<const TokenLogprob> tokens) {
  for (const TokenLogprob& token : tokens) {
    words.push_back(token.token_id);
    words.push_back(std::bit_cast<int32_t>(token.logprob));
    words.push_back(token.rank);
  }
}

void put_top(std::vector<int32_t>& words, std::span<const TokenLogprob> tokens) {
  for (const TokenLogprob& token : tokens) {
    words.push_back(token.token_id);
    words.push_back(std::bit_cast<int32_t>(token.logprob));
  }
}

}  // namespace

std::vector<int32_t> encode_step_result(const StepTotals& totals,
                                        std::span<const StepRecord> records) {
  std::vector<int32_t> words(kResultHeaderWords, 0);
  words[kResultMagicWord] = kResultMagic;
  words[kResultVersionWord] = kPlanVersion;
  words[kResultStepId] = totals.step_id;
  words[kResultNumSequences] = static_cast<int32_t>(records.size());
  words[kResultElapsedMicros] = totals.elapsed_micros;
  words[kResultAttentionMicros] = totals.attention_micros;
  words[kResultNumTokens] = totals.num_tokens;
  for (const StepRecord& record : records) {
    const size_t at = words.size();
    words.resize(at + kRecordWords, 0);
    words[at + kRecordSlot] = record.slot;
    words[at + kRecordSequenceId] = record.sequence_id;
    words[at + kRecordStatus] = record.status;
    words[at + kRecordNumSampled] = static_cast<int32_t>(record.sampled.size());
    words[at + kRecordNumTop] = record.num_top;
    words[at + kRecordNumPromptRows] = static_cast<int32_t>(record.prompt.size());
    words[at + kRecordNumPromptTop] = record.num_prompt_top;
    put_tokens(words, record.sampled);
    put_top(words, record.top);
    put_tokens(words, record.prompt);
    put_top(words, record.prompt_top);
  }
  words[kResultTotalWords] = static_cast<int32_t>(words.size());
  return words;
}

}  // namespace longhaul
