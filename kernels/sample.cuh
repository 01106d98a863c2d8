// Rows of logits to tokens (sample.h). Each kernel reads a row once, a block a chunk of it; the
// block of a row that arrives last finishes the stage for the row (it sees what the others wrote:
// arrives_last), so that no kernel exists for small reductions alone.
//
// Cost on an H100, one row of 128K logits (512 KiB, in L2 after the head's product): a stage is a
// launch inside a graph (1 to 1.5 us), a round of loads (0.7 us), one or two block reductions
// (0.2 us each), the arrival (fence and atomic, 1 us) and the last block's work:
//   scan     + merge of 32 chunks                        0.5 us     4 us      greedy ends here
//   weigh    histogram by shared atomics (4096 a block)  1 us
//            + merge by 100 to 300 global atomics        0.5 us
//            + search of 1024 bins, or the draw          1 us       5 us      plain draws end here
//   collect  + ranking of the border's items, draw       3 us       6 us
//   rank                                                            3 us
// so greedy 4 us, temperature alone 9 us, top_k, top_p, min_p 15 us, log-probabilities 3 more (with
// a top list two stages that greedy has not). 64 rows: 32 MiB a stage, 10 to 14 us at 3 TB/s.
// sm_90a: 40 (scan), 58 (weigh), 80 (collect), 34 (rank) registers; 17 KiB of shared memory, weigh
// and collect 34: 6, 4, 3 and 7 blocks a multiprocessor, 64 bytes in flight a thread.
#pragma once

#include "device.cuh"
#include "philox.cuh"
#include "sample_block.cuh"
#include "sample_layout.h"
#include "sample_row.cuh"
#include "sample_select.cuh"

