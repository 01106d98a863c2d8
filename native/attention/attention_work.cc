// Cutting a step's attention into items of about equal cost.
//
// Cost of an item is the number of (row, key) pairs it touches. Rows of one sequence that follow
// each other are packed, so that a slice of K and V is read once for many rows. A pack heavier
// than a worker's fair share is cut along its slices; its partials are merged afterwards. Neither
// choice changes a result (see the contract in the header), so both only look at cost.
#include "attention/attention_work.h"

#include <algorithm>
#include <numeric>

namespace longhaul {
namespace {

// Rows of a pack: enough that a slice read from memory is used for tens of rows, few enough that
// queries and accumulators of a pack (rows * group * head_dim * 8 bytes) stay in a core's L2.
constexpr int32_t kPackRows = 32;
// Packs are not cut below this for balance: each one reads its K and V again.
constexpr int32_t kPackRowsMin = 8;
// Units a worker should find, so that the last ones even out.
constexpr int64_t kUnitsPerWorker = 4;

struct Range {
  int32_t begin = 0;  // inclusive
  int32_t end = 0;    // exclusive
};

Range visible_keys(const AttentionWork& work, int32_t position) {
  const int32_t begin = work.window > 0 ? std::max(0, position - work.window + 1) : 0;
  return {begin, position + 1};
}

Range visible_slices(const AttentionWork& work, int32_t position) {
  const Range keys = visible_keys(work, position);
  return {keys.begin / kSliceTokens, (keys.end - 1) / kSliceTokens + 1};
}

int64_t keys_in_slices(const Range& keys, int32_t slice_begin, int32_t slice_end) {
  const int64_t begin = std::max<int64_t>(keys.begin, int64_t{slice_begin} * kSliceTokens);
  const int64_t end = std::min<int64_t>(keys.end, int64_t{slice_end} * kSliceTokens);
  return std::max<int64_t>(0, end - begin);
}

class Builder {
 public:
  Builder(AttentionWork& work, const AttentionWorkOptions& options)
      : work_(work), options_(options) {}

  void build() {
    work_.items.clear();
    work_.combines.clear();
    work_.partial_indices.clear();
    work_.num_partials = 0;
    choose_target();
    for (size_t i = 0; i < work_.sequences.size(); ++i) add_sequence(static_cast<int32_t>(i));
    sort_items();
  }

 private:
  int32_t position_of(const AttentionSequence& sequence, int32_t row) const {
    return sequence.first_position + (row - sequence.first_row);
  }

  int64_t cost_of(const AttentionItem& item) const {
    const AttentionSequence& sequence = work_.sequences[static_cast<size_t>(item.sequence)];
    int64_t cost = 0;
    for (int32_t i = 0; i < item.num_rows; ++i) {
      const Range keys = visible_keys(work_, position_of(sequence, item.row_begin + i));
      cost += keys_in_slices(keys, item.slice_begin, item.slice_end);
    }
    return cost;
  }

  // Every item runs once for each kv head, so a worker's share is counted in those units. One
  // worker has nothing to balance.
  void choose_target() {
    target_ = INT64_MAX;
    if (options_.parallelism <= 1) return;
    int64_t total = 0;
    for (const AttentionSequence& sequence : work_.sequences) {
      for (int32_t i = 0; i < sequence.num_rows; ++i) {
        const Range keys = visible_keys(work_, sequence.first_position + i);
        total += keys.end - keys.begin;
      }
    }
    const int64_t units = options_.parallelism * kUnitsPerWorker;
    target_ = std::max<int64_t>(1, total * std::max(1, options_.num_kv_heads) / units);
  }

  void add_sequence(int32_t index) {
    const AttentionSequence& sequence = work_.sequences[static_cast<size_t>(index)];
    const int32_t end = sequence.first_row + sequence.num_rows;
    for (int32_t row = sequence.first_row; row < end;) {
      const int32_t num_rows = pack_rows(sequence, row, end);
      add_pack(index, row, num_rows);
      row += num_rows;
    }
  }

