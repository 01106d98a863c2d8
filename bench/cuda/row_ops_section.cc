// What a step does besides products and attention, at the sizes of Llama-3-8B.
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "copy_blocks.h"
#include "qkv_finish.h"
#include "rms_norm.h"
#include "sample.h"
#include "sections.h"
#include "silu_mul.h"

namespace longhaul::bench {
namespace {

using device::InputForm;
using device::ProductInput;

struct Sizes {
  int32_t hidden = 4096;
  int32_t intermediate = 14336;
  int32_t num_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
  int32_t vocab = 128256;
};

double form_bytes(InputForm form) {
  return form == InputForm::kF32 ? 4 : form == InputForm::kQ8 ? 1.25 : 2;
}

// Room for rows in any form.
class OutputRows {
 public:
  Status make(BenchDevice& device, InputForm form, int64_t rows, int64_t cols) {
    const int64_t stride = (cols + 63) / 64 * 64;
    LH_ASSIGN_OR_RETURN(data_, device.allocate(rows * stride * 4));
    LH_ASSIGN_OR_RETURN(scales_, device.allocate(rows * stride / 32 * 4));
    LH_ASSIGN_OR_RETURN(sums_, device.allocate(rows * stride / 32 * 4));
    out_ = {form, data_.data(), stride, scales_.as<float>(), sums_.as<float>()};
    return {};
  }
  const ProductInput& out() const { return out_; }

 private:
  DeviceBuffer data_, scales_, sums_;
  ProductInput out_;
};

std::string row_name(const char* kernel, int32_t rows, const char* form) {
  return std::string(kernel) + " " + std::to_string(rows) + " rows" + form;
}

// Decode rows stay in the cache between kernels, as in a step: operands do not take turns here.
Status norm_row(BenchDevice& device, Report& report, const Sizes& z, int32_t rows, InputForm form) {
  const Row row{.section = "rows",
                .name = row_name("add_norm", rows, form == InputForm::kQ8 ? " q8" : " bf16"),
                .kernel = "add_norm"};
  return measure_row(device, report, row, [&](Row& out) {
    const int64_t size = int64_t{rows} * z.hidden;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer x, device.random_floats(size));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer y, device.random_floats(size));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer weight, device.random_floats(z.hidden));
    LH_TRY(device.runtime().clear(y.data(), y.bytes(), device.stream()));   // x stays in range
    OutputRows to;
    LH_TRY(to.make(device, form, rows, z.hidden));
    device::AddNormParams params;
    params.x = x.as<float>();
    params.x_stride = params.y_stride = z.hidden;
    params.y = y.as<float>();
    params.weight = weight.as<float>();
    params.eps = 1e-5f;
    params.rows = rows;
    params.cols = z.hidden;
    params.out = to.out();
    LH_ASSIGN_OR_RETURN(out.time, device.measure(1, [&](int) {
      return launched(launch_add_norm(params, device.stream()), "add_norm");
    }));
    out.amount = (12 + form_bytes(form)) * static_cast<double>(size);
    return Status();
  });
}

Status gate_row(BenchDevice& device, Report& report, const Sizes& z, int32_t rows) {
  const Row row{
      .section = "rows", .name = row_name("silu_mul", rows, " bf16"), .kernel = "silu_mul"};
  return measure_row(device, report, row, [&](Row& out) {
    const int64_t size = int64_t{rows} * z.intermediate;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer x, device.random_floats(2 * size));
    OutputRows to;
    LH_TRY(to.make(device, InputForm::kBF16, rows, z.intermediate));
    device::SiluMulParams params;
    params.gate = x.as<float>();
    params.up = params.gate + z.intermediate;
    params.stride = 2 * int64_t{z.intermediate};
    params.rows = rows;
    params.cols = z.intermediate;
    params.out = to.out();
    LH_ASSIGN_OR_RETURN(out.time, device.measure(1, [&](int) {
      return launched(launch_silu_mul(params, device.stream()), "silu_mul");
    }));
    out.amount = 10.0 * static_cast<double>(size);
    return Status();
  });
}