namespace longhaul::device {

// ---- scan: extent of the row before and after edits; greedy and looked-up tokens

// The chunk's largest logit as order_key and complement of its id: of equal ones the first wins.
__device__ __forceinline__ uint64_t best_of(const SampleRow& row, int32_t chunk,
                                            const ChunkLogits& logits) {
  uint64_t best = 0;
#pragma unroll
  for (int i = 0; i < SampleConfig::kElements; ++i) {
    const uint32_t complement = ~static_cast<uint32_t>(element_id(chunk, i));
    const uint64_t key = uint64_t{order_key(logits.x[i])} << 32 | complement;
    best = best < key ? key : best;
  }
  return block_largest(best, row.shared);
}
__device__ __forceinline__ float best_logit(uint64_t best) {
  return key_float(static_cast<uint32_t>(best >> 32));
}

__device__ __forceinline__ void finish_scan(const SampleRow& row) {
  // The block that arrived last merges the chunks, a thread one of each 256.
  const SampleChunk* chunks = row.chunks();
  uint64_t raw_best = 0, best = 0;
  for (int32_t i = thread_index(); i < row.launch.num_chunks; i += SampleConfig::kThreads) {
    raw_best = raw_best < chunks[i].raw_best ? chunks[i].raw_best : raw_best;
    best = best < chunks[i].best ? chunks[i].best : best;
  }
  raw_best = block_largest(raw_best, row.shared);
  best = row.has_edits() ? block_largest(best, row.shared) : raw_best;
  const float raw_max = best_logit(raw_best), max = best_logit(best);
  double sum = 0;
  if (row.wants_logprob()) {
    for (int32_t i = thread_index(); i < row.launch.num_chunks; i += SampleConfig::kThreads) {
      const float chunk_max = best_logit(chunks[i].raw_best);
      if (chunk_max == kMinusInfinity) continue;
      sum += static_cast<double>(chunks[i].raw_sum) *
             static_cast<double>(expf(chunk_max - raw_max));
    }
    sum = block_add(sum, row.shared);
  }
  if (thread_index() != 0) return;

  const bool raw_finite = raw_max > kMinusInfinity && raw_max < INFINITY;
  const bool finite = max > kMinusInfinity && max < INFINITY;
  const bool known = row.input.known_token < row.params.vocab_size;
  const bool valid = raw_finite && (row.is_lookup() ? known : finite);
  SampleState& state = *row.state;
  state.raw_max = raw_max;
  state.max = max;
  state.log_sum = static_cast<double>(raw_max) + log(sum);
  state.draws = valid && !row.is_lookup() && !row.is_greedy() ? 1 : 0;
  state.tops = valid && row.input.num_top > 0 ? 1 : 0;
  state.collects = 0;
  state.token = -1;
  row.params.results[row.row] = SampleResult{-1, 0.0f, 0, valid ? 1 : 0};
  if (!valid) {
    // Its sequence is ending; a step queued behind this one may still name the slot.
    if (!row.is_lookup() && row.input.slot >= 0) row.params.last_tokens[row.input.slot] = 0;
    for (int32_t i = 0; i < row.input.num_top; ++i) {
      row.params.top[int64_t{row.row} * kSampleTopMax + i] = SampleTop{-1, 0.0f, 0};
    }
  } else if (row.is_lookup()) {
    row.choose(row.input.known_token);
  } else if (row.is_greedy()) {
    row.choose(static_cast<int32_t>(~static_cast<uint32_t>(best)));
  }
}

__global__ void __launch_bounds__(SampleConfig::kThreads)
    sample_scan_kernel(const __grid_constant__ SampleLaunch p) {
  // Block (c, r) owns chunk c of row r; thread t four logits of each 1024.
  if (p.params.rows[blockIdx.y].logits_row < 0) return;
  const SampleRow row(p);
  const int32_t chunk = static_cast<int32_t>(blockIdx.x);
  ChunkLogits logits = row.load_chunk(chunk);

  if (chunk == 0) {  // the stages that follow add to these
    uint32_t* sums = row.at<uint32_t>(SampleLayout::kLow);
    for (int32_t i = thread_index(); i < 4 * SampleConfig::kBins; i += SampleConfig::kThreads) {
      sums[i] = 0;
    }
    if (thread_index() == 0) {
      row.state->num_listed = 0;
      row.state->num_top_listed = 0;
      row.state->num_before = 0;
    }
  }

  const uint64_t raw_best = best_of(row, chunk, logits);
  const float raw_max = best_logit(raw_best);
  float raw_sum = 0;
  if (row.wants_logprob() && raw_max > kMinusInfinity) {
#pragma unroll
    for (int i = 0; i < SampleConfig::kElements; ++i) raw_sum += expf(logits.x[i] - raw_max);
    raw_sum = block_add(raw_sum, row.shared);
  }
  uint64_t best = raw_best;
  if (row.has_edits()) {
    row.apply_edits(chunk, logits);
    best = best_of(row, chunk, logits);
  }
  if (thread_index() == 0) row.chunks()[chunk] = SampleChunk{raw_best, best, 0, raw_sum};
  if (arrives_last(row.state, 0, p.num_chunks, row.shared)) finish_scan(row);
}

// ---- the draw: shared by the stages that can end with one

// Draws from the items up to `last`, of which chunk c's weigh sums low[c], high[c] in shared memory
// (kBins entries), complete but for a barrier.
__device__ __forceinline__ void draw(const SampleRow& row, uint64_t last) {
  const Shared<uint32_t> low = row.shared.low(), high = row.shared.high();
  const double uniform = philox_uniform(row.input.seed, row.input.position);
  block_sync();  // the chunks' sums are complete
  const Found found = find_first(
      row.shared, [&](int32_t i) { return wide(low[i], high[i]); },
      [&](uint64_t total) {
        // The first token at which the running sum exceeds uniform * total.
        const uint64_t target = static_cast<uint64_t>(uniform * static_cast<double>(total));
        return (target < total ? target : total - 1) + 1;
      });
  const int32_t chunk = found.index;
  uint64_t wanted = found.wanted - found.before;

  const ChunkLogits logits = row.load_edited(chunk);
  const float scale = row.scale(), max = row.state->max;
#pragma unroll
  for (int j = 0; j < SampleConfig::kVectors; ++j) {
    uint64_t weight[4], sum = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float distance = (max - logits.x[4 * j + i]) * scale;
      const uint64_t item = item_of(float_bits(distance), element_id(chunk, 4 * j + i));
      weight[i] = item <= last ? weight_of(distance) : 0;
      sum += weight[i];
    }
    const BlockScan scan = block_scan(sum, row.shared);
    if (wanted <= scan.total) {
      if (scan.before < wanted && wanted <= scan.before + sum) {
        uint64_t before = scan.before;
        int picked = 0;
#pragma unroll
        for (int i = 0; i < 3; ++i) {
          if (picked == i && before + weight[i] < wanted) {
            before += weight[i];
            picked = i + 1;
          }
        }
        row.choose(element_id(chunk, 4 * j + picked));
      }
      return;
    }
    wanted -= scan.total;
  }
}

