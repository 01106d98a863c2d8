// Llama-3-8B's shape: 32 query heads, 8 kv heads, 128 channels, unless a row says otherwise.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention_combine.h"
#include "attention_decode.h"
#include "attention_prefill.h"
#include "attention_shapes.h"
#include "backend/cuda/attention_plan.h"
#include "kv/kv_layout.h"
#include "sections.h"

namespace longhaul::bench {
namespace {

using device::AttentionGrids;
using device::CacheLayer;
using device::CacheType;

struct Shape {
  KvDType dtype = KvDType::kBF16;
  int32_t num_heads = 32;
  int32_t num_kv_heads = 8;
  int32_t head_dim = 128;
  int32_t num_sequences = 1;
  int32_t num_rows = 1;         // a sequence brings
  int32_t first_position = 0;   // tokens before them
};

CacheType cache_type(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF16: return CacheType::kF16;
    case KvDType::kBF16: return CacheType::kBF16;
    case KvDType::kQ8: return CacheType::kQ8;
    case KvDType::kFp8: return CacheType::kFp8;
  }
  return CacheType::kF16;
}

// A layer's part of a block with numbers of ordinary size.
std::vector<std::byte> random_block(const KvLayout& layout) {
  std::mt19937 random(7);
  std::vector<std::byte> block(static_cast<size_t>(layout.layer_bytes()));
  const auto head_bytes = static_cast<size_t>(layout.head_bytes());
  const auto channel_bytes = static_cast<size_t>(layout.channel_bytes());
  for (size_t head = 0; head < block.size(); head += head_bytes) {
    for (size_t i = 0; i < channel_bytes; i += 2) {
      // f16, bf16: signs and mantissas at random around 1/4; fp8 likewise; q8: any.
      uint32_t bits = random();
      if (layout.dtype == KvDType::kF16) bits = (bits & 0x83ff) | 0x3400;
      if (layout.dtype == KvDType::kBF16) bits = (bits & 0x807f) | 0x3e80;
      if (layout.dtype == KvDType::kFp8) bits = (bits & 0x8787) | 0x2828;
      const auto number = static_cast<uint16_t>(bits);
      std::memcpy(block.data() + head + i, &number, sizeof number);
    }
    for (size_t i = channel_bytes; i < head_bytes; i += 4) {
      const float scale = 0.01f;
      std::memcpy(block.data() + head + i, &scale, sizeof scale);
    }
  }
  return block;
}

// Everything a row's launches need; filled once, used by each call.
class AttentionCase {
 public:
  AttentionCase(BenchDevice& device, const Shape& shape) : device_(device), shape_(shape) {
    layout_.dtype = shape.dtype;
    layout_.num_kv_heads = shape.num_kv_heads;
    layout_.head_dim = shape.head_dim;
    layout_.layers_per_block = 1;
  }

  Status set_up() {
    const int32_t tokens = shape_.first_position + shape_.num_rows;
    blocks_ = (tokens + layout_.block_size - 1) / layout_.block_size;
    const int64_t all_blocks = int64_t{blocks_} * shape_.num_sequences;
    region_bytes_ = all_blocks * layout_.layer_bytes();
    // Caches of different layers: calls take turns.
    operands_ = device_.num_operands(region_bytes_);
    LH_ASSIGN_OR_RETURN(pool_, device_.upload(random_block(layout_), all_blocks * operands_));
    LH_TRY(set_up_plan());

    const int64_t rows = int64_t{shape_.num_sequences} * shape_.num_rows;
    const int64_t width = int64_t{shape_.num_heads} * shape_.head_dim;
    LH_ASSIGN_OR_RETURN(q_, device_.random_floats(rows * width));
    LH_ASSIGN_OR_RETURN(out_, device_.allocate(rows * width * 2));
    params_.q = q_.as<float>();
    params_.q_stride = width;
    params_.out = {device::InputForm::kBF16, out_.data(), width, nullptr, nullptr};
    params_.cache = {pool_.data(),      layout_.layer_bytes(), layout_.head_bytes(),
                     layout_.block_size, shape_.num_kv_heads,   shape_.head_dim,
                     cache_type(shape_.dtype)};
    params_.num_heads = shape_.num_heads;
    params_.scale = 0.088f;
    return device_.synchronize();
  }

