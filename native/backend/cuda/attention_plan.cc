#include "backend/cuda/attention_plan.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <queue>

#include "attention_shapes.h"
#include "check.h"

namespace longhaul::cuda {

using device::AttentionGrids;
using device::AttentionItem;
using device::AttentionLists;
using device::AttentionMerge;
using device::kAttentionDecodeRows;
using device::kAttentionMergeRows;

namespace {

// A cut costs a partial's write and read and an item's start (list, table and first tile follow each
// other), so pieces of decode items are at least this long: two tiles a warp.
constexpr int64_t kDecodeKeysMin = 128;
// An item's start, in keys that could be read in the meantime.
constexpr int64_t kItemOverheadKeys = 48;
// Pieces of prefill items: against 64 rows a key is work for the tensor cores.
constexpr int64_t kPrefillKeysMin = 512;
// Cuts lie at multiples of this many keys, so that both pieces have whole tiles.
constexpr int32_t kCutKeys = 64;
// Rows with more partials than this are shared by a block's warps.
constexpr int32_t kPartsForOneWarp = 8;

constexpr int32_t ceil_div(int32_t a, int32_t b) { return (a + b - 1) / b; }

}  // namespace

int32_t partial_rows_wanted(const AttentionGrids& grids) {
  return grids.decode * 2 * kAttentionDecodeRows + grids.prefill * 64;
}

AttentionCounts decode_counts_max(int32_t num_sequences, int64_t table_entries,
                                  const AttentionPlanOptions& options) {
  const int32_t group = options.num_heads / options.num_kv_heads;
  const int32_t units = num_sequences * options.num_kv_heads;
  AttentionCounts counts;
  counts.decode_items = units + options.grids.decode;
  // Rows whose keys are cut: at most one unit is cut at each border between two blocks. Rows merged
  // with other segments: all.
  const bool has_extras = options.extras != nullptr;
  const int32_t merged_units = has_extras ? units : std::min(units, options.grids.decode);
  counts.merges = merged_units * group;
  counts.table_entries = options.table_offsets != nullptr ? 0 : table_entries;
  return counts;
}

class PlanBuilder {
 public:
  PlanBuilder(AttentionPlan& plan, const std::vector<AttentionSequence>& sequences,
              const AttentionPlanOptions& options)
      : plan_(plan),
        sequences_(sequences),
        options_(options),
        group_(options.num_heads / options.num_kv_heads),
        next_partial_(options.partial_row_begin) {}

  void build() {
    plan_ = AttentionPlan();
    add_tables();
    add_decode();
    add_prefill();
    plan_.num_partial_rows_ = next_partial_ - options_.partial_row_begin;
  }

 private:
  // All packed rows of one kv head (decode), or one tile of them (prefill), against all their keys.
  struct Unit {
    AttentionItem item;
    int32_t sequence = 0;
  };

  int32_t packed_rows(const AttentionSequence& sequence) const {
    return sequence.num_rows * group_;
  }
  bool is_decode(const AttentionSequence& sequence) const {
    return packed_rows(sequence) <= kAttentionDecodeRows;
  }
  const ExtraPartials* extra(int32_t sequence) const {
    if (options_.extras == nullptr || options_.extras[sequence].count == 0) return nullptr;
    return &options_.extras[sequence];
  }
  int32_t partials_left() const { return options_.partial_row_end - next_partial_; }

  // First key that row `row` of the sequence sees.
  int32_t first_key(const AttentionSequence& sequence, int32_t row) const {
    if (options_.window <= 0) return 0;
    return std::max(0, sequence.first_position + row - options_.window + 1);
  }

  // ---- block tables

  void add_tables() {
    table_offsets_.resize(sequences_.size());
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const AttentionSequence& sequence = sequences_[i];
      if (options_.table_offsets != nullptr) {
        table_offsets_[i] = options_.table_offsets[i];
        continue;
      }
      if (sequence.num_rows == 0) continue;
      const int32_t begin = first_key(sequence, 0) / options_.block_size;
      const int32_t end =
          (sequence.first_position + sequence.num_rows - 1) / options_.block_size + 1;
      LH_CHECK(end <= sequence.num_blocks);
      table_offsets_[i] = static_cast<int32_t>(plan_.tables_.size()) - begin;
      plan_.tables_.insert(plan_.tables_.end(), sequence.block_table + begin,
                           sequence.block_table + end);
    }
  }