// ---- weigh: weights of candidates, and how they and the raw logits lie

__device__ __forceinline__ void clear_bins(const SampleShared& shared) {
  // low, high, counts and top counts lie in a row.
  for (int32_t i = thread_index(); i < 4 * SampleConfig::kBins; i += SampleConfig::kThreads) {
    shared.low()[i] = 0;
  }
}

// Which bins hold the borders of top_k and top_p, and what is before them. False: neither cuts
// anything. total: weight of all candidates.
__device__ __forceinline__ bool find_border(const SampleRow& row, uint64_t total) {
  const SampleRowInput& input = row.input;
  const SampleShared& shared = row.shared;
  const auto weight_entry = [&](int32_t i) { return wide(shared.low()[i], shared.high()[i]); };
  const auto count_entry = [&](int32_t i) -> uint64_t { return uint32_t{shared.counts()[i]}; };
  const auto sum_before = [&](int32_t end, const auto& entry) {
    uint64_t sum = 0;
    for (int32_t i = thread_index(); i < end; i += SampleConfig::kThreads) sum += entry(i);
    return block_add(sum, shared);
  };

  int32_t first = 0, last = 0;
  bool top_k = false;
  if (input.top_k > 0) {
    uint64_t candidates = 0;
    const Found border = find_first(shared, count_entry, [&](uint64_t all) {
      candidates = all;
      return static_cast<uint64_t>(input.top_k);
    });
    top_k = candidates > static_cast<uint64_t>(input.top_k);
    if (top_k) first = last = border.index;
  }
  if (input.top_p < 1.0f) {
    // With top_k the total is not known yet: it lies between the weight before its border's bin and
    // that with it, and so does top_p's border between the bins that belong to the two.
    const uint64_t least = top_k ? sum_before(last, weight_entry) : total;
    const Found border =
        find_first(shared, weight_entry, [&](uint64_t) { return share_of(input.top_p, least); });
    if (!top_k) last = border.index >= 0 ? border.index : SampleConfig::kBins - 1;
    first = border.index >= 0 && border.index < last ? border.index : last;
  } else if (!top_k) {
    return false;
  }
  const uint64_t count_before = sum_before(first, count_entry);
  const uint64_t weight_before = sum_before(first, weight_entry);
  if (thread_index() == 0) {
    SampleState& state = *row.state;
    state.first_bin = first;
    state.last_bin = last;
    state.top_k_left = top_k ? input.top_k - static_cast<int32_t>(count_before) : 0;
    state.weight_before = weight_before;
  }
  return true;
}

