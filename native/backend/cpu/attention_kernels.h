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
//
// With 8-bit keys and values (kv_store.h), all products of channels are exact integers:
//   q8, dq = the query rounded to 8 bit (RowOps::quantize), dq times q_scale
//   s_t    = (float(sum_c q8[c] k8[t][c]) * dk[t]) * dq, then the softcap, m, p_t and l as above
//   w_t    = p_t * dv[t]
//   u_t    = round(w_t * (255 / max w)), the largest of each kWeightBlock keys at absolute
//            positions; 0 in a block whose largest is below 2^-100
//   o[c]   = fma(float(sum_t u_t v8[t][c]), max w / 255, o[c]) over ascending weight blocks
// A weight block keeps the rounding of small weights relative to their neighbors: rounded against
// the whole slice, those beside an attention sink would all be zero.
//
// A partial is {o[head_dim], m, l}. Two of them merge as a (earlier) with b (later):
//   m = max(m_a, m_b), f = exp2(m_a - m), g = exp2(m_b - m), l = fma(l_b, g, l_a * f), o likewise.
//
// Plain data and declarations only: this header is read by files compiled for other instruction
// sets (attention_lanes.h says why that matters).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kv/kv_dtype.h"

namespace longhaul::cpu {

constexpr int32_t kSliceKeys = 512;        // kSliceTokens of attention_work.h
constexpr int32_t kSliceBlocksMax = 16;    // of at least 32 tokens
constexpr int32_t kQueryRowsMax = 16;      // most query rows any table takes at once
constexpr int32_t kTileQueryRowsMin = 6;   // fewer are not worth AMX tiles
constexpr int32_t kWeightBlock = 64;       // keys whose 8-bit weights share a scale
constexpr float kWeightTiny = 0x1p-100f;   // 255 / max w must stay finite

struct AttentionSliceArgs {
  int32_t num_rows = 0;             // 1 .. AttentionKernels::query_rows (8 bit: query_rows8)
  const float* q = nullptr;         // 16 bit: [head_dim / 2][num_rows][2], times q_scale
  const int8_t* q8 = nullptr;       // 8 bit: as pack_queries8 left them
  const float* q8_scales = nullptr; // 8 bit: [num_rows] dq
  const int32_t* q8_sums = nullptr; // 8 bit: [num_rows] sum_c q8[c]
  // Visible keys of each row inside the slice, first[r] <= t < last[r]; first == last: none, and
  // the row's partial is not written.
  const int32_t* first = nullptr;
  const int32_t* last = nullptr;
  // K of this kv head in each block of the slice (kv_store.h has the order of elements). Null is
  // allowed before the first and behind the last key that some row sees, not between them. V begins
  // values_offset bytes later.
  const std::byte* const* blocks = nullptr;
  int64_t values_offset = 0;
  // K in blocks of the next slice, to prefetch; null after the last.
  const std::byte* const* next_blocks = nullptr;  // [kSliceBlocksMax]
  int32_t block_size = 0;
  int32_t head_dim = 0;
  KvDType dtype = KvDType::kF16;
  float softcap = 0;                // 0 = none
  // Scratch, written beyond num_rows too.
  float* scores = nullptr;          // [kQueryRowsMax][kSliceKeys]
  uint8_t* weights8 = nullptr;      // 8 bit: [kQueryRowsMax][kSliceKeys]
  float* const* partials = nullptr; // [num_rows] out, each [head_dim + 2]
};

struct AttentionKernels {
  int32_t query_rows;               // best number of query rows a call
  int32_t query_rows8;              // the same for slice8
  void (*slice)(const AttentionSliceArgs& args);
  // The same with 8-bit keys and values. Queries are reordered for it once: q8 [num_rows,
  // head_dim] to packed, which has room for 4 * num_rows * head_dim bytes.
  void (*slice8)(const AttentionSliceArgs& args);
  void (*pack_queries8)(const int8_t* q8, int32_t num_rows, int32_t head_dim, int8_t* packed);
  void (*merge)(float* into, const float* later, int32_t head_dim);
  // out[head_dim] = o / l
  void (*finish)(const float* partial, float* out, int32_t head_dim);
  // Null, or what a thread calls before its first slice8 of kTileQueryRowsMin rows or more and
  // after its last. In between it may call everything here, and no other kernels with tiles.
  void (*enter)(int32_t head_dim) = nullptr;
  void (*leave)() = nullptr;
};

const AttentionKernels& attention_kernels_scalar();
const AttentionKernels& attention_kernels_avx2();
const AttentionKernels& attention_kernels_avx512();
const AttentionKernels& attention_kernels_amx();  // slice8 with tiles, else those of AVX-512

}  // namespace longhaul::cpu