  Result<Timing> measure() {
    return device_.measure(operands_, [&](int i) {
      device::AttentionParams call = params_;
      call.cache.blocks = pool_.data() + region_bytes_ * (i % operands_);
      if (has_prefill_) {
        LH_TRY(launched(launch_attention_prefill(call, device_.stream()), "attention_prefill"));
      }
      if (has_decode_) {
        LH_TRY(launched(launch_attention_decode(call, device_.stream()), "attention_decode"));
      }
      return has_merges_
                 ? launched(launch_attention_combine(call, device_.stream()), "attention_combine")
                 : Status();
    });
  }

  // Of keys and values, each read once.
  double bytes() const {
    const double tokens = shape_.first_position + shape_.num_rows;
    return static_cast<double>(layout_.layer_bytes()) / layout_.block_size * tokens *
           shape_.num_sequences;
  }
  // Of both products, over the keys that a row sees.
  double flops() const {
    double pairs = 0;
    for (int32_t i = 0; i < shape_.num_rows; ++i) pairs += shape_.first_position + i + 1;
    return 4.0 * shape_.head_dim * shape_.num_heads * pairs * shape_.num_sequences;
  }
  std::string kernels() const {
    std::string text = has_prefill_ ? "attention_prefill" : "attention_decode";
    return has_merges_ ? text + " + attention_combine" : text;
  }

 private:
  Status set_up_plan() {
    const cuda::DeviceProperties& properties = device_.runtime().properties();
    cuda::AttentionPlanOptions options;
    options.num_heads = shape_.num_heads;
    options.num_kv_heads = shape_.num_kv_heads;
    options.head_dim = shape_.head_dim;
    options.block_size = layout_.block_size;
    options.grids =
        device::attention_grids(shape_.head_dim, cache_type(shape_.dtype),
                                properties.num_multiprocessors, properties.shared_bytes_max);
    options.partial_row_end = cuda::partial_rows_wanted(options.grids);

    std::vector<int32_t> ids(static_cast<size_t>(blocks_ * shape_.num_sequences));
    std::iota(ids.begin(), ids.end(), 0);
    std::mt19937 random(1);
    std::shuffle(ids.begin(), ids.end(), random);
    std::vector<AttentionSequence> sequences;
    for (int32_t s = 0; s < shape_.num_sequences; ++s) {
      sequences.push_back({s * shape_.num_rows, shape_.num_rows, shape_.first_position,
                           ids.data() + int64_t{s} * blocks_, blocks_});
    }
    cuda::AttentionPlan plan;
    plan.build(sequences, options);
    const cuda::AttentionLayout layout(plan.counts(), options.grids);
    std::vector<std::byte> bytes(static_cast<size_t>(layout.bytes));
    plan.encode(layout, bytes.data());
    LH_ASSIGN_OR_RETURN(lists_, device_.upload(bytes));
    params_.lists = layout.lists(lists_.data());
    params_.grids = options.grids;
    has_prefill_ = !plan.prefill_items().empty();
    has_decode_ = !plan.decode_items().empty();
    has_merges_ = !plan.merges().empty();

    const int64_t partials = options.partial_row_end;
    LH_ASSIGN_OR_RETURN(partial_o_, device_.allocate(partials * shape_.head_dim * 4));
    LH_ASSIGN_OR_RETURN(partial_ml_, device_.allocate(partials * 8));
    params_.partial_o = partial_o_.as<float>();
    params_.partial_ml = partial_ml_.as<float>();
    return {};
  }