  Unit make_unit(int32_t index, int32_t kv_head, int32_t packed_begin, int32_t packed_count) const {
    const AttentionSequence& sequence = sequences_[static_cast<size_t>(index)];
    Unit unit;
    unit.sequence = index;
    AttentionItem& item = unit.item;
    item.first_row = sequence.first_row;
    item.first_position = sequence.first_position;
    item.packed_begin = packed_begin;
    item.packed_count = packed_count;
    item.kv_head = kv_head;
    item.key_begin = first_key(sequence, packed_begin / group_);
    item.key_end = sequence.first_position + (packed_begin + packed_count - 1) / group_ + 1;
    item.table_offset = table_offsets_[static_cast<size_t>(index)];
    return unit;
  }

  // Partial rows of `num_parts` pieces of a unit, and the merges that read them.
  int32_t add_merges(const Unit& unit, int32_t num_parts) {
    const AttentionItem& item = unit.item;
    const int32_t first = next_partial_;
    next_partial_ += num_parts * item.packed_count;
    const ExtraPartials* other = extra(unit.sequence);
    const int32_t parts = num_parts + (other != nullptr ? other->count : 0);
    const int32_t rows = parts > kPartsForOneWarp ? 1 : kAttentionMergeRows;
    for (int32_t row = 0; row < item.packed_count; row += rows) {
      AttentionMerge merge;
      merge.first_row = item.first_row;
      merge.packed_begin = item.packed_begin + row;
      merge.packed_count = std::min(rows, item.packed_count - row);
      merge.kv_head = item.kv_head;
      merge.first[0] = first + row;
      merge.count[0] = num_parts;
      merge.stride[0] = item.packed_count;
      if (other != nullptr) {
        merge.first[1] = other->first + item.kv_head * other->kv_head_stride + merge.packed_begin;
        merge.count[1] = other->count;
        merge.stride[1] = other->stride;
      }
      plan_.merges_.push_back(merge);
    }
    return first;
  }

  // Cuts the unit's keys before each of `cuts` (ascending, within the keys) and hands over the pieces.
  // Units in one piece write the output themselves unless other segments are merged in.
  void cut(const Unit& unit, const std::vector<int32_t>& cuts, std::vector<AttentionItem>& pieces) {
    pieces.clear();
    const auto num_parts = static_cast<int32_t>(cuts.size()) + 1;
    const bool is_merged = num_parts > 1 || extra(unit.sequence) != nullptr;
    const int32_t first_partial = is_merged ? add_merges(unit, num_parts) : -1;
    for (int32_t i = 0; i < num_parts; ++i) {
      AttentionItem piece = unit.item;
      if (i > 0) piece.key_begin = cuts[static_cast<size_t>(i - 1)];
      if (i + 1 < num_parts) piece.key_end = cuts[static_cast<size_t>(i)];
      if (is_merged) piece.first_partial = first_partial + i * piece.packed_count;
      pieces.push_back(piece);
    }
  }

