#include "backend/cpu/attention.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>

#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/small_ops.h"
#include "check.h"

namespace longhaul::cpu {
namespace {

static_assert(kSliceKeys == kSliceTokens);
// Multiply-adds of a step below which the calling thread does all of it: about as long as waking
// the workers takes.
constexpr int64_t kInlineProducts = 1 << 18;
constexpr double kLog2E = 1.4426950408889634;
constexpr int64_t kLineFloats = 16;  // of a cache line

const AttentionKernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return attention_kernels_amx();
  if (isa == Isa::kAvx512) return attention_kernels_avx512();
  if (isa == Isa::kAvx2) return attention_kernels_avx2();
#endif
  (void)isa;
  return attention_kernels_scalar();
}

// What all units of a layer share.
struct Layer {
  const AttentionLayerParams& params;
  const KvStore& store;
  const AttentionKernels& kernels;
  const RowOps& ops;
  float* partials;
  int32_t head_dim;
  int32_t group;          // query heads a kv head
  int32_t partial_floats; // head_dim + 2
  float q_scale;
  float softcap;          // in powers of two; 0 = none

  bool q8() const { return store.layout().dtype == KvDType::kQ8; }
  int32_t query_rows() const { return q8() ? kernels.query_rows8 : kernels.query_rows; }

  float* partial(int64_t index, int64_t head) const {
    return partials + (index * params.num_heads + head) * partial_floats;
  }
};

// One item for one kv head. Its query rows (row-major: step row, then head of the group) are cut
// into bundles of about equal size that a kernel call takes at once.
class Unit {
 public:
  Unit(const Layer& layer, const AttentionItem& item, int32_t kv_head, float* scratch)
      : layer_(layer),
        item_(item),
        sequence_(layer.params.work->sequences[static_cast<size_t>(item.sequence)]),
        kv_head_(kv_head),
        num_queries_(item.num_rows * layer.group) {
    num_bundles_ = (num_queries_ + layer.query_rows() - 1) / layer.query_rows();
    // What kernels read and write in cache lines comes first, in whole lines.
    void* begin = scratch;
    size_t space = kLineFloats * 2 * sizeof(float);
    q_ = static_cast<float*>(std::align(kLineFloats * sizeof(float), 1, begin, space));
    scores_ = q_ + int64_t{num_queries_} * layer.head_dim;
    weights8_ = reinterpret_cast<uint8_t*>(scores_ + int64_t{kQueryRowsMax} * kSliceKeys);
    folded_ = scores_ + int64_t{kQueryRowsMax} * (kSliceKeys + kSliceKeys / 4);
    fresh_ = folded_ + int64_t{num_queries_} * layer.partial_floats;
    q8_scales_ = fresh_ + int64_t{kQueryRowsMax} * layer.partial_floats;
    q8_sums_ = reinterpret_cast<int32_t*>(q8_scales_ + num_queries_);
  }

  static int64_t scratch_floats(const Layer& layer, int32_t num_rows) {
    const int64_t queries = int64_t{num_rows} * layer.group;
    return kLineFloats + queries * (layer.head_dim + layer.partial_floats + 2) +
           int64_t{kQueryRowsMax} * (layer.partial_floats + kSliceKeys + kSliceKeys / 4);
  }

  void run() {
    for (int32_t b = 0; b < num_bundles_; ++b) {
      layer_.q8() ? pack_queries8(b) : pack_queries(b);
    }
    for (int32_t slice = item_.slice_begin; slice < item_.slice_end; ++slice) {
      find_blocks(slice);
      for (int32_t b = 0; b < num_bundles_; ++b) run_bundle(b, slice);
    }
    if (item_.first_partial < 0) write_output();
  }

