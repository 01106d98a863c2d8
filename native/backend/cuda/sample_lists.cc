#include "backend/cuda/sample_lists.h"

#include <algorithm>
#include <cstring>

#include "backend/cuda/device_arena.h"

namespace longhaul::cuda {
namespace {

// Lists of a step beyond this are sampled on the host: a megabyte holds the distinct tokens of
// sixteen prompts of 16,384.
constexpr int64_t kListBytes = int64_t{1} << 20;

constexpr int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }
template <typename T>
int64_t bytes_of(const std::vector<T>& list) {
  return aligned(static_cast<int64_t>(list.size() * sizeof(T)));
}
template <typename T>
std::byte* put(const std::vector<T>& list, std::byte* to) {
  if (!list.empty()) std::memcpy(to, list.data(), list.size() * sizeof(T));
  return to + bytes_of(list);
}

bool is_banning(const SampleRow& row) {
  return row.position - row.params->num_prompt_tokens < row.params->min_tokens;
}

int64_t list_bytes(const SampleRow& row) {
  const SamplingParams& params = *row.params;
  size_t bytes = params.logit_bias.size() * sizeof(device::TokenBias);
  if (is_banning(row)) bytes += params.stop_token_ids.size() * sizeof(int32_t);
  if (row.counts) {
    bytes += row.counts->prompt.size() * sizeof(int32_t);
    bytes += row.counts->output.size() * sizeof(device::TokenCount);
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace

int64_t SampleLists::step_bytes(int32_t num_rows, int32_t slab_rows) {
  const int64_t slabs = num_rows / std::max(slab_rows, 1) + 2;
  // A slab has up to three uploads: its logits' rows, known tokens, draws. Four lists each.
  return num_rows * int64_t{sizeof(device::SampleRowInput) + sizeof(int32_t)} + kListBytes +
         slabs * 3 * (kDeviceAlignment + 4 * 16) + slabs * 4 * slab_rows;
}

void SampleLists::begin_step() { list_bytes_left_ = kListBytes; }

void SampleLists::clear() {
  rows_.clear();
  biases_.clear();
  counts_.clear();
  ids_.clear();
  stages_ = 0;
  any_top_ = false;
}

bool SampleLists::add(const SampleRow& row) {
  if (row.num_top > device::kSampleTopMax) return false;
  const int64_t more = row.sample ? list_bytes(row) : 0;
  if (more > list_bytes_left_) return false;
  list_bytes_left_ -= more;

  const SamplingParams& params = *row.params;
  device::SampleRowInput input;
  input.logits_row = row.logits_row;
  input.position = row.position;
  input.num_top = row.num_top;
  input.wants_logprob = !row.sample || row.num_top > 0 || params.num_logprobs >= 0;
  if (row.sample) {
    input.slot = row.slot;
    input.seed = params.seed;
    input.temperature = params.temperature;
    input.top_p = params.top_p;
    input.min_p = params.min_p;
    input.top_k = params.top_k;
    input.bias_begin = static_cast<int32_t>(biases_.size());
    add_biases(params);
    input.num_biases = static_cast<int32_t>(biases_.size()) - input.bias_begin;
    if (is_banning(row)) {
      input.ban_begin = static_cast<int32_t>(ids_.size());
      ids_.insert(ids_.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
      input.num_bans = static_cast<int32_t>(params.stop_token_ids.size());
    }
    if (row.counts) {
      input.repetition_penalty = params.repetition_penalty;
      input.frequency_penalty = params.frequency_penalty;
      input.presence_penalty = params.presence_penalty;
      input.prompt_begin = static_cast<int32_t>(ids_.size());
      input.num_prompt = static_cast<int32_t>(row.counts->prompt.size());
      ids_.insert(ids_.end(), row.counts->prompt.begin(), row.counts->prompt.end());
      input.output_begin = static_cast<int32_t>(counts_.size());
      input.num_output = static_cast<int32_t>(row.counts->output.size());
      for (const auto& [id, count] : row.counts->output) counts_.push_back({id, count});
    }
  } else {
    input.known_token = row.known_token;
  }
  stages_ |= device::sample_stages(input);
  any_top_ |= row.num_top > 0;
  rows_.push_back(input);
  return true;
}

// The kernel wants each id once; a request may name it twice, and then both biases count.
void SampleLists::add_biases(const SamplingParams& params) {
  const auto begin = static_cast<int64_t>(biases_.size());
  for (const auto& [id, bias] : params.logit_bias) biases_.push_back({id, bias});
  const auto first = biases_.begin() + begin;
  std::stable_sort(first, biases_.end(), [](const device::TokenBias& a, const device::TokenBias& b) {
    return a.token_id < b.token_id;
  });
  auto kept = first;
  for (auto next = first; next != biases_.end(); ++next) {
    if (kept != first && (kept - 1)->token_id == next->token_id) {
      (kept - 1)->bias += next->bias;
    } else {
      *kept++ = *next;
    }
  }
  biases_.erase(kept, biases_.end());
}

int64_t SampleLists::bytes() const {
  return bytes_of(rows_) + bytes_of(biases_) + bytes_of(counts_) + bytes_of(ids_);
}

void SampleLists::encode(std::byte* to) const {
  put(ids_, put(counts_, put(biases_, put(rows_, to))));
}

void SampleLists::fill(const std::byte* device, device::SampleParams* params) const {
  const std::byte* const biases = device + bytes_of(rows_);
  const std::byte* const counts = biases + bytes_of(biases_);
  params->rows = reinterpret_cast<const device::SampleRowInput*>(device);
  params->num_rows = num_rows();
  params->biases = reinterpret_cast<const device::TokenBias*>(biases);
  params->counts = reinterpret_cast<const device::TokenCount*>(counts);
  params->ids = reinterpret_cast<const int32_t*>(counts + bytes_of(counts_));
  params->stages = stages_;
}

}  // namespace longhaul::cuda
