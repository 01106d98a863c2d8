// Builds step plan packets for tests, word by word as src/engine/step-plan.ts does, and reads
// result packets.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "sampler/sampling_params.h"
#include "step_plan.h"

namespace lh_test {

class PlanPacket {
 public:
  explicit PlanPacket(int32_t step_id = 0) : step_id_(step_id) {}

  PlanPacket& open(int32_t slot, int32_t sequence_id, const longhaul::SamplingParams& sampling,
                   const std::vector<int32_t>& history = {}) {
    const auto real = [](float value) { return std::bit_cast<int32_t>(value); };
    std::vector<int32_t> words = {
        slot, sequence_id, -1, sampling.num_prompt_tokens, real(sampling.temperature),
        real(sampling.top_p), real(sampling.min_p), sampling.top_k,
        real(sampling.repetition_penalty), real(sampling.frequency_penalty),
        real(sampling.presence_penalty), static_cast<int32_t>(sampling.seed),
        static_cast<int32_t>(sampling.seed >> 32), sampling.num_logprobs,
        sampling.num_prompt_logprobs, sampling.min_tokens, static_cast<int32_t>(history.size()),
        static_cast<int32_t>(sampling.logit_bias.size()),
        static_cast<int32_t>(sampling.stop_token_ids.size()), 0};
    words.insert(words.end(), history.begin(), history.end());
    for (const auto& [id, bias] : sampling.logit_bias) {
      words.push_back(id);
      words.push_back(real(bias));
    }
    words.insert(words.end(), sampling.stop_token_ids.begin(), sampling.stop_token_ids.end());
    return operation(longhaul::kOpOpen, words);
  }
  PlanPacket& close(int32_t slot) { return operation(longhaul::kOpClose, {slot}); }
  PlanPacket& append(int32_t slot, int32_t group, const std::vector<int32_t>& ids) {
    std::vector<int32_t> words = {slot, group, static_cast<int32_t>(ids.size())};
    words.insert(words.end(), ids.begin(), ids.end());
    return operation(longhaul::kOpAppend, words);
  }
  PlanPacket& replace_range(int32_t slot, int32_t group, int32_t first,
                            const std::vector<int32_t>& ids) {
    std::vector<int32_t> words = {slot, group, first, static_cast<int32_t>(ids.size())};
    words.insert(words.end(), ids.begin(), ids.end());
    return operation(longhaul::kOpReplaceRange, words);
  }
  PlanPacket& drop_prefix(int32_t slot, int32_t group, int32_t count) {
    return operation(longhaul::kOpDropPrefix, {slot, group, count});
  }
  PlanPacket& operation(int32_t opcode, const std::vector<int32_t>& arguments) {
    operations_.push_back(opcode);
    operations_.push_back(static_cast<int32_t>(arguments.size()) + 2);
    operations_.insert(operations_.end(), arguments.begin(), arguments.end());
    return *this;
  }
  PlanPacket& row(int32_t slot, int32_t sequence_id, int32_t start_position,
                  const std::vector<int32_t>& tokens, int32_t flags = 0, int32_t next_token = -1) {
    const int32_t words[longhaul::kSequenceWords] = {
        slot, sequence_id, static_cast<int32_t>(tokens.size()), start_position, flags, next_token,
        0, 0};
    sequences_.insert(sequences_.end(), words, words + longhaul::kSequenceWords);
    for (size_t i = 0; i < tokens.size(); ++i) {
      tokens_.push_back(tokens[i]);
      positions_.push_back(start_position + static_cast<int32_t>(i));
    }
    return *this;
  }
  PlanPacket& copy(int32_t from, int32_t to) {
    copies_.push_back(from);
    copies_.push_back(to);
    return *this;
  }

  std::vector<int32_t> words() const {
    std::vector<int32_t> out(longhaul::kPlanHeaderWords, 0);
    for (const auto* part : {&operations_, &sequences_, &tokens_, &positions_, &copies_}) {
      out.insert(out.end(), part->begin(), part->end());
    }
    out[longhaul::kPlanMagicWord] = longhaul::kPlanMagic;
    out[longhaul::kPlanVersionWord] = longhaul::kPlanVersion;
    out[longhaul::kPlanStepId] = step_id_;
    out[longhaul::kPlanNumOperationWords] = static_cast<int32_t>(operations_.size());
    out[longhaul::kPlanNumSequences] =
        static_cast<int32_t>(sequences_.size()) / longhaul::kSequenceWords;
    out[longhaul::kPlanNumTokens] = static_cast<int32_t>(tokens_.size());
    out[longhaul::kPlanNumPositionRows] = 1;
    out[longhaul::kPlanNumCopies] = static_cast<int32_t>(copies_.size()) / 2;
    out[longhaul::kPlanTotalWords] = static_cast<int32_t>(out.size());
    return out;
  }

 private:
  int32_t step_id_;
  std::vector<int32_t> operations_, sequences_, tokens_, positions_, copies_;
};

struct ResultToken {
  int32_t id = -1;
  float logprob = 0;
  int32_t rank = 0;
  std::vector<std::pair<int32_t, float>> top;
};

struct ResultRecord {
  int32_t slot = 0, sequence_id = 0, status = 0;
  std::vector<ResultToken> sampled, prompt;
};

// Reads a packet the engine wrote; lengths are trusted but for the total, which must come out.
inline std::vector<ResultRecord> read_result(const std::vector<int32_t>& words) {
  using namespace longhaul;
  std::vector<ResultRecord> records;
  if (words.size() < kResultHeaderWords || words[kResultMagicWord] != kResultMagic ||
      words[kResultTotalWords] != static_cast<int32_t>(words.size())) {
    return records;
  }
  size_t at = kResultHeaderWords;
  const auto tokens = [&](std::vector<ResultToken>& out, int32_t count, int32_t num_top) {
    for (int32_t i = 0; i < count; ++i, at += 3) {
      out.push_back({words[at], std::bit_cast<float>(words[at + 1]), words[at + 2], {}});
    }
    for (ResultToken& token : out) {
      for (int32_t i = 0; i < num_top; ++i, at += 2) {
        token.top.emplace_back(words[at], std::bit_cast<float>(words[at + 1]));
      }
    }
  };
  for (int32_t i = 0; i < words[kResultNumSequences]; ++i) {
    ResultRecord record;
    const int32_t* head = words.data() + at;
    record.slot = head[kRecordSlot];
    record.sequence_id = head[kRecordSequenceId];
    record.status = head[kRecordStatus];
    at += kRecordWords;
    tokens(record.sampled, head[kRecordNumSampled], head[kRecordNumTop]);
    tokens(record.prompt, head[kRecordNumPromptRows], head[kRecordNumPromptTop]);
    records.push_back(std::move(record));
  }
  if (at != words.size()) records.clear();
  return records;
}

}  // namespace lh_test