Status qkv_row(BenchDevice& device, Report& report, const Sizes& z, int32_t rows,
               device::CacheType type) {
  const bool is_8_bit = type == device::CacheType::kQ8;
  const Row row{.section = "rows",
                .name = row_name("qkv_finish", rows, is_8_bit ? " q8" : " bf16"),
                .kernel = "qkv_finish"};
  return measure_row(device, report, row, [&](Row& out) {
    constexpr int32_t kBlock = 32;
    const int64_t width = int64_t{z.num_heads + 2 * z.num_kv_heads} * z.head_dim;
    const int64_t q_width = int64_t{z.num_heads} * z.head_dim;
    const int32_t blocks = (rows + kBlock - 1) / kBlock;
    device::QkvFinishParams params;
    params.cache.block_size = kBlock;
    params.cache.num_kv_heads = z.num_kv_heads;
    params.cache.head_dim = z.head_dim;
    params.cache.type = type;
    const int32_t token_bytes = is_8_bit ? z.head_dim + 4 : 2 * z.head_dim;
    params.cache.head_bytes = int64_t{kBlock} * token_bytes;
    params.cache.block_bytes = 2 * params.cache.head_bytes * z.num_kv_heads;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer pool,
                        device.allocate(blocks * params.cache.block_bytes));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer qkv, device.random_floats(rows * width));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer q, device.allocate(rows * q_width * 4));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer inv_freq, device.random_floats(z.head_dim / 2));
    std::vector<int32_t> positions(static_cast<size_t>(rows));
    std::vector<int64_t> slots(positions.size());
    for (size_t i = 0; i < positions.size(); ++i) {
      positions[i] = static_cast<int32_t>(i);
      slots[i] = static_cast<int64_t>(i);
    }
    const auto position_bytes = std::as_bytes(std::span<const int32_t>(positions));
    const auto slot_bytes = std::as_bytes(std::span<const int64_t>(slots));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer device_positions, device.upload(position_bytes));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer device_slots, device.upload(slot_bytes));
    params.cache.blocks = pool.data();
    params.qkv = qkv.as<float>();
    params.qkv_stride = width;
    params.inv_freq = inv_freq.as<float>();
    params.half_dim = z.head_dim / 2;
    params.positions = device_positions.as<int32_t>();
    params.slot_mapping = device_slots.as<int64_t>();
    params.q = q.as<float>();
    params.q_stride = q_width;
    params.rows = rows;
    params.num_heads = z.num_heads;
    LH_ASSIGN_OR_RETURN(out.time, device.measure(1, [&](int) {
      return launched(launch_qkv_finish(params, device.stream()), "qkv_finish");
    }));
    out.amount = rows * (4.0 * static_cast<double>(width + q_width) +
                         static_cast<double>(params.cache.block_bytes) / kBlock);
    return Status();
  });
}