 private:
  int32_t bundle_begin(int32_t bundle) const {
    return static_cast<int32_t>(int64_t{num_queries_} * bundle / num_bundles_);
  }
  int32_t position_of(int32_t query) const {
    return sequence_.first_position + (item_.row_begin - sequence_.first_row) +
           query / layer_.group;
  }
  int64_t head_of(int32_t query) const {
    return int64_t{kv_head_} * layer_.group + query % layer_.group;
  }
  int32_t first_key(int32_t query) const {
    const int32_t window = layer_.params.work->window;
    return window > 0 ? std::max(0, position_of(query) - window + 1) : 0;
  }

  const float* query(int32_t index) const {
    const int64_t row = item_.row_begin + index / layer_.group;
    return layer_.params.q + row * layer_.params.q_stride + head_of(index) * layer_.head_dim;
  }

  // [head_dim / 2][rows of the bundle][2], scaled.
  void pack_queries(int32_t bundle) {
    const int32_t begin = bundle_begin(bundle), rows = bundle_begin(bundle + 1) - begin;
    float* packed = q_ + int64_t{begin} * layer_.head_dim;
    for (int32_t r = 0; r < rows; ++r) {
      const float* q = query(begin + r);
      for (int32_t i = 0; i < layer_.head_dim; i += 2) {
        packed[i * rows + 2 * r] = q[i] * layer_.q_scale;
        packed[i * rows + 2 * r + 1] = q[i + 1] * layer_.q_scale;
      }
    }
  }

  void pack_queries8(int32_t bundle) {
    const int32_t begin = bundle_begin(bundle), rows = bundle_begin(bundle + 1) - begin;
    const int32_t head_dim = layer_.head_dim;
    int8_t rounded[kQueryRowsMax * kSliceKeys];  // head_dim is at most kSliceKeys
    for (int32_t r = 0; r < rows; ++r) {
      int8_t* q8 = rounded + int64_t{r} * head_dim;
      q8_scales_[begin + r] = layer_.ops.quantize(query(begin + r), head_dim, q8) * layer_.q_scale;
      q8_sums_[begin + r] = std::accumulate(q8, q8 + head_dim, int32_t{0});
    }
    layer_.kernels.pack_queries8(rounded, rows, head_dim, packed8(begin));
  }
  int8_t* packed8(int32_t index) const {
    return reinterpret_cast<int8_t*>(q_ + int64_t{index} * layer_.head_dim);
  }

  // Only blocks that some row of the item sees are looked up: entries before a window and after
  // the last key may hold anything.
  void find_blocks(int32_t slice) {
    const KvLayout& layout = layer_.store.layout();
    const int32_t begin = std::max(slice * kSliceTokens, first_key(0));
    const int32_t end =
        std::min((slice + 1) * kSliceTokens, position_of(num_queries_ - 1) + 1);
    std::fill(blocks_, blocks_ + kSliceBlocksMax, nullptr);
    if (begin >= end) return;
    const int32_t first_in_slice = slice * kSliceTokens / layout.block_size;
    const int32_t last = (end - 1) / layout.block_size;
    LH_CHECK(last < sequence_.num_blocks);
    for (int32_t i = begin / layout.block_size; i <= last; ++i) {
      const int32_t id = sequence_.block_table[i];
      LH_CHECK(layer_.store.contains(id));
      blocks_[i - first_in_slice] =
          layer_.store.keys(id, layer_.params.layer_in_block, kv_head_);
    }
    std::fill(next_blocks_, next_blocks_ + kSliceBlocksMax, nullptr);
    if (slice + 1 >= item_.slice_end) return;
    // Only to be prefetched, so any block that exists will do.
    const int32_t next = (slice + 1) * kSliceTokens / layout.block_size;
    const int32_t next_end =
        std::min(next + kSliceTokens / layout.block_size, sequence_.num_blocks);
    for (int32_t i = next; i < next_end; ++i) {
      const int32_t id = sequence_.block_table[i];
      if (!layer_.store.contains(id)) break;
      next_blocks_[i - next] = layer_.store.keys(id, layer_.params.layer_in_block, kv_head_);
    }
  }