__device__ __forceinline__ void finish_weigh(const SampleRow& row, bool draws, bool filters) {
  const SampleShared& shared = row.shared;
  const auto copy_bins = [&](Shared<uint32_t> to, int64_t from) {
    const uint32_t* bins = row.at<uint32_t>(from);
    for (int32_t i = thread_index(); i < SampleConfig::kBins; i += SampleConfig::kThreads) {
      to[i] = bins[i];
    }
  };
  if (row.state->tops) {
    copy_bins(shared.top_counts(), SampleLayout::kTopCounts);
    block_sync();  // the counts are there
    const Found border = find_first(
        shared, [&](int32_t i) -> uint64_t { return uint32_t{shared.top_counts()[i]}; },
        [&](uint64_t) { return static_cast<uint64_t>(row.input.num_top); });
    if (thread_index() == 0) {
      row.state->top_last_bin = border.index >= 0 ? border.index : SampleConfig::kBins - 1;
    }
  }
  if (!draws) return;
  const SampleChunk* chunks = row.chunks();
  uint64_t total = 0;
  for (int32_t i = thread_index(); i < row.launch.num_chunks; i += SampleConfig::kThreads) {
    total += chunks[i].weight;
  }
  total = block_add(total, shared);
  bool collects = false;
  if (filters) {
    copy_bins(shared.low(), SampleLayout::kLow);
    copy_bins(shared.high(), SampleLayout::kHigh);
    copy_bins(shared.counts(), SampleLayout::kCounts);
    block_sync();  // the sums are there
    collects = find_border(row, total);
  }
  if (collects) {
    if (thread_index() == 0) {
      row.state->collects = 1;
      row.state->total = total;
    }
    return;
  }
  // The chunks' sums take the place of the bins: a search reads those before its barriers.
  for (int32_t i = thread_index(); i < SampleConfig::kBins; i += SampleConfig::kThreads) {
    const uint64_t weight = i < row.launch.num_chunks ? chunks[i].weight : 0;
    shared.low()[i] = static_cast<uint32_t>(weight);
    shared.high()[i] = static_cast<uint32_t>(weight >> 32);
  }
  draw(row, item_of(float_bits(row.distance_limit()), -1));
}

__global__ void __launch_bounds__(SampleConfig::kThreads)
    sample_weigh_kernel(const __grid_constant__ SampleLaunch p) {
  // Block (c, r) owns chunk c of row r; thread t four logits of each 1024.
  if (p.params.rows[blockIdx.y].logits_row < 0) return;
  const SampleRow row(p);
  const bool draws = row.state->draws != 0, tops = row.state->tops != 0;
  if (!draws && !tops) return;
  const int32_t chunk = static_cast<int32_t>(blockIdx.x);
  const SampleShared& shared = row.shared;
  const bool top_k = row.input.top_k > 0, top_p = row.input.top_p < 1.0f;
  const bool filters = draws && (top_k || top_p);
  ChunkLogits logits = row.load_chunk(chunk);
  if (filters || tops) {
    clear_bins(shared);
    block_sync();  // sums start at zero
  }
  if (tops) {
    const float raw_max = row.state->raw_max;
#pragma unroll
    for (int i = 0; i < SampleConfig::kElements; ++i) {
      if (element_id(chunk, i) >= p.params.vocab_size) continue;
      shared_atomic_add(shared.top_counts() + distance_bin(raw_max - logits.x[i]), 1u);
    }
  }
  if (draws) {
    if (row.has_edits()) row.apply_edits(chunk, logits);
    const float max = row.state->max, scale = row.scale(), limit = row.distance_limit();
    // Without top_k, tokens lighter than this weigh less than 1 - top_p together: the nucleus is
    // complete without them, and most of a vocabulary need not be counted.
    const uint64_t least =
        top_k ? 0
              : static_cast<uint64_t>((1.0f - row.input.top_p) * 0.999f /
                                      static_cast<float>(p.params.vocab_size) *
                                      SampleConfig::kWeightUnit);
    uint64_t total = 0;
#pragma unroll
    for (int i = 0; i < SampleConfig::kElements; ++i) {
      const float distance = (max - logits.x[i]) * scale;
      if (!(distance <= limit)) continue;
      const uint64_t weight = weight_of(distance);
      total += weight;
      if (!filters || weight < least) continue;
      const int32_t bin = distance_bin(distance);
      if (top_k) shared_atomic_add(shared.counts() + bin, 1u);
      if (top_p) add_weight(shared.low(), shared.high(), bin, weight);
    }
    total = block_add(total, shared);
    if (thread_index() == 0) row.chunks()[chunk].weight = total;
  }
  if (filters || tops) {
    block_sync();  // the chunk's sums are complete
    uint32_t* low = row.at<uint32_t>(SampleLayout::kLow);
    uint32_t* high = row.at<uint32_t>(SampleLayout::kHigh);
    uint32_t* counts = row.at<uint32_t>(SampleLayout::kCounts);
    uint32_t* top_counts = row.at<uint32_t>(SampleLayout::kTopCounts);
    for (int32_t i = thread_index(); i < SampleConfig::kBins; i += SampleConfig::kThreads) {
      const uint32_t lower = shared.low()[i], count = shared.counts()[i];
      const uint32_t top_count = shared.top_counts()[i];
      uint32_t upper = shared.high()[i];
      if (lower != 0) {
        const uint32_t old = global_atomic_add(low + i, lower);
        if (old + lower < lower) ++upper;
      }
      if (upper != 0) global_atomic_add(high + i, upper);
      if (count != 0) global_atomic_add(counts + i, count);
      if (top_count != 0) global_atomic_add(top_counts + i, top_count);
    }
  }
  if (arrives_last(row.state, 1, p.num_chunks, row.shared)) finish_weigh(row, draws, filters);
}

