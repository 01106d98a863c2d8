// The inner loops of attention, one table for each instruction set. All tables give the same bits.
//
// Arithmetic of one (query row, slice of kSliceTokens keys):
//   q      = query * q_scale, rounded once
//   s_t    = even_t + odd_t; even_t = fma(q[2i], k[t][2i], even_t) over ascending i, odd_t likewise
//            with a softcap: s_t = cap * tanh(s_t); q_scale and cap are chosen so that s_t counts
//            powers of two
//   m      = max s_t over visible keys
//   p_t    = exp2(s_t - m), exactly 0 for keys that are not visible
//   l      = 16 lanes, lane t % 16 adds p_t in ascending t; then halves are added until one is left
//   o[c]   = fma(p_t, v[t][c], o[c]) over visible t ascending
// A partial is {o[head_dim], m, l}. Two of them merge as a (earlier) with b (later):
//   m = max(m_a, m_b), f = exp2(m_a - m), g = exp2(m_b - m), l = fma(l_b, g, l_a * f), o likewise.
//
// Plain data and declarations only: this header is read by files compiled for other instruction
// sets (attention_lanes.h says why that matters).
#pragma once

#include <cstddef>
#include <cstdint>

namespace longhaul::cpu {

constexpr int32_t kSliceKeys = 512;        // kSliceTokens of attention_work.h
constexpr int32_t kSliceBlocksMax = 16;    // of at least 32 tokens
constexpr int32_t kQueryRowsMax = 12;      // most query rows any table takes at once

struct AttentionSliceArgs {
  int32_t num_rows = 0;             // 1 .. AttentionKernels::query_rows
  const float* q = nullptr;         // [head_dim / 2][num_rows][2], times q_scale
  // Visible keys of each row inside the slice, first[r] <= t < last[r]; first == last: none, and
  // the row's partial is not written.
  const int32_t* first = nullptr;
  const int32_t* last = nullptr;
  // K of this kv head in each block of the slice (kv_store.h has the order of elements); null for
  // blocks without a visible key. V begins values_offset elements later.
  const uint16_t* const* blocks = nullptr;
  int64_t values_offset = 0;
  const uint16_t* next_keys = nullptr;  // K of the next slice's first block, to prefetch; or null
  int32_t block_size = 0;
  int32_t head_dim = 0;
  bool f16 = false;                 // else bf16
  float softcap = 0;                // 0 = none
  float* scores = nullptr;          // scratch [num_rows][kSliceKeys]
  float* const* partials = nullptr; // [num_rows] out, each [head_dim + 2]
};

struct AttentionKernels {
  int32_t query_rows;               // best number of query rows a call
  void (*slice)(const AttentionSliceArgs& args);
  void (*merge)(float* into, const float* later, int32_t head_dim);
  // out[head_dim] = o / l
  void (*finish)(const float* partial, float* out, int32_t head_dim);
};

const AttentionKernels& attention_kernels_scalar();
const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();

}  // namespace longhaul::cpu