  void run_bundle(int32_t bundle, int32_t slice) {
    const int32_t begin = bundle_begin(bundle), rows = bundle_begin(bundle + 1) - begin;
    const int32_t slice_start = slice * kSliceTokens;
    int32_t first[kQueryRowsMax], last[kQueryRowsMax];
    float* partials[kQueryRowsMax];
    bool merge[kQueryRowsMax];
    for (int32_t r = 0; r < rows; ++r) {
      const int32_t query = begin + r;
      const int32_t first_visible = first_key(query);
      first[r] = std::clamp(first_visible - slice_start, 0, kSliceTokens);
      last[r] = std::clamp(position_of(query) + 1 - slice_start, first[r], kSliceTokens);
      // A row's first slice starts its fold; later ones are merged into it.
      const bool is_first = first_visible >= slice_start || slice == item_.slice_begin;
      merge[r] = item_.first_partial < 0 && !is_first && first[r] < last[r];
      if (item_.first_partial >= 0) {
        partials[r] = layer_.partial(partial_index(query, slice), head_of(query));
      } else {
        partials[r] = merge[r] ? fresh_ + int64_t{r} * layer_.partial_floats : folded(query);
      }
    }

    AttentionSliceArgs args;
    args.num_rows = rows;
    args.q = q_ + int64_t{begin} * layer_.head_dim;
    args.first = first;
    args.last = last;
    args.blocks = blocks_;
    args.values_offset = layer_.store.values_offset();
    args.next_blocks = next_blocks_;
    args.block_size = layer_.store.layout().block_size;
    args.head_dim = layer_.head_dim;
    args.dtype = layer_.store.layout().dtype;
    args.softcap = layer_.softcap;
    args.scores = scores_;
    args.partials = partials;
    if (layer_.q8()) {
      args.q8 = packed8(begin);
      args.q8_scales = q8_scales_ + begin;
      args.q8_sums = q8_sums_ + begin;
      args.weights8 = weights8_;
      layer_.kernels.slice8(args);
    } else {
      layer_.kernels.slice(args);
    }
    for (int32_t r = 0; r < rows; ++r) {
      if (merge[r]) layer_.kernels.merge(folded(begin + r), partials[r], layer_.head_dim);
    }
  }

  void write_output() {
    for (int32_t query = 0; query < num_queries_; ++query) {
      const int64_t row = item_.row_begin + query / layer_.group;
      float* out = layer_.params.out + row * layer_.params.out_stride +
                   head_of(query) * layer_.head_dim;
      layer_.kernels.finish(folded(query), out, layer_.head_dim);
    }
  }

  float* folded(int32_t query) { return folded_ + int64_t{query} * layer_.partial_floats; }
  int64_t partial_index(int32_t query, int32_t slice) const {
    return int64_t{item_.first_partial} +
           int64_t{slice - item_.slice_begin} * item_.num_rows + query / layer_.group;
  }

  const Layer& layer_;
  const AttentionItem& item_;
  const AttentionSequence& sequence_;
  int32_t kv_head_;
  int32_t num_queries_;
  int32_t num_bundles_;
  float* q_;            // packed queries of all bundles
  float* scores_;       // [kQueryRowsMax][kSliceKeys]
  uint8_t* weights8_;   // [kQueryRowsMax][kSliceKeys]
  float* folded_;       // [num_queries][head_dim + 2] partials so far
  float* fresh_;        // [kQueryRowsMax][head_dim + 2] partials of the current slice
  float* q8_scales_;    // [num_queries]
  int32_t* q8_sums_;    // [num_queries]
  const std::byte* blocks_[kSliceBlocksMax] = {};
  const std::byte* next_blocks_[kSliceBlocksMax] = {};
};

// An upper bound: masked keys count as well.
int64_t num_products(const Layer& layer) {
  int64_t pairs = 0;
  for (const AttentionSequence& sequence : layer.params.work->sequences) {
    const int32_t last = sequence.first_position + sequence.num_rows;
    const int32_t window = layer.params.work->window;
    pairs += int64_t{sequence.num_rows} * (window > 0 ? std::min(window, last) : last);
  }
  return pairs * layer.params.num_heads * layer.head_dim * 2;
}

void combine_row(const Layer& layer, const AttentionCombine& combine, int32_t head, float* sum) {
  const AttentionWork& work = *layer.params.work;
  const int32_t* indices = work.partial_indices.data() + combine.first;
  const size_t bytes = static_cast<size_t>(layer.partial_floats) * sizeof(float);
  std::memcpy(sum, layer.partial(indices[0], head), bytes);
  for (int32_t i = 1; i < combine.count; ++i) {
    layer.kernels.merge(sum, layer.partial(indices[i], head), layer.head_dim);
  }
  float* out = layer.params.out + int64_t{combine.row} * layer.params.out_stride +
               int64_t{head} * layer.head_dim;
  layer.kernels.finish(sum, out, layer.head_dim);
}

}  // namespace