// ---- collect: items at the borders, which settle the draw and the top list

template <bool kTop>
__device__ __forceinline__ void list_items(const SampleRow& row, int32_t chunk,
                                           const ChunkLogits& logits) {
  const RowItems<kTop> items{row};
  uint32_t listed = 0, count = 0;  // a bit an element
  uint64_t item = 0;
#pragma unroll
  for (int i = 0; i < SampleConfig::kElements; ++i) {
    if (!items.is_item(logits.x[i], element_id(chunk, i), item)) continue;
    listed |= 1u << i;
    ++count;
  }
  const BlockScan scan = block_scan(count, row.shared);
  if (scan.total == 0) return;
  const Shared<uint64_t> answer = row.shared.answer();
  if (thread_index() == 0) {
    uint32_t* next = kTop ? &row.state->num_top_listed : &row.state->num_listed;
    answer[0] = global_atomic_add(next, static_cast<uint32_t>(scan.total));
  }
  block_sync();  // the block's place in the list is known
  const uint64_t begin = answer[0];
  uint64_t place = begin + scan.before;
  uint64_t* list = row.at<uint64_t>(kTop ? SampleLayout::kTopList : SampleLayout::kList);
#pragma unroll
  for (int i = 0; i < SampleConfig::kElements; ++i) {
    if ((listed >> i & 1u) == 0) continue;
    items.is_item(logits.x[i], element_id(chunk, i), item);
    if (place < SampleConfig::kListMax) list[place] = item;
    ++place;
  }
}

__device__ __forceinline__ void finish_top(const SampleRow& row) {
  const RowItems<true> items{row};
  const int32_t num_top = row.input.num_top;
  uint64_t last = ~uint64_t{0};
  if (items.count() > SampleConfig::kRanked) {
    last = items.template select<false>(last, static_cast<uint64_t>(num_top));
  }
  const int32_t n = items.gather(0, last);
  SampleTop* top = row.params.top + int64_t{row.row} * kSampleTopMax;
  if (thread_index() < n) {
    const uint64_t mine = row.shared.items()[thread_index()];
    int32_t rank = 0;
    for (int32_t i = 0; i < n; ++i) rank += row.shared.items()[i] < mine ? 1 : 0;
    if (rank < num_top) {
      const double logit = row.logits[item_id(mine)];
      const float logprob = static_cast<float>(logit - row.state->log_sum);
      top[rank] = SampleTop{item_id(mine), logprob, rank + 1};
    }
  }
  if (thread_index() >= n && thread_index() < num_top) {
    top[thread_index()] = SampleTop{-1, kMinusInfinity, 0};
  }
}

