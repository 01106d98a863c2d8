#include <vector>

#include "sections.h"

namespace longhaul::bench {
namespace {

using cuda::DenseProduct;
using cuda::DenseType;

Status copy_row(BenchDevice& device, Row& row) {
  const int64_t bytes = device.tiny() ? 1 << 16 : int64_t{1} << 30;
  LH_ASSIGN_OR_RETURN(const DeviceBuffer from, device.random_floats(bytes / 4));
  LH_ASSIGN_OR_RETURN(const DeviceBuffer to, device.allocate(bytes));
  row.amount = 2.0 * static_cast<double>(bytes);   // read and written
  LH_ASSIGN_OR_RETURN(row.time, device.measure(1, [&](int) {
    return device.runtime().copy_on_device(to.data(), from.data(), bytes, device.stream());
  }));
  return {};
}

// x [rows, cols], w [out, cols] in bf16; y in bf16.
Status dense_row(BenchDevice& device, int32_t rows, int32_t out, int32_t cols, Row& row) {
  const int64_t x_size = int64_t{rows} * cols, w_size = int64_t{out} * cols;
  const int operands = device.num_operands(2 * (x_size + w_size));
  // bf16 of both signs between 1/32 and 1.
  std::vector<uint16_t> values(1 << 16);
  uint32_t seed = 1;
  for (uint16_t& value : values) {
    seed = seed * 1664525u + 1013904223u;
    value = static_cast<uint16_t>((seed >> 31 << 15) | (0x3d00u + (seed >> 8) % 0x0280u));
  }
  const auto bytes = std::as_bytes(std::span<const uint16_t>(values));
  const auto repeats = [&](int64_t size) { return (2 * size + (1 << 17) - 1) >> 17; };
  LH_ASSIGN_OR_RETURN(const DeviceBuffer x, device.upload(bytes, repeats(x_size)));
  LH_ASSIGN_OR_RETURN(const DeviceBuffer w, device.upload(bytes, repeats(w_size * operands)));
  LH_ASSIGN_OR_RETURN(const DeviceBuffer y, device.allocate(2 * int64_t{rows} * out));
  DenseProduct product;
  product.type = DenseType::kBF16;
  product.x = x.data();
  product.x_stride = product.w_stride = cols;
  product.w = w.data();
  product.y = y.data();
  product.y_stride = out;
  product.y_is_f32 = false;
  product.rows = rows;
  product.out = out;
  product.cols = cols;
  LH_TRY(device.runtime().prepare_dense(product));
  LH_ASSIGN_OR_RETURN(row.time, device.measure(operands, [&](int i) {
    DenseProduct call = product;
    call.w = w.data() + 2 * w_size * (i % operands);
    return device.runtime().dense(call, device.stream());
  }));
  return {};
}

}  // namespace

Status machine_section(BenchDevice& device, Report& report) {
  const cuda::DeviceProperties& properties = device.runtime().properties();
  report.machine("device", properties.name);
  report.machine("runtime", cuda::runtime_name());
  report.machine("multiprocessors", std::to_string(properties.num_multiprocessors));
  report.machine("memory GiB", std::to_string(properties.memory_bytes >> 30));
  report.machine("L2 MiB", std::to_string(properties.l2_bytes >> 20));
  report.machine("driver", std::to_string(properties.driver_version));

  Row copy{.section = "machine", .name = "copy", .kernel = "copy_on_device"};
  double copied = 0, flops = 0;
  Status status = measure_row(device, report, copy, [&](Row& row) {
    LH_TRY(copy_row(device, row));
    copied = row.amount / row.time.median;
    return Status();
  });
  LH_TRY(status);

  // One shape near the peak is the limit; the others are what our own kernels compete with.
  struct Shape {
    int32_t rows, out, cols;
  };
  const std::vector<Shape> shapes =
      device.tiny() ? std::vector<Shape>{{16, 32, 64}}
                    : std::vector<Shape>{{8192, 8192, 8192},
                                         {2048, 14336, 4096},
                                         {256, 14336, 4096},
                                         {64, 14336, 4096},
                                         {16, 14336, 4096}};
  for (const Shape& s : shapes) {
    Row dense{.section = "machine",
              .name = "dense " + std::to_string(s.rows) + " x " + std::to_string(s.out) + " x " +
                      std::to_string(s.cols) + " bf16",
              .kernel = "cuBLASLt",
              .work = Work::kFlops};
    status = measure_row(device, report, dense, [&](Row& row) {
      row.amount = 2.0 * s.rows * s.out * s.cols;
      LH_TRY(dense_row(device, s.rows, s.out, s.cols, row));
      flops = std::max(flops, row.amount / row.time.median);
      return Status();
    });
    LH_TRY(status);
  }
  report.set_limits(copied, flops);
  return {};
}

}  // namespace longhaul::bench
