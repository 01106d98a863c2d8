// Products: which of the ways of multiplying rows with a resident matrix is taken (the table of
// kernels/matmul.h), and what it needs around it. Matrices whose parts have different formats are
// several pieces, each multiplied with the rows in the form that it reads.
//
// Row counts are buckets (row_bucket.h), so that every dense product's shape is known beforehand:
// prepare_*() goes through the same code and has the runtime choose algorithms instead of
// multiplying.
#pragma once

#include <cstdint>
#include <set>
#include <tuple>

#include "backend/cuda/cuda_matrix.h"
#include "backend/cuda/device_runtime.h"
#include "matmul.h"
#include "product_input.h"
#include "status.h"

namespace longhaul::cuda {

// Rows that a product reads, made in the form that it asks for. What one call gave is valid until
// the next.
class InputSource {
 public:
  virtual ~InputSource() = default;
  virtual Result<device::ProductInput> rows_as(device::InputForm form) = 0;
};

struct ProductScratch {
  // f16 rows of quantized matrices, a range at a time.
  void* dequantized = nullptr;
  int64_t dequantized_bytes = 0;
  // Columns of gate and up before they are multiplied, a range at a time.
  float* gated = nullptr;
  int64_t gated_floats = 0;
  float* partials = nullptr;     // [kQuantPartials]
  int32_t* counters = nullptr;   // [kQuantCounters], zero
};

class Products {
 public:
  Products(DeviceRuntime& runtime, Stream stream) : runtime_(runtime), stream_(stream) {}
  void set_scratch(const ProductScratch& scratch) { scratch_ = scratch; }

  // The form in which a product of `rows` rows reads its input; kF32 when its pieces differ.
  static device::InputForm form_of(const CudaMatrix& matrix, int32_t rows);
  // Whether multiply_gated() can only write f32.
  static bool writes_f32(const CudaMatrix& matrix, int32_t rows);

  // y (+)= x w^T, softcap > 0: capped. kStore and kAdd only.
  Status multiply(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                  device::Epilogue epilogue, float softcap, float* y, int64_t y_stride);
  // out = activation(x gate^T) * (x up^T) for a matrix made with MatrixUse::kGatedUp.
  Status multiply_gated(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                        Activation activation, const device::ProductInput& out);

  // The shapes of multiply() and multiply_gated() with these arguments.
  Status prepare(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                 device::Epilogue epilogue, float* y, int64_t y_stride);
  Status prepare_gated(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                       const device::ProductInput& out);

  // Columns of gate (and of up) that fit in the scratch at a time: all of them, or a multiple of 64.
  static int64_t gated_columns(int64_t gated_floats, int32_t rows, int64_t columns);

 private:
  struct Output {
    device::Epilogue epilogue = device::Epilogue::kStore;
    float softcap = 0;
    float* y = nullptr;
    int64_t stride = 0;
  };

  Status piece(const device::WeightMatrix& w, const device::ProductInput& x, int32_t rows,
               const Output& output);
  Status own_kernel(const device::WeightMatrix& w, const device::ProductInput& x, int32_t rows,
                    const Output& output);
  Status dense(DenseType type, const void* w, int32_t out, int32_t cols,
               const device::ProductInput& x, int32_t rows, const Output& output);
  Status dequantized(const device::WeightMatrix& w, const device::ProductInput& x, int32_t rows,
                     const Output& output);
  // Tiles whose f16 rows fit in the scratch.
  int32_t tiles_at_a_time(const device::WeightMatrix& w) const;

  Status gate_in_kernel(const CudaMatrix& matrix, const device::ProductInput& x, int32_t rows,
                        Activation activation, const device::ProductInput& out);
  Status gate_pair(const CudaMatrix& matrix, const device::ProductInput& x, int32_t rows,
                   Activation activation, const device::ProductInput& out);
  Status gate_dequantized(const CudaMatrix& matrix, const device::ProductInput& x, int32_t rows,
                          Activation activation, const device::ProductInput& out);
  Status gate_apart(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                    Activation activation, const device::ProductInput& out);
  // Columns [first, first + columns) of out from the scratch: [rows, columns] of gate and of up,
  // side by side.
  Status gate(int32_t rows, int64_t first, int64_t columns, Activation activation,
              const device::ProductInput& out);

  DeviceRuntime& runtime_;
  Stream stream_;
  ProductScratch scratch_;
  bool preparing_ = false;
  using Shape = std::tuple<DenseType, int32_t, int32_t, int32_t, int64_t, int64_t, int64_t, bool>;
  std::set<Shape> prepared_;
};

}  // namespace longhaul::cuda