__device__ __forceinline__ void finish_draw(const SampleRow& row) {
  const RowItems<false> items{row};
  const SampleState& state = *row.state;
  const SampleShared& shared = row.shared;
  uint64_t last = ~uint64_t{0}, total = state.total;
  if (state.top_k_left > 0) {
    last = items.template select<false>(last, static_cast<uint64_t>(state.top_k_left));
  }
  if (row.input.top_p < 1.0f) {
    if (state.top_k_left > 0) {
      uint64_t weight = 0;
      items.for_each([&](uint64_t item) {
        if (item <= last) weight += weight_of(item_distance(item));
      });
      total = state.weight_before + block_add(weight, shared);
    }
    const uint64_t wanted = share_of(row.input.top_p, total);
    last = items.template select<true>(
        last, wanted > state.weight_before ? wanted - state.weight_before : 1);
  }
  // The chunks' sums take the place of the bins: a search reads those before its barriers.
  const SampleChunk* chunks = row.chunks();
  for (int32_t i = thread_index(); i < SampleConfig::kBins; i += SampleConfig::kThreads) {
    const uint64_t weight = i < row.launch.num_chunks ? chunks[i].weight : 0;
    shared.low()[i] = static_cast<uint32_t>(weight);
    shared.high()[i] = static_cast<uint32_t>(weight >> 32);
  }
  block_sync();  // what is before the border is there; the border's items are added
  items.for_each([&](uint64_t item) {
    if (item > last) return;
    add_weight(shared.low(), shared.high(), item_id(item) / SampleConfig::kChunk,
               weight_of(item_distance(item)));
  });
  draw(row, last);
}

// Three blocks a multiprocessor: left alone, the compiler overlaps the unrolled elements until two
// are all that fit.
__global__ void __launch_bounds__(SampleConfig::kThreads, 3)
    sample_collect_kernel(const __grid_constant__ SampleLaunch p) {
  // Block (c, r) owns chunk c of row r; thread t four logits of each 1024.
  if (p.params.rows[blockIdx.y].logits_row < 0) return;
  const SampleRow row(p);
  const bool collects = row.state->collects != 0, tops = row.state->tops != 0;
  if (!collects && !tops) return;
  const int32_t chunk = static_cast<int32_t>(blockIdx.x);
  ChunkLogits logits = row.load_chunk(chunk);
  if (tops) list_items<true>(row, chunk, logits);
  if (collects) {
    if (row.has_edits()) row.apply_edits(chunk, logits);
    const float max = row.state->max, scale = row.scale(), limit = row.distance_limit();
    const int32_t first_bin = row.state->first_bin;
    uint64_t sure = 0;
#pragma unroll
    for (int i = 0; i < SampleConfig::kElements; ++i) {
      const float distance = (max - logits.x[i]) * scale;
      if (distance <= limit && distance_bin(distance) < first_bin) sure += weight_of(distance);
    }
    sure = block_add(sure, row.shared);
    if (thread_index() == 0) row.chunks()[chunk].weight = sure;
    list_items<false>(row, chunk, logits);
  }
  if (!arrives_last(row.state, 2, p.num_chunks, row.shared)) return;
  if (tops) finish_top(row);
  if (collects) finish_draw(row);
}

// ---- rank: how many raw logits are before the chosen one

__global__ void __launch_bounds__(SampleConfig::kThreads)
    sample_rank_kernel(const __grid_constant__ SampleLaunch p) {
  // Block (c, r) owns chunk c of row r; thread t four logits of each 1024.
  if (p.params.rows[blockIdx.y].logits_row < 0) return;
  const SampleRow row(p);
  const int32_t token = row.state->token;
  if (!row.wants_logprob() || token < 0) return;
  const int32_t chunk = static_cast<int32_t>(blockIdx.x);
  const ChunkLogits logits = row.load_chunk(chunk);
  const float logit = row.logits[token];
  uint32_t before = 0;
#pragma unroll
  for (int i = 0; i < SampleConfig::kElements; ++i) {
    const int32_t id = element_id(chunk, i);
    const float x = logits.x[i];
    before += x > logit || (x == logit && id < token) ? 1 : 0;
  }
  before = block_add(before, row.shared);
  if (thread_index() == 0 && before > 0) global_atomic_add(&row.state->num_before, before);
  if (!arrives_last(row.state, 3, p.num_chunks, row.shared)) return;
  if (thread_index() == 0) {
    SampleResult& result = row.params.results[row.row];
    result.logprob = static_cast<float>(static_cast<double>(logit) - row.state->log_sum);
    result.rank = static_cast<int32_t>(row.state->num_before) + 1;
  }
}

}  // namespace longhaul::device