  // Partial rows that must stay for units that have to be merged with other segments.
  int32_t reserved_partials() const {
    int64_t rows = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      if (extra(static_cast<int32_t>(i)) != nullptr) {
        rows += int64_t{packed_rows(sequences_[i])} * options_.num_kv_heads;
      }
    }
    LH_CHECK(rows <= options_.partial_row_end - options_.partial_row_begin);
    return static_cast<int32_t>(rows);
  }

  // ---- decode: keys of all units laid end to end, cut into spans of blocks

  struct DecodePiece {
    int32_t unit = 0;
    int32_t key_end = 0;   // exclusive; begins where the unit's piece before it ends
    int32_t block = 0;
  };

  // Fills blocks one after another to `span` keys or a little more. Ends early, false, when there
  // are not enough blocks.
  bool fill_blocks(const std::vector<Unit>& units, int64_t span, int32_t spare,
                   std::vector<DecodePiece>& pieces) const {
    // A piece may end this far beyond its block's span rather than leave a short one.
    const int64_t slack = std::min(kDecodeKeysMin, span / 8);
    pieces.clear();
    int32_t block = 0;
    int64_t used = 0;   // keys of the block
    for (size_t i = 0; i < units.size(); ++i) {
      const AttentionItem& item = units[i].item;
      const int32_t held = extra(units[i].sequence) != nullptr ? 1 : 0;
      int32_t begin = item.key_begin;
      int32_t parts = 1;
      while (true) {
        const int64_t room = span - used - kItemOverheadKeys;
        const int64_t left = item.key_end - begin;
        if (left <= room + slack) break;
        if (room < kDecodeKeysMin) {
          if (used == 0) break;   // a block of its own is not more than that
        } else {
          const int64_t keys = (begin + room + kCutKeys - 1) / kCutKeys * kCutKeys - begin;
          const int32_t rows = (parts == 1 ? 2 - held : 1) * item.packed_count;
          if (keys >= left) break;
          // Without room for partials the unit stays whole, in a block that may be empty.
          if (rows <= spare) {
            spare -= rows;
            ++parts;
            begin += static_cast<int32_t>(keys);
            pieces.push_back({static_cast<int32_t>(i), begin, block});
          } else if (used == 0 || parts > 1) {
            break;
          }
        }
        if (++block == options_.grids.decode) return false;
        used = 0;
      }
      pieces.push_back({static_cast<int32_t>(i), item.key_end, block});
      used += item.key_end - begin + kItemOverheadKeys;
      if (used >= span && i + 1 < units.size()) {
        if (++block == options_.grids.decode) return false;
        used = 0;
      }
    }
    return true;
  }

  void add_decode() {
    const int32_t blocks = options_.grids.decode;
    plan_.decode_offsets_.assign(static_cast<size_t>(blocks) + 1, 0);
    std::vector<Unit> units;
    int64_t total = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      if (sequences_[i].num_rows == 0 || !is_decode(sequences_[i])) continue;
      for (int32_t head = 0; head < options_.num_kv_heads; ++head) {
        units.push_back(make_unit(static_cast<int32_t>(i), head, 0, packed_rows(sequences_[i])));
        total += cost_of(units.back().item);
      }
    }
    if (units.empty()) return;
    // The shortest span with which the blocks suffice: a little above the fair share, as cuts lie at
    // whole tiles and not everywhere. One block alone takes everything.
    const int32_t spare = partials_left() - reserved_partials();
    std::vector<DecodePiece> pieces;
    int64_t low = std::max<int64_t>((total + blocks - 1) / blocks, kDecodeKeysMin + kItemOverheadKeys);
    int64_t high = std::max(low, total);
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (fill_blocks(units, middle, spare, pieces)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    LH_CHECK(fill_blocks(units, low, spare, pieces));
    add_decode_items(units, pieces);
  }

  void add_decode_items(const std::vector<Unit>& units, const std::vector<DecodePiece>& pieces) {
    std::vector<int32_t> cuts;
    std::vector<AttentionItem> items;
    size_t at = 0;
    for (size_t i = 0; i < units.size(); ++i) {
      cuts.clear();
      size_t end = at;
      for (; pieces[end].key_end != units[i].item.key_end; ++end) cuts.push_back(pieces[end].key_end);
      cut(units[i], cuts, items);
      for (const AttentionItem& item : items) {
        plan_.decode_items_.push_back(item);
        ++plan_.decode_offsets_[static_cast<size_t>(pieces[at++].block) + 1];
      }
    }
    std::partial_sum(plan_.decode_offsets_.begin(), plan_.decode_offsets_.end(),
                     plan_.decode_offsets_.begin());
  }

  static int64_t cost_of(const AttentionItem& item) {
    return item.key_end - item.key_begin + kItemOverheadKeys;
  }

  // ---- prefill: tiles of rows, the heaviest first

  // Keys a tile's rows multiply, in units of 64 rows; rows see fewer keys than the last one does, but
  // whole tiles are multiplied.
  static int64_t prefill_cost(const AttentionItem& item) {
    return int64_t{item.key_end - item.key_begin + 32} * (item.packed_count > 64 ? 2 : 1);
  }

  void add_prefill() {
    const int32_t blocks = options_.grids.prefill;
    const int32_t tile_rows = device::attention_prefill_rows(options_.head_dim);
    int64_t num_tiles = 0;
    for (const AttentionSequence& sequence : sequences_) {
      if (sequence.num_rows == 0 || is_decode(sequence)) continue;
      num_tiles += int64_t{ceil_div(packed_rows(sequence), tile_rows)} * options_.num_kv_heads;
    }
    plan_.prefill_offsets_.assign(static_cast<size_t>(blocks) + 1, 0);
    if (num_tiles == 0) return;
    // Too few tiles for all blocks: smaller ones, 64 rows being what costs no idle products.
    const int32_t rows = num_tiles < blocks ? 64 : tile_rows;
    std::vector<Unit> units;
    int64_t total = 0;
    for (size_t i = 0; i < sequences_.size(); ++i) {
      const AttentionSequence& sequence = sequences_[i];
      if (sequence.num_rows == 0 || is_decode(sequence)) continue;
      for (int32_t begin = 0; begin < packed_rows(sequence); begin += rows) {
        const int32_t count = std::min(rows, packed_rows(sequence) - begin);
        for (int32_t head = 0; head < options_.num_kv_heads; ++head) {
          units.push_back(make_unit(static_cast<int32_t>(i), head, begin, count));
          total += prefill_cost(units.back().item);
        }
      }
    }
    std::vector<AttentionItem> items, pieces;
    int32_t spare = partials_left() - reserved_prefill_partials(units);
    for (const Unit& unit : units) {
      const std::vector<int32_t> cuts = prefill_cuts(unit, total / blocks, spare);
      cut(unit, cuts, pieces);
      items.insert(items.end(), pieces.begin(), pieces.end());
    }
    spread(items);
  }

  int32_t reserved_prefill_partials(const std::vector<Unit>& units) const {
    int32_t rows = 0;
    for (const Unit& unit : units) {
      if (extra(unit.sequence) != nullptr) rows += unit.item.packed_count;
    }
    return rows;
  }

  // Equal pieces of a unit that costs more than a block's share of everything.
  std::vector<int32_t> prefill_cuts(const Unit& unit, int64_t share, int32_t& spare) const {
    const AttentionItem& item = unit.item;
    const int64_t keys = item.key_end - item.key_begin;
    std::vector<int32_t> cuts;
    const int64_t wanted = (prefill_cost(item) + std::max<int64_t>(share, 1) - 1) /
                           std::max<int64_t>(share, 1);
    auto parts = static_cast<int32_t>(std::min(wanted, keys / kPrefillKeysMin));
    const int32_t held = extra(unit.sequence) != nullptr ? 1 : 0;
    parts = std::min(parts, spare / item.packed_count + held);
    if (parts < 2) return cuts;
    for (int32_t i = 1; i < parts; ++i) {
      const auto at = static_cast<int32_t>((item.key_begin + keys * i / parts) / kCutKeys * kCutKeys);
      cuts.push_back(at);
    }
    spare -= (parts - held) * item.packed_count;
    return cuts;
  }

  // Each item to the block with the least work so far; equal ones in order of number.
  void spread(const std::vector<AttentionItem>& items) {
    std::vector<size_t> order(items.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return prefill_cost(items[a]) > prefill_cost(items[b]);
    });
    using Load = std::pair<int64_t, int32_t>;
    std::priority_queue<Load, std::vector<Load>, std::greater<Load>> loads;
    for (int32_t b = 0; b < options_.grids.prefill; ++b) loads.push({0, b});
    std::vector<int32_t> block_of(items.size());
    for (const size_t i : order) {
      Load load = loads.top();
      loads.pop();
      block_of[i] = load.second;
      load.first += prefill_cost(items[i]);
      loads.push(load);
      ++plan_.prefill_offsets_[static_cast<size_t>(load.second) + 1];
    }
    std::partial_sum(plan_.prefill_offsets_.begin(), plan_.prefill_offsets_.end(),
                     plan_.prefill_offsets_.begin());
    std::vector<int32_t> next = plan_.prefill_offsets_;
    plan_.prefill_items_.resize(items.size());
    for (const size_t i : order) {
      const auto block = static_cast<size_t>(block_of[i]);
      plan_.prefill_items_[static_cast<size_t>(next[block]++)] = items[i];
    }
  }

  AttentionPlan& plan_;
  const std::vector<AttentionSequence>& sequences_;
  const AttentionPlanOptions& options_;
  int32_t group_;
  int32_t next_partial_;
  std::vector<int32_t> table_offsets_;
};

