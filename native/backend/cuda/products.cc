#include "backend/cuda/products.h"

#include <algorithm>
#include <cstddef>

#include "backend/cuda/launch_status.h"
#include "dequantize.h"
#include "matmul_gemv.h"
#include "matmul_quant.h"
#include "silu_mul.h"
#include "softcap.h"

namespace longhaul::cuda {
namespace {

using device::Epilogue;
using device::InputForm;
using device::ProductInput;
using device::WeightMatrix;

InputForm piece_form(const DevicePiece& piece, int32_t rows) {
  // Expanded to f16 for dense products.
  if (!device::is_dense(piece.format) && rows > device::kQuantRowsMax) return InputForm::kF16;
  return device::input_form(piece.format);
}

bool is_expanded(device::WeightFormat format, int32_t rows) {
  return !device::is_dense(format) && rows > device::kQuantRowsMax;
}

DenseType dense_type(device::WeightFormat format) {
  return format == device::WeightFormat::kF16 ? DenseType::kF16 : DenseType::kBF16;
}

device::GateActivation gate_activation(Activation activation) {
  return activation == Activation::kSilu ? device::GateActivation::kSilu
                                         : device::GateActivation::kGeluTanh;
}

// The same rows from a later column on; `column` is a multiple of 64.
ProductInput from_column(ProductInput rows, int64_t column) {
  const int64_t bytes = rows.form == InputForm::kF32 ? 4 : rows.form == InputForm::kQ8 ? 1 : 2;
  rows.data = static_cast<std::byte*>(rows.data) + column * bytes;
  if (rows.form == InputForm::kQ8) {
    rows.scales += column / device::kBlockCols;
    rows.sums += column / device::kBlockCols;
  }
  return rows;
}

}  // namespace

InputForm Products::form_of(const CudaMatrix& matrix, int32_t rows) {
  const InputForm form = piece_form(matrix.layout.pieces[0], rows);
  for (const DevicePiece& piece : matrix.layout.pieces) {
    if (piece_form(piece, rows) != form) return InputForm::kF32;
  }
  return form;
}

bool Products::writes_f32(const CudaMatrix& matrix, int32_t rows) {
  const DevicePiece& piece = matrix.layout.pieces[0];
  if (!piece.paired) return false;
  return rows <= device::kGemvRowsMax ||
         (!device::is_dense(piece.format) && rows <= device::kQuantRowsMax);
}

int64_t Products::gated_columns(int64_t gated_floats, int32_t rows, int64_t columns) {
  const int64_t fit = gated_floats / (2 * std::max(rows, 1));
  return fit >= columns ? columns : fit / 64 * 64;
}

Status Products::multiply(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                          Epilogue epilogue, float softcap, float* y, int64_t y_stride) {
  for (const InputForm form : {InputForm::kF16, InputForm::kBF16, InputForm::kQ8}) {
    ProductInput x;
    bool made = false;
    for (size_t i = 0; i < matrix.layout.pieces.size(); ++i) {
      const DevicePiece& part = matrix.layout.pieces[i];
      if (piece_form(part, rows) != form) continue;
      if (!made) {
        LH_ASSIGN_OR_RETURN(x, source.rows_as(form));
      }
      made = true;
      LH_TRY(piece(matrix.piece(i), x, rows, {epilogue, softcap, y + part.first_row, y_stride}));
    }
  }
  return {};
}

Status Products::piece(const WeightMatrix& w, const ProductInput& x, int32_t rows,
                       const Output& output) {
  if (rows <= device::kGemvRowsMax || (!device::is_dense(w.format) && rows <= device::kQuantRowsMax)) {
    return own_kernel(w, x, rows, output);
  }
  if (device::is_dense(w.format)) {
    LH_TRY(dense(dense_type(w.format), w.data, w.rows, w.cols, x, rows, output));
  } else {
    LH_TRY(dequantized(w, x, rows, output));
  }
  if (output.softcap <= 0 || preparing_) return {};
  device::SoftcapParams cap;
  cap.x = output.y;
  cap.stride = output.stride;
  cap.rows = rows;
  cap.cols = w.rows;
  cap.cap = output.softcap;
  return launched(device::launch_softcap(cap, stream_), "softcap");
}

Status Products::own_kernel(const WeightMatrix& w, const ProductInput& x, int32_t rows,
                            const Output& output) {
  if (preparing_) return {};
  device::MatmulParams params;
  params.w = w;
  params.x = x;
  params.rows = rows;
  params.epilogue = output.softcap > 0 ? Epilogue::kSoftcap : output.epilogue;
  params.softcap = output.softcap;
  params.y = output.y;
  params.y_stride = output.stride;
  if (rows <= device::kGemvRowsMax) {
    return launched(device::launch_matmul_gemv(params, stream_), "matmul_gemv");
  }
  params.partials = scratch_.partials;
  params.counters = scratch_.counters;
  params.shared_bytes_max = runtime_.properties().shared_bytes_max;
  return launched(device::launch_matmul_quant(params, stream_), "matmul_quant");
}

Status Products::dense(DenseType type, const void* w, int32_t out, int32_t cols,
                       const ProductInput& x, int32_t rows, const Output& output) {
  DenseProduct product;
  product.type = type;
  product.x = x.data;
  product.x_stride = x.stride;
  product.w = w;
  product.w_stride = cols;
  product.y = output.y;
  product.y_stride = output.stride;
  product.accumulate = output.epilogue == Epilogue::kAdd;
  product.rows = rows;
  product.out = out;
  product.cols = cols;
  if (!preparing_) return runtime_.dense(product, stream_);
  const Shape shape{type, rows, out, cols, x.stride, product.w_stride, output.stride,
                    product.accumulate};
  return prepared_.insert(shape).second ? runtime_.prepare_dense(product) : Status();
}

int32_t Products::tiles_at_a_time(const WeightMatrix& w) const {
  const int64_t tile = int64_t{device::kTileRows} * w.cols * 2;
  return static_cast<int32_t>(
      std::clamp<int64_t>(scratch_.dequantized_bytes / tile, 1, device::num_tiles(w)));
}

Status Products::dequantized(const WeightMatrix& w, const ProductInput& x, int32_t rows,
                             const Output& output) {
  const int32_t num_tiles = device::num_tiles(w), step = tiles_at_a_time(w);
  for (int32_t tile = 0; tile < num_tiles; tile += step) {
    device::DequantizeParams expand;
    expand.w = w;
    expand.first_tile = tile;
    expand.tiles = std::min(step, num_tiles - tile);
    expand.out = scratch_.dequantized;
    expand.out_stride = w.cols;
    if (!preparing_) LH_TRY(launched(device::launch_dequantize(expand, stream_), "dequantize"));
    const int32_t first = tile * device::kTileRows;
    const int32_t out = std::min(expand.tiles * device::kTileRows, w.rows - first);
    LH_TRY(dense(DenseType::kF16, scratch_.dequantized, out, w.cols, x, rows,
                 {output.epilogue, 0, output.y + first, output.stride}));
  }
  return {};
}

Status Products::multiply_gated(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                                Activation activation, const ProductInput& out) {
  const DevicePiece& first = matrix.layout.pieces[0];
  if (!first.paired) return gate_apart(matrix, rows, source, activation, out);
  LH_ASSIGN_OR_RETURN(const ProductInput x, source.rows_as(piece_form(first, rows)));
  if (writes_f32(matrix, rows)) return gate_in_kernel(matrix, x, rows, activation, out);
  if (is_expanded(first.format, rows)) return gate_dequantized(matrix, x, rows, activation, out);
  return gate_pair(matrix, x, rows, activation, out);
}

Status Products::gate_in_kernel(const CudaMatrix& matrix, const ProductInput& x, int32_t rows,
                                Activation activation, const ProductInput& out) {
  Output output;
  output.epilogue = activation == Activation::kSilu ? Epilogue::kSiluMul : Epilogue::kGeluMul;
  output.y = static_cast<float*>(out.data);
  output.stride = out.stride;
  return own_kernel(matrix.piece(0), x, rows, output);
}

// Dense gate rows, then dense up rows.
Status Products::gate_pair(const CudaMatrix& matrix, const ProductInput& x, int32_t rows,
                           Activation activation, const ProductInput& out) {
  const WeightMatrix w = matrix.piece(0);
  const int64_t columns = w.rows / 2, step = gated_columns(scratch_.gated_floats, rows, columns);
  const auto* const gate_rows = static_cast<const std::byte*>(w.data);
  for (int64_t first = 0; first < columns; first += step) {
    const int64_t count = std::min(step, columns - first);
    for (int64_t half = 0; half < 2; ++half) {
      const std::byte* const weights = gate_rows + (half * columns + first) * w.cols * 2;
      LH_TRY(dense(dense_type(w.format), weights, static_cast<int32_t>(count), w.cols, x, rows,
                   {Epilogue::kStore, 0, scratch_.gated + half * count, 2 * count}));
    }
    LH_TRY(gate(rows, first, count, activation, out));
  }
  return {};
}

Status Products::gate_dequantized(const CudaMatrix& matrix, const ProductInput& x, int32_t rows,
                                  Activation activation, const ProductInput& out) {
  const WeightMatrix w = matrix.piece(0);
  constexpr int32_t kPairs = device::kTileRows / 2;  // gate rows (and up rows) of a tile
  const int64_t columns = w.rows / 2;
  const int64_t fit = gated_columns(scratch_.gated_floats, rows, columns);
  const int32_t num_tiles = device::num_tiles(w);
  const auto step = static_cast<int32_t>(
      std::clamp<int64_t>((fit + kPairs - 1) / kPairs, 1, tiles_at_a_time(w)));
  for (int32_t tile = 0; tile < num_tiles; tile += step) {
    const int64_t first = int64_t{tile} * kPairs;
    const int32_t tiles = std::min(step, num_tiles - tile);
    const auto count = static_cast<int32_t>(std::min<int64_t>(tiles * kPairs, columns - first));
    device::DequantizeParams expand;
    expand.w = w;
    expand.first_tile = tile;
    expand.tiles = tiles;
    expand.out = scratch_.dequantized;
    expand.out_stride = w.cols;
    expand.up_row = count;
    if (!preparing_) LH_TRY(launched(device::launch_dequantize(expand, stream_), "dequantize"));
    LH_TRY(dense(DenseType::kF16, scratch_.dequantized, 2 * count, w.cols, x, rows,
                 {Epilogue::kStore, 0, scratch_.gated, 2 * count}));
    LH_TRY(gate(rows, first, count, activation, out));
  }
  return {};
}

// Gate and up of different formats: the scratch holds all columns of both (cuda_memory.cc).
Status Products::gate_apart(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                            Activation activation, const ProductInput& out) {
  const int64_t columns = matrix.rows / 2;
  LH_TRY(multiply(matrix, rows, source, Epilogue::kStore, 0, scratch_.gated, 2 * columns));
  return gate(rows, 0, columns, activation, out);
}

Status Products::gate(int32_t rows, int64_t first, int64_t columns, Activation activation,
                      const ProductInput& out) {
  if (preparing_) return {};
  device::SiluMulParams params;
  params.gate = scratch_.gated;
  params.up = scratch_.gated + columns;
  params.stride = 2 * columns;
  params.activation = gate_activation(activation);
  params.rows = rows;
  params.cols = static_cast<int32_t>(columns);
  params.out = from_column(out, first);
  return launched(device::launch_silu_mul(params, stream_), "silu_mul");
}

Status Products::prepare(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                         Epilogue epilogue, float* y, int64_t y_stride) {
  preparing_ = true;
  const Status status = multiply(matrix, rows, source, epilogue, 0, y, y_stride);
  preparing_ = false;
  return status;
}

Status Products::prepare_gated(const CudaMatrix& matrix, int32_t rows, InputSource& source,
                               const ProductInput& out) {
  preparing_ = true;
  const Status status = multiply_gated(matrix, rows, source, Activation::kSilu, out);
  preparing_ = false;
  return status;
}

}  // namespace longhaul::cuda
