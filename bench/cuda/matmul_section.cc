#include <algorithm>
#include <string>
#include <vector>

#include "backend/cuda/device_matrix_layout.h"
#include "backend/cuda/pack_device_matrix.h"
#include "dequantize.h"
#include "embed.h"
#include "load/random_tensor.h"
#include "matmul_gemv.h"
#include "matmul_quant.h"
#include "rms_norm.h"
#include "sections.h"

namespace longhaul::bench {
namespace {

using device::InputForm;
using device::MatmulParams;
using device::WeightMatrix;

// `copies` equal matrices of random weights. A few rows are made and packed; the rest repeats them.
class Weights {
 public:
  Status make(BenchDevice& device, DType dtype, int32_t rows, int32_t cols) {
    RandomTensor request;
    request.dtype = dtype;
    request.rows = std::min(rows, 256);
    request.cols = cols;
    request.seed = 1;
    LH_ASSIGN_OR_RETURN(const std::unique_ptr<std::byte[]> made, make_random_tensor(request));
    const TensorView view{"bench", dtype, request.rows, cols, made.get()};
    LH_ASSIGN_OR_RETURN(const cuda::DeviceMatrixLayout layout,
                        cuda::plan_device_matrix({&view, 1}, false));
    const cuda::DevicePiece& piece = layout.pieces[0];
    std::vector<std::byte> packed(static_cast<size_t>(piece.num_units * piece.unit_bytes));
    cuda::pack_device_units({&view, 1}, piece, 0, piece.num_units, packed.data());

    const int32_t repeats = (rows + piece.rows - 1) / piece.rows;
    bytes_ = repeats * static_cast<int64_t>(packed.size());
    copies_ = device.num_operands(bytes_);
    LH_ASSIGN_OR_RETURN(data_, device.upload(packed, int64_t{repeats} * copies_));
    matrix_ = cuda::piece_matrix(piece, nullptr);
    matrix_.rows = repeats * piece.rows;
    return {};
  }

  WeightMatrix copy(int i) const {
    WeightMatrix matrix = matrix_;
    matrix.data = data_.data() + bytes_ * (i % copies_);
    return matrix;
  }
  int copies() const { return copies_; }
  int64_t bytes() const { return bytes_; }
  const WeightMatrix& matrix() const { return matrix_; }

 private:
  WeightMatrix matrix_;
  DeviceBuffer data_;
  int64_t bytes_ = 0;   // of one copy
  int copies_ = 1;
};

// Random rows in the form that `format` is multiplied with.
class InputRows {
 public:
  Status make(BenchDevice& device, InputForm form, int32_t rows, int32_t cols) {
    const int64_t stride = (int64_t{cols} + 63) / 64 * 64;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer x, device.random_floats(int64_t{rows} * cols));
    LH_ASSIGN_OR_RETURN(data_, device.allocate(rows * stride * 2));
    LH_ASSIGN_OR_RETURN(scales_, device.allocate(rows * stride / 32 * 4));
    LH_ASSIGN_OR_RETURN(sums_, device.allocate(rows * stride / 32 * 4));
    input_ = {form, data_.data(), stride, scales_.as<float>(), sums_.as<float>()};
    device::ConvertRowsParams params;
    params.x = x.as<float>();
    params.x_stride = cols;
    params.rows = rows;
    params.cols = cols;
    params.out = input_;
    LH_TRY(launched(launch_convert_rows(params, device.stream()), "convert_rows"));
    return device.synchronize();
  }
  const device::ProductInput& input() const { return input_; }
  // Of rows * cols numbers, scales and sums.
  static double bytes(InputForm form, int32_t rows, int32_t cols) {
    return double{1} * rows * cols * (form == InputForm::kQ8 ? 1.25 : 2);
  }

 private:
  DeviceBuffer data_, scales_, sums_;
  device::ProductInput input_;
};

struct Product {
  DType dtype = DType::kQ4_0;
  int32_t rows = 1;      // of x
  int32_t out = 0;
  int32_t cols = 0;

  std::string name(const char* kernel) const {
    return std::string(kernel) + " " + dtype_info(dtype).name + " " + std::to_string(rows) + " x " +
           std::to_string(out) + " x " + std::to_string(cols);
  }
};

Status gemv_row(BenchDevice& device, Report& report, const Product& p) {
  const Row row{.section = "matmul",
                .name = p.name("gemv"),
                .kernel = "matmul_gemv",
                .target = p.rows == 1 && !device.tiny() ? 0.8 : 0};
  return measure_row(device, report, row, [&](Row& out) {
    Weights weights;
    LH_TRY(weights.make(device, p.dtype, p.out, p.cols));
    const InputForm form = device::input_form(weights.matrix().format);
    InputRows x;
    LH_TRY(x.make(device, form, p.rows, p.cols));
    const int32_t width = weights.matrix().rows;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer y, device.allocate(int64_t{p.rows} * width * 4));
    MatmulParams params;
    params.x = x.input();
    params.rows = p.rows;
    params.y = y.as<float>();
    params.y_stride = width;
    LH_ASSIGN_OR_RETURN(out.time, device.measure(weights.copies(), [&](int i) {
      MatmulParams call = params;
      call.w = weights.copy(i);
      return launched(launch_matmul_gemv(call, device.stream()), "matmul_gemv");
    }));
    out.amount = static_cast<double>(weights.bytes()) + InputRows::bytes(form, p.rows, p.cols) +
                 4.0 * p.rows * width;
    return Status();
  });
}

