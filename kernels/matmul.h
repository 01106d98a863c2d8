// What the matrix products of our own share: y = epilogue(x w^T) for a resident weight matrix and
// rows that an operation wrote as a ProductInput. Which of the ways fits is the caller's choice:
//
//   rows                quantized weights                      dense weights
//   1 .. 8              matmul_gemv                            matmul_gemv
//   9 .. kQuantRowsMax  matmul_quant                           DeviceRuntime::dense
//   more                dequantize, then DeviceRuntime::dense  DeviceRuntime::dense
//
// Rows of x do not influence each other. Results are deterministic: sums over parts of K are added
// in a fixed order. Another path or another number of rows may round differently.
#pragma once

#include <cstdint>

#include "launch.h"
#include "product_input.h"
#include "weight_layout.h"

namespace longhaul::device {

constexpr int32_t kGemvRowsMax = 8;
// Up to here multiplying quantized weights directly is expected to be faster than expanding them.
// Of 28672 x 4096 (Q4_0) matmul_quant takes about 52 us for each 64 rows; expanding takes 100 us,
// the dense product at least the 80 us of reading what was expanded: equal at some 220 rows.
constexpr int32_t kQuantRowsMax = 192;

// The form in which x must be given.
inline InputForm input_form(WeightFormat format) {
  return format == WeightFormat::kF16    ? InputForm::kF16
         : format == WeightFormat::kBF16 ? InputForm::kBF16
                                         : InputForm::kQ8;
}

enum class Epilogue : int32_t {
  kStore,    // y = x w^T
  kAdd,      // y += x w^T
  kSiluMul,  // paired matrices: y = silu(gate) * up, rows / 2 columns
  kGeluMul,  // the same with the tanh form of GELU
  kSoftcap,  // y = softcap * tanh(x w^T / softcap)
};

struct MatmulParams {
  WeightMatrix w;
  // [rows, w.cols], of input_form(w.format). f16 and bf16: stride a multiple of 8, data 16-byte
  // aligned. q8: stride a multiple of 64 and at least w.cols rounded up to that (quantize_block.cuh
  // fills the rest), data and scales 16-byte aligned.
  ProductInput x;
  int32_t rows = 0;
  Epilogue epilogue = Epilogue::kStore;
  float softcap = 0;     // kSoftcap: > 0
  float* y = nullptr;    // [rows, w.rows], of kSiluMul and kGeluMul [rows, w.rows / 2]
  int64_t y_stride = 0;  // elements, any; y needs no alignment
  // matmul_quant alone: scratch to split K between blocks when the matrix has few rows. Products
  // that use the same scratch run one after another. Null: K is not split.
  float* partials = nullptr;    // [kQuantPartials]
  int32_t* counters = nullptr;  // [kQuantCounters], zero before the first use and after each
  // matmul_quant: what a block may have of shared memory (DeviceProperties::shared_bytes_max).
  // Under 114 KB (compute capability 8.6, 8.9) some formats take 32 instead of 64 rows of x at a
  // time.
  int32_t shared_bytes_max = 227 * 1024;
};

// A split product has at most kQuantSplitBlocks blocks of 64 rows by 64 tokens.
constexpr int32_t kQuantSplitBlocks = 132;
constexpr int64_t kQuantPartials = int64_t{kQuantSplitBlocks} * 64 * 64;
constexpr int32_t kQuantCounters = kQuantSplitBlocks;

}  // namespace longhaul::device
