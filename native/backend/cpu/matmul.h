// Quantized and float matrix products of the CPU backend.
//
// Arithmetic contract, one for every ISA, batch size and thread count (same bits everywhere):
//  * quantized weights (Q8_0 .. Q6_K): each activation row is quantized per 32 elements to int8,
//    d = max|x| / 127 (f32), q = round-to-nearest-even(x * (127 / max|x|)); blocks whose max|x| is
//    below 2^-100 count as zero, one that holds an infinity or NaN gets d = NaN (so that it shows
//    in every result). Products inside a block are exact int32; then, in ascending block order,
//    acc = fma(float(isum), w_scale * d, acc) and, for types with a minimum,
//    acc = fma(w_min, s, acc) with s = d * float(sum q). Q6_K scales per 16.
//  * F32/F16/BF16 weights: acc = fma(w, x, acc) over even k and over odd k in ascending order,
//    two chains in f32, added at the end (the order TDPBF16PS-friendly layouts give).
//  * K is never split between threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "backend/cpu/thread_pool.h"
#include "status.h"
#include "tensor.h"

namespace longhaul::cpu {

// Weight rows in groups of 16 (lane = row), quants kept at their own width in the VNNI order
// [K/4][16][4], scales 16 wide. Details in packed_matrix.h.
class PackedMatrix;

struct PackedMatrixDeleter {
  void operator()(PackedMatrix* matrix) const;
};
using PackedMatrixPtr = std::unique_ptr<PackedMatrix, PackedMatrixDeleter>;

// Parts share cols; rows are stacked. interleave (exactly two parts of one dtype and shape): 16
// rows of the first, 16 of the second, and so on. kModelFormat for shapes a dtype cannot hold.
Result<PackedMatrixPtr> pack_matrix(std::span<const TensorView> parts, bool interleave,
                                    ThreadPool& pool);
int64_t packed_rows(const PackedMatrix& matrix);
int64_t packed_cols(const PackedMatrix& matrix);
int64_t packed_bytes(const PackedMatrix& matrix);

// out[cols] = row `row` of the matrix, dequantized exactly, times scale.
void gather_row(const PackedMatrix& matrix, int64_t row, float scale, float* out);

// Activations ready to be multiplied: f32 rows and, when the matrix needs them, int8 rows with
// scales. Buffers grow to the largest step and stay.
class ActivationRows {
 public:
  ActivationRows();
  ~ActivationRows();
  struct State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// rows of x (or x[row_indices[i]] when not null), RMS-normalized with `norm` when not null:
// n = x * (1 / sqrt(mean(x^2) + eps)) * norm, statistics summed in f32 over a fixed 16-lane tree.
struct PrepareParams {
  const float* x = nullptr;
  int64_t x_stride = 0;                  // elements
  const int32_t* row_indices = nullptr;  // may be null
  int32_t num_tokens = 0;
  int32_t cols = 0;
  const float* norm = nullptr;  // may be null
  float eps = 0;
};

enum class Epilogue {
  kStore,    // y = W a
  kAdd,      // y += W a
  kSiluMul,  // interleaved gate/up: y = silu(gate) * up, y has rows / 2 columns
  kGeluMul,  // the same with tanh-approximated GELU
  kSoftcap,  // y = cap * tanh(W a / cap)
};

struct MatmulParams {
  const PackedMatrix* weight = nullptr;
  float* y = nullptr;    // [num_tokens, rows]
  int64_t y_stride = 0;  // elements
  Epilogue epilogue = Epilogue::kStore;
  float softcap = 0;
};

// Prepares rows once for one or more matmuls with the same input; quantizes only when `weight`
// is quantized.
void prepare_rows(const PrepareParams& params, const PackedMatrix& weight, Isa isa,
                  ActivationRows& rows, ThreadPool& pool);
void matmul(const MatmulParams& params, ActivationRows& rows, Isa isa, ThreadPool& pool);

}  // namespace longhaul::cpu