// Logits come from the product before: they are read from the cache where they fit.
Status sample_row(BenchDevice& device, Report& report, const Sizes& z, int32_t rows, bool top_p) {
  const Row row{.section = "rows",
                .name = row_name(top_p ? "sample top_p" : "sample greedy", rows, ""),
                .kernel = "sample"};
  return measure_row(device, report, row, [&](Row& out) {
    std::vector<device::SampleRowInput> inputs(static_cast<size_t>(rows));
    uint32_t stages = 0;
    for (int32_t i = 0; i < rows; ++i) {
      device::SampleRowInput& input = inputs[static_cast<size_t>(i)];
      input.logits_row = i;
      input.slot = i;
      input.seed = static_cast<uint64_t>(i);
      input.temperature = top_p ? 0.8f : 0;
      input.top_p = top_p ? 0.9f : 1;
      stages |= device::sample_stages(input);
    }
    const auto input_bytes = std::as_bytes(std::span<const device::SampleRowInput>(inputs));
    const int64_t size = int64_t{rows} * z.vocab;
    LH_ASSIGN_OR_RETURN(const DeviceBuffer logits, device.random_floats(size));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer device_rows, device.upload(input_bytes));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer tokens, device.allocate(int64_t{rows} * 4));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer results,
                        device.allocate(rows * static_cast<int64_t>(sizeof(device::SampleResult))));
    LH_ASSIGN_OR_RETURN(const DeviceBuffer scratch,
                        device.allocate(device::sample_scratch_bytes(z.vocab, rows)));
    LH_TRY(device.runtime().clear(scratch.data(), scratch.bytes(), device.stream()));
    device::SampleParams params;
    params.logits = logits.as<float>();
    params.logits_stride = z.vocab;
    params.vocab_size = z.vocab;
    params.rows = device_rows.as<device::SampleRowInput>();
    params.num_rows = rows;
    params.last_tokens = tokens.as<int32_t>();
    params.results = results.as<device::SampleResult>();
    params.scratch = scratch.data();
    params.stages = stages;
    LH_ASSIGN_OR_RETURN(out.time, device.measure(1, [&](int) {
      return launched(launch_sample(params, device.stream()), "sample");
    }));
    out.amount = 4.0 * static_cast<double>(size);
    out.note = "bytes of the logits, once";
    return Status();
  });
}

Status copy_row(BenchDevice& device, Report& report, int32_t pairs, int64_t block_bytes) {
  const Row row{.section = "rows",
                .name = "copy_blocks " + std::to_string(pairs) + " x " +
                        std::to_string(block_bytes >> 10) + " KiB",
                .kernel = "copy_blocks"};
  return measure_row(device, report, row, [&](Row& out) {
    LH_ASSIGN_OR_RETURN(const DeviceBuffer pool, device.allocate(2 * pairs * block_bytes));
    std::vector<int32_t> ids;
    for (int32_t i = 0; i < pairs; ++i) ids.insert(ids.end(), {i, pairs + i});
    LH_ASSIGN_OR_RETURN(const DeviceBuffer device_ids,
                        device.upload(std::as_bytes(std::span<const int32_t>(ids))));
    device::CopyBlocksParams params;
    params.pool = pool.data();
    params.block_bytes = block_bytes;
    params.pairs = device_ids.as<int32_t>();
    params.num_pairs = pairs;
    LH_ASSIGN_OR_RETURN(out.time, device.measure(1, [&](int) {
      return launched(launch_copy_blocks(params, device.stream()), "copy_blocks");
    }));
    out.amount = 2.0 * pairs * static_cast<double>(block_bytes);
    return Status();
  });
}

}  // namespace

Status row_ops_section(BenchDevice& device, Report& report) {
  Sizes sizes;
  std::vector<int32_t> rows = {1, 64, 2048};
  int32_t pairs = 16;
  int64_t block_bytes = int64_t{4} << 20;   // 32 tokens of all layers
  if (device.tiny()) {
    sizes = {64, 96, 4, 2, 32, 300};
    rows = {3};
    pairs = 2;
    block_bytes = 1024;
  }
  for (const int32_t count : rows) {
    LH_TRY(norm_row(device, report, sizes, count, InputForm::kBF16));
    LH_TRY(norm_row(device, report, sizes, count, InputForm::kQ8));
    LH_TRY(gate_row(device, report, sizes, count));
    LH_TRY(qkv_row(device, report, sizes, count, device::CacheType::kBF16));
    LH_TRY(qkv_row(device, report, sizes, count, device::CacheType::kQ8));
    if (count > 64) continue;
    LH_TRY(sample_row(device, report, sizes, count, false));
    LH_TRY(sample_row(device, report, sizes, count, true));
  }
  return copy_row(device, report, pairs, block_bytes);
}

}  // namespace longhaul::bench