void AttentionPlan::build(const std::vector<AttentionSequence>& sequences,
                          const AttentionPlanOptions& options) {
  PlanBuilder(*this, sequences, options).build();
}

AttentionCounts AttentionPlan::counts() const {
  AttentionCounts counts;
  counts.decode_items = static_cast<int32_t>(decode_items_.size());
  counts.prefill_items = static_cast<int32_t>(prefill_items_.size());
  counts.merges = static_cast<int32_t>(merges_.size());
  counts.table_entries = static_cast<int64_t>(tables_.size());
  return counts;
}

AttentionLayout::AttentionLayout(const AttentionCounts& limits, const AttentionGrids& grids)
    : counts(limits) {
  int64_t at = 0;
  const auto take = [&at](int64_t bytes_taken) {
    const int64_t begin = at;
    at = (at + bytes_taken + 15) / 16 * 16;
    return begin;
  };
  num_merges = take(4);
  decode_offsets = take((int64_t{grids.decode} + 1) * 4);
  prefill_offsets = take((int64_t{grids.prefill} + 1) * 4);
  decode_items = take(counts.decode_items * int64_t{sizeof(AttentionItem)});
  merges = take(counts.merges * int64_t{sizeof(AttentionMerge)});
  prefill_items = take(counts.prefill_items * int64_t{sizeof(AttentionItem)});
  tables = take(counts.table_entries * 4);
  bytes = at;
}