  int32_t pack_rows(const AttentionSequence& sequence, int32_t row, int32_t end) const {
    int64_t cost = 0;
    int32_t num_rows = 0;
    while (num_rows < kPackRows && row + num_rows < end) {
      const Range keys = visible_keys(work_, position_of(sequence, row + num_rows));
      cost += keys.end - keys.begin;
      if (num_rows >= kPackRowsMin && cost > target_) break;
      ++num_rows;
    }
    return num_rows;
  }

  void add_pack(int32_t index, int32_t row, int32_t num_rows) {
    const AttentionSequence& sequence = work_.sequences[static_cast<size_t>(index)];
    AttentionItem item;
    item.sequence = index;
    item.row_begin = row;
    item.num_rows = num_rows;
    // Both ends of the visible range grow with the position.
    item.slice_begin = visible_slices(work_, position_of(sequence, row)).begin;
    item.slice_end = visible_slices(work_, position_of(sequence, row + num_rows - 1)).end;

    const int64_t cost = cost_of(item);
    const int32_t num_slices = item.slice_end - item.slice_begin;
    const int64_t partials = int64_t{num_slices} * num_rows;
    // Half as much again as the fair share is not worth a merge.
    const bool heavy = target_ < INT64_MAX && cost > target_ + target_ / 2 && num_slices > 1;
    if (!heavy || work_.num_partials + partials > options_.max_partials) {
      work_.items.push_back(item);
      costs_.push_back(cost);
      return;
    }
    split_pack(item, cost);
  }

  // Pieces of consecutive slices, as equal as slices allow.
  void split_pack(const AttentionItem& pack, int64_t cost) {
    const int32_t num_slices = pack.slice_end - pack.slice_begin;
    const auto pieces = static_cast<int32_t>(
        std::min<int64_t>(num_slices, (cost + target_ - 1) / target_));
    const int32_t first_partial = work_.num_partials;
    for (int32_t i = 0; i < pieces; ++i) {
      AttentionItem item = pack;
      const int64_t n = num_slices;
      item.slice_begin = pack.slice_begin + static_cast<int32_t>(n * i / pieces);
      item.slice_end = pack.slice_begin + static_cast<int32_t>(n * (i + 1) / pieces);
      // Partials of a pack are [slice][row] throughout, so that a piece's own numbering
      // (header) is the pack's, shifted.
      item.first_partial = first_partial + (item.slice_begin - pack.slice_begin) * pack.num_rows;
      work_.items.push_back(item);
      costs_.push_back(cost_of(item));
    }
    work_.num_partials += num_slices * pack.num_rows;
    add_combines(pack, first_partial);
  }

  void add_combines(const AttentionItem& pack, int32_t first_partial) {
    const AttentionSequence& sequence = work_.sequences[static_cast<size_t>(pack.sequence)];
    for (int32_t i = 0; i < pack.num_rows; ++i) {
      const Range slices = visible_slices(work_, position_of(sequence, pack.row_begin + i));
      AttentionCombine combine;
      combine.row = pack.row_begin + i;
      combine.first = static_cast<int32_t>(work_.partial_indices.size());
      combine.count = slices.end - slices.begin;
      for (int32_t slice = slices.begin; slice < slices.end; ++slice) {
        work_.partial_indices.push_back(first_partial +
                                        (slice - pack.slice_begin) * pack.num_rows + i);
      }
      work_.combines.push_back(combine);
    }
  }

  void sort_items() {
    std::vector<size_t> order(work_.items.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return costs_[a] > costs_[b]; });
    std::vector<AttentionItem> sorted;
    sorted.reserve(order.size());
    for (const size_t i : order) sorted.push_back(work_.items[i]);
    work_.items = std::move(sorted);
  }

  AttentionWork& work_;
  const AttentionWorkOptions& options_;
  int64_t target_ = INT64_MAX;   // keys a unit should cost; INT64_MAX = do not balance
  std::vector<int64_t> costs_;   // parallel to work_.items
};

}  // namespace

void build_attention_work(AttentionWork& work, const AttentionWorkOptions& options) {
  Builder(work, options).build();
}

}  // namespace longhaul