void attention_layer(const AttentionLayerParams& params, const KvStore& store, Isa isa,
                     AttentionScratch& scratch, ThreadPool& pool) {
  const AttentionWork& work = *params.work;
  if (work.items.empty()) return;
  const KvLayout& layout = store.layout();
  LH_CHECK(work.block_size == layout.block_size);
  LH_CHECK(params.num_heads % layout.num_kv_heads == 0);

  // q_scale turns q k into a power of two; with a softcap, into the argument of tanh.
  double natural = params.softcap > 0 ? double{params.scale} / params.softcap
                                      : double{params.scale} * kLog2E;
  if (layout.dtype == KvDType::kQ8) natural /= rotation_size(layout.head_dim);
  const int32_t partial_floats = layout.head_dim + 2;
  const Layer layer{
      params,
      store,
      kernels_for(isa),
      row_ops(isa),
      scratch.partials(int64_t{work.num_partials} * params.num_heads * partial_floats),
      layout.head_dim,
      params.num_heads / layout.num_kv_heads,
      partial_floats,
      static_cast<float>(natural),
      params.softcap > 0 ? static_cast<float>(params.softcap * kLog2E) : 0.0f};

  int32_t rows_max = 0;
  for (const AttentionItem& item : work.items) rows_max = std::max(rows_max, item.num_rows);
  const int64_t scratch_floats = Unit::scratch_floats(layer, rows_max);
  scratch.set_workers(pool.num_threads());
  const int32_t num_kv_heads = layout.num_kv_heads;
  const auto run_unit = [&](int64_t index, int worker) {
    const AttentionItem& item = work.items[static_cast<size_t>(index / num_kv_heads)];
    Unit(layer, item, static_cast<int32_t>(index % num_kv_heads),
         scratch.worker(worker, scratch_floats))
        .run();
  };
  const int64_t num_units = static_cast<int64_t>(work.items.size()) * num_kv_heads;
  const bool alone = num_units == 1 || num_products(layer) < kInlineProducts;
  const bool stateful = layer.q8() && layer.kernels.enter != nullptr &&
                        rows_max * layer.group >= kTileQueryRowsMin;
  const auto enter = [&] {
    if (stateful) layer.kernels.enter(layer.head_dim);
  };
  const auto leave = [&] {
    if (stateful) layer.kernels.leave();
  };
  if (alone) {
    enter();
    for (int64_t i = 0; i < num_units; ++i) run_unit(i, 0);
    leave();
  } else {
    pool.for_dynamic(num_units, run_unit, enter, leave);
  }

  if (work.combines.empty()) return;
  const int64_t num_rows = static_cast<int64_t>(work.combines.size()) * params.num_heads;
  pool.for_static(num_rows, [&](int64_t index, int worker) {
    combine_row(layer, work.combines[static_cast<size_t>(index / params.num_heads)],
                static_cast<int32_t>(index % params.num_heads),
                scratch.worker(worker, scratch_floats));
  });
}

}  // namespace longhaul::cpu
