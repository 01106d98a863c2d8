// The inner functions of prepare_rows() and matmul(), one set per instruction set, all with the
// same bits (the contract stands in matmul.h). Plain data and function pointers only: this header
// is included by files compiled for one instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/packed_matrix_layout.h"

namespace longhaul::cpu {

// 256 columns of one activation row, quantized per 32. Chunks of one column range lie together:
// chunk c of token t is chunks[c * num_tokens + t]. In the last chunk of a row only the blocks
// that exist are written.
struct alignas(64) ActivationChunk {
  int8_t quants[kChunkCols];
  float d[kChunkBlocks];                // max|x| / 127
  float s[kChunkBlocks];                // d * sum(quants)
  int32_t half_sums[2 * kChunkBlocks];  // sum(quants) per 16
};

// 256 columns of one strip, ready to be multiplied: bytes and f32 scales.
struct alignas(64) ExpandedChunk {
  // [slice][group][4 * row + i]; unsigned, quant + offset, or for AMX the quants themselves, as s8
  uint8_t quants[kChunkCols / 4][2][64];
  float scales[2 * kChunkBlocks][kStripRows];  // per 32 columns, or per 16 (ScaleMode::kHalves)
  float mins[kChunkBlocks][kStripRows];        // ScaleMode::kMin
};

// Activations below this count as zero: 127 / max must stay finite.
constexpr float kQuantTiny = 0x1p-100f;

// Tokens of one AMX tile.
constexpr int kRowTile = 16;

enum class OutputKind : int { kStore, kAdd, kSiluMul, kGeluMul, kSoftcap };

struct OutputParams {
  float* y;          // of the first token of the tile
  int64_t y_stride;  // elements
  OutputKind kind;
  float softcap;
};

struct MatmulKernels {
  // One row: normalized with `norm` when not null; f32 copy to `floats` when not null (cols
  // rounded up to even, padded with 0); quantized to chunks[c * chunk_stride] when not null.
  void (*prepare)(const float* x, int cols, const float* norm, float eps, float* floats,
                  ActivationChunk* chunks, int64_t chunk_stride);

  // Group `half` of a strip, blocks [0, blocks) of chunk `chunk`.
  void (*expand)(DType dtype, const std::byte* group, const GroupLayout& layout, int64_t chunk,
                 int blocks, int half, ExpandedChunk* out);

  // acc[t][lane] += the chunk's product, t < tokens; acc is [tokens][kStripRows]. `weights` come
  // from the same kernels' expand. Rows up to the next multiple of kRowTile are read, not used:
  // they must be there.
  void (*multiply)(const ExpandedChunk& weights, int blocks, ScaleMode mode, int offset,
                   const ActivationChunk* rows, int tokens, float* acc);

  // acc = the whole product of both groups, unpacked in registers; tokens <= packed_tokens_max.
  // Null where going through `expand` is as good.
  void (*multiply_packed)(const Strip& strip, const GroupLayout& layout, int64_t cols,
                          const ActivationChunk* rows, int tokens, int64_t chunk_stride,
                          float* acc);

  // acc = the whole product of both groups of float weights; rows are padded to even columns.
  void (*multiply_floats)(const Strip& strip, int64_t cols, const float* rows, int64_t row_stride,
                          int tokens, float* acc);

  // The epilogue: acc [tokens][kStripRows] to y.
  void (*finish)(const Strip& strip, const float* acc, int tokens, const OutputParams& out);

  // Up to this many tokens workers take runs of neighboring strips, and `multiply_packed` where
  // there is one.
  int packed_tokens_max = 12;

  // State of the thread that `multiply` needs, once around many calls; null where it needs none.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
};

const MatmulKernels& scalar_matmul_kernels();
#if defined(__x86_64__)
const MatmulKernels& avx2_matmul_kernels();
const MatmulKernels& avx512_matmul_kernels();
const MatmulKernels& amx_matmul_kernels();

// `expand` with quants as s8.
void expand_signed_avx512(DType dtype, const std::byte* group, const GroupLayout& layout,
                          int64_t chunk, int blocks, int half, ExpandedChunk* out);
#endif

}  // namespace longhaul::cpu