  BenchDevice& device_;
  Shape shape_;
  KvLayout layout_;
  int32_t blocks_ = 0;         // a sequence
  int64_t region_bytes_ = 0;   // of one operand
  int operands_ = 1;
  bool has_prefill_ = false, has_decode_ = false, has_merges_ = false;
  device::AttentionParams params_;
  DeviceBuffer pool_, lists_, q_, out_, partial_o_, partial_ml_;
};

Status attention_row(BenchDevice& device, Report& report, const std::string& name,
                     const Shape& shape, Work work, double target) {
  const Row row{.section = "attention", .name = name, .work = work, .target = target};
  return measure_row(device, report, row, [&](Row& out) {
    AttentionCase work_of(device, shape);
    LH_TRY(work_of.set_up());
    LH_ASSIGN_OR_RETURN(out.time, work_of.measure());
    out.kernel = work_of.kernels();
    out.amount = work == Work::kBytes ? work_of.bytes() : work_of.flops();
    return Status();
  });
}

Status decode_rows(BenchDevice& device, Report& report, const Shape& base,
                   const std::vector<int32_t>& batches, const std::vector<int32_t>& totals) {
  for (const int32_t total : totals) {
    for (const int32_t batch : batches) {
      Shape shape = base;
      shape.num_sequences = batch;
      shape.first_position = total / batch - 1;
      std::string name = "decode " + std::to_string(batch) + " x " + std::to_string(total / batch) +
                         " " + kv_dtype_name(shape.dtype);
      if (shape.head_dim != 128) name += " hd" + std::to_string(shape.head_dim);
      const double target = total >= 32768 ? 0.9 : 0;
      LH_TRY(attention_row(device, report, name, shape, Work::kBytes, target));
    }
  }
  return {};
}

}  // namespace

Status attention_section(BenchDevice& device, Report& report) {
  Shape shape;
  if (device.tiny()) {
    shape.num_heads = 4;
    shape.num_kv_heads = 2;
    shape.head_dim = 64;
    LH_TRY(decode_rows(device, report, shape, {1, 3}, {192}));
    shape.num_rows = 40;
    shape.first_position = 24;
    return attention_row(device, report, "prefill 40 at 24 bf16", shape, Work::kFlops, 0);
  }
  LH_TRY(decode_rows(device, report, shape, {1, 4, 16, 64}, {4096, 32768, 131072, 524288}));
  for (const KvDType dtype : {KvDType::kF16, KvDType::kQ8, KvDType::kFp8}) {
    shape.dtype = dtype;
    LH_TRY(decode_rows(device, report, shape, {1, 16}, {131072}));
  }
  Shape small;   // Llama-3-1B's
  small.head_dim = 64;
  LH_TRY(decode_rows(device, report, small, {1, 16}, {131072}));
  Shape large;   // Gemma 3's
  large.head_dim = 256;
  large.num_heads = 8;
  large.num_kv_heads = 4;
  LH_TRY(decode_rows(device, report, large, {16}, {131072}));

  Shape prefill;
  for (const int32_t rows : {2048, 4096, 8192, 16384, 32768}) {
    prefill.num_rows = rows;
    const std::string name = "prefill " + std::to_string(rows) + " bf16";
    LH_TRY(attention_row(device, report, name, prefill, Work::kFlops, 0));
  }
  prefill.num_rows = 2048;
  prefill.first_position = 30720;
  LH_TRY(attention_row(device, report, "prefill 2048 at 30720 bf16", prefill, Work::kFlops, 0));
  prefill.dtype = KvDType::kQ8;
  LH_TRY(attention_row(device, report, "prefill 2048 at 30720 q8", prefill, Work::kFlops, 0));
  prefill.dtype = KvDType::kFp8;
  return attention_row(device, report, "prefill 2048 at 30720 fp8", prefill, Work::kFlops, 0);
}

}  // namespace longhaul::bench
