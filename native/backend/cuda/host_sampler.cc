#include "backend/cuda/host_sampler.h"

#include <algorithm>

#include "sampler/sampler.h"

namespace longhaul::cuda {

HostSampler::~HostSampler() {
  runtime_.release(logits_);
  runtime_.release(tokens_);
}

Status HostSampler::open(int32_t vocab_size, int32_t rows_max) {
  vocab_size_ = vocab_size;
  rows_max_ = rows_max;
  const int64_t bytes = int64_t{rows_max} * vocab_size * 4;
  LH_ASSIGN_OR_RETURN(void* const logits, runtime_.allocate_pinned(bytes, "logits on the host"));
  logits_ = static_cast<float*>(logits);
  LH_ASSIGN_OR_RETURN(void* const tokens,
                      runtime_.allocate_pinned(int64_t{rows_max} * 4, "tokens of the host"));
  tokens_ = static_cast<int32_t*>(tokens);
  return {};
}

Status HostSampler::sample(const float* logits, std::span<SampleRow> rows, int32_t* last_tokens) {
  const int64_t row_bytes = int64_t{vocab_size_} * 4;
  for (size_t first = 0; first < rows.size(); first += static_cast<size_t>(rows_max_)) {
    const size_t count = std::min(rows.size() - first, static_cast<size_t>(rows_max_));
    for (size_t i = 0; i < count; ++i) {
      const float* const row = logits + rows[first + i].logits_row * int64_t{vocab_size_};
      LH_TRY(runtime_.copy_to_host(logits_ + static_cast<int64_t>(i) * vocab_size_, row, row_bytes,
                                   compute_));
    }
    // Also the tokens of the rows before these have left their page-locked memory.
    LH_TRY(runtime_.synchronize(compute_));
    for (size_t i = 0; i < count; ++i) {
      SampleRow& row = rows[first + i];
      sample_row(logits_ + static_cast<int64_t>(i) * vocab_size_, vocab_size_, row);
      if (!row.sample) continue;
      // A row without a token has 0, as with the kernel: a step queued behind may name the slot.
      tokens_[i] = std::max(row.token->token_id, 0);
      LH_TRY(runtime_.copy_to_device(last_tokens + row.slot, tokens_ + i, 4, compute_));
    }
  }
  return {};
}

}  // namespace longhaul::cuda
