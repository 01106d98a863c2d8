// sample_row: one row of logits to one token, on the host. Used by every backend whose logits are
// in host memory.
#pragma once

#include <cstdint>

#include "backend/backend.h"

namespace longhaul {

// logits [vocab_size]; may be edited meanwhile, but holds its values again on return. Fills
// row.token, row.top and row.finite (none may be null, top only when num_top is 0). Thread-safe for
// different rows.
//
// Order: log-probabilities of the raw distribution; then logit_bias, min_tokens' ban, repetition
// penalty, frequency and presence penalties; then greedy, or temperature, min_p, top_k, top_p (each
// on the distribution renormalized by the one before) and one Philox draw keyed (seed, position).
// Ties go to the lowest id everywhere.
void sample_row(float* logits, int32_t vocab_size, SampleRow& row);

}  // namespace longhaul