Status quant_row(BenchDevice& device, Report& report, const Product& p) {
  const Row row{.section = "matmul",
                .name = p.name("batch"),
                .kernel = "matmul_quant",
                // Few rows: still the weights' traffic; many: the tensor cores.
                .work = p.rows <= 64 ? Work::kBytes : Work::kFlops};
  return measure_row(device, report, row, [&](Row& out) {
    Weights weights;
    LH_TRY(weights.make(device, p.dtype, p.out, p.cols));
    InputRows x;
    LH_TRY(x.make(device, InputForm::kQ8, p.rows, p.cols));
    const int32_t width = weights.matrix().rows;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer y, device.allocate(int64_t{p.rows} * width * 4));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer partials, device.allocate(device::kQuantPartials * 4));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer counters, device.allocate(device::kQuantCounters * 4));
    LH_TRY(device.runtime().clear(counters.data(), counters.bytes(), device.stream()));
    MatmulParams params;
    params.x = x.input();
    params.rows = p.rows;
    params.y = y.as<float>();
    params.y_stride = width;
    params.partials = partials.as<float>();
    params.counters = counters.as<int32_t>();
    LH_ASSIGN_OR_RETURN(out.time, device.measure(weights.copies(), [&](int i) {
      MatmulParams call = params;
      call.w = weights.copy(i);
      return launched(launch_matmul_quant(call, device.stream()), "matmul_quant");
    }));
    out.amount = out.work == Work::kFlops
                     ? 2.0 * p.rows * width * p.cols
                     : static_cast<double>(weights.bytes()) +
                           InputRows::bytes(InputForm::kQ8, p.rows, p.cols) + 4.0 * p.rows * width;
    return Status();
  });
}

Status dequantize_row(BenchDevice& device, Report& report, const Product& p) {
  const Row row{.section = "matmul",
                .name = std::string("expand ") + dtype_info(p.dtype).name + " " +
                        std::to_string(p.out) + " x " + std::to_string(p.cols),
                .kernel = "dequantize"};
  return measure_row(device, report, row, [&](Row& out) {
    Weights weights;
    LH_TRY(weights.make(device, p.dtype, p.out, p.cols));
    const int64_t size = int64_t{weights.matrix().rows} * p.cols;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer to, device.allocate(size * 2));
    LH_ASSIGN_OR_RETURN(out.time, device.measure(weights.copies(), [&](int i) {
      device::DequantizeParams call;
      call.w = weights.copy(i);
      call.tiles = device::num_tiles(call.w);
      call.out = to.data();
      call.out_stride = p.cols;
      return launched(launch_dequantize(call, device.stream()), "dequantize");
    }));
    out.amount = static_cast<double>(weights.bytes()) + 2.0 * static_cast<double>(size);
    return Status();
  });
}

Status embed_row(BenchDevice& device, Report& report, DType dtype, int32_t tokens, int32_t vocab,
                 int32_t cols) {
  const Row row{.section = "matmul",
                .name = std::string("embed ") + dtype_info(dtype).name + " " +
                        std::to_string(tokens) + " of " + std::to_string(vocab) + " x " +
                        std::to_string(cols),
                .kernel = "embed"};
  return measure_row(device, report, row, [&](Row& out) {
    Weights weights;
    LH_TRY(weights.make(device, dtype, vocab, cols));
    std::vector<int32_t> ids(static_cast<size_t>(tokens));
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(i * 7919 % static_cast<size_t>(weights.matrix().rows));
    }
    LH_ASSIGN_OR_RETURN(const DeviceBuffer device_ids,
                        device.upload(std::as_bytes(std::span<const int32_t>(ids))));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer to, device.allocate(int64_t{tokens} * cols * 4));
    LH_ASSIGN_OR_RETURN(out.time, device.measure(weights.copies(), [&](int i) {
      device::EmbedParams call;
      call.w = weights.copy(i);
      call.token_ids = device_ids.as<int32_t>();
      call.num_tokens = tokens;
      call.out = to.as<float>();
      call.out_stride = cols;
      return launched(launch_embed(call, device.stream()), "embed");
    }));
    const double row_bytes = static_cast<double>(weights.bytes()) / weights.matrix().rows;
    out.amount = tokens * (row_bytes + 4.0 * cols);
    return Status();
  });
}

}  // namespace

Status matmul_section(BenchDevice& device, Report& report) {
  if (device.tiny()) {
    for (const DType dtype : {DType::kQ4_0, DType::kQ4_K, DType::kBF16}) {
      LH_TRY(gemv_row(device, report, {dtype, 1, 32, 256}));
    }
    LH_TRY(quant_row(device, report, {DType::kQ8_0, 10, 32, 256}));
    LH_TRY(dequantize_row(device, report, {DType::kQ4_K, 0, 32, 256}));
    return embed_row(device, report, DType::kQ8_0, 3, 64, 256);
  }
  struct Shape {
    int32_t out, cols;
  };
  const Shape shapes[] = {{4096, 4096}, {14336, 4096}, {4096, 14336}};
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_K, DType::kQ6_K, DType::kQ8_0, DType::kBF16}) {
    for (const Shape& s : shapes) LH_TRY(gemv_row(device, report, {dtype, 1, s.out, s.cols}));
    LH_TRY(gemv_row(device, report, {dtype, 4, 14336, 4096}));
    LH_TRY(gemv_row(device, report, {dtype, 8, 14336, 4096}));
  }
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_K, DType::kQ8_0}) {
    for (const int32_t rows : {16, 64, 128, 256}) {
      LH_TRY(quant_row(device, report, {dtype, rows, 14336, 4096}));
    }
  }
  for (const DType dtype : {DType::kQ4_0, DType::kQ4_K, DType::kQ8_0}) {
    LH_TRY(dequantize_row(device, report, {dtype, 0, 14336, 4096}));
  }
  for (const DType dtype : {DType::kQ4_K, DType::kBF16}) {
    LH_TRY(embed_row(device, report, dtype, 2048, 128256, 4096));
  }
  return {};
}

}  // namespace longhaul::bench