AttentionLists AttentionLayout::lists(const std::byte* device, const int32_t* block_tables) const {
  AttentionLists lists;
  lists.block_tables =
      block_tables != nullptr ? block_tables : reinterpret_cast<const int32_t*>(device + tables);
  lists.prefill_offsets = reinterpret_cast<const int32_t*>(device + prefill_offsets);
  lists.prefill_items = reinterpret_cast<const AttentionItem*>(device + prefill_items);
  lists.decode_offsets = reinterpret_cast<const int32_t*>(device + decode_offsets);
  lists.decode_items = reinterpret_cast<const AttentionItem*>(device + decode_items);
  lists.num_merges = reinterpret_cast<const int32_t*>(device + num_merges);
  lists.merges = reinterpret_cast<const AttentionMerge*>(device + merges);
  return lists;
}

int64_t AttentionPlan::encode(const AttentionLayout& layout, std::byte* to) const {
  const AttentionCounts own = counts();
  LH_CHECK(own.decode_items <= layout.counts.decode_items && own.merges <= layout.counts.merges &&
           own.prefill_items <= layout.counts.prefill_items &&
           own.table_entries <= layout.counts.table_entries);
  const auto put = [to](int64_t at, const auto& values) {
    if (!values.empty()) std::memcpy(to + at, values.data(), values.size() * sizeof(values[0]));
  };
  std::memcpy(to + layout.num_merges, &own.merges, sizeof(own.merges));
  put(layout.decode_offsets, decode_offsets_);
  put(layout.prefill_offsets, prefill_offsets_);
  put(layout.decode_items, decode_items_);
  put(layout.merges, merges_);
  put(layout.prefill_items, prefill_items_);
  put(layout.tables, tables_);
  return layout.tables + own.table_entries * int64_t{sizeof(int32_t)};
}

}  // namespace longhaul::cuda
