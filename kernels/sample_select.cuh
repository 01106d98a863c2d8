// Finding a border among a row's items (tokens in their order, item_of) without sorting them: the
// range that holds it is cut into bins until few are left, and those are compared with each other.
#pragma once

#include "device.cuh"
#include "sample_block.cuh"
#include "sample_row.cuh"

namespace longhaul::device {

// kTop: items of the top list, ordered by raw logit; else candidates of the draw, ordered by
// distance.
template <bool kTop>
struct RowItems {
  const SampleRow& row;
  const float max, scale, limit;  // of the draw; max of the raw row for the top list
  const int32_t first_bin, last_bin;

  __device__ __forceinline__ explicit RowItems(const SampleRow& of)
      : row(of),
        max(kTop ? of.state->raw_max : of.state->max),
        scale(kTop ? 1.0f : of.scale()),
        limit(kTop ? INFINITY : of.distance_limit()),
        first_bin(kTop ? 0 : of.state->first_bin),
        last_bin(kTop ? of.state->top_last_bin : of.state->last_bin) {}

  __device__ __forceinline__ uint32_t count() const {
    return kTop ? row.state->num_top_listed : row.state->num_listed;
  }

  // Whether an element stands at the border, and its item.
  __device__ __forceinline__ bool is_item(float logit, int32_t id, uint64_t& item) const {
    const float distance = (max - logit) * scale;
    const int32_t bin = distance_bin(distance);
    item = item_of(kTop ? ~order_key(logit) : float_bits(distance), id);
    return id < row.params.vocab_size && distance <= limit && bin >= first_bin && bin <= last_bin;
  }

  // Visits every item, some thread each; out of the list, or out of the row if the list was too
  // short. Called by all threads; `visit` has no barriers.
  template <typename Visit>
  __device__ __forceinline__ void for_each(const Visit& visit) const {
    const uint32_t listed = count();
    if (listed <= SampleConfig::kListMax) {
      const uint64_t* list =
          row.at<uint64_t>(kTop ? SampleLayout::kTopList : SampleLayout::kList);
      for (uint32_t i = threadIdx.x; i < listed; i += SampleConfig::kThreads) visit(list[i]);
      return;
    }
    const bool edited = !kTop && row.has_edits();
    for (int32_t chunk = 0; chunk < row.launch.num_chunks; ++chunk) {
      if (edited) row.load_edited(chunk);  // leaves them staged
      // One at a time: this is rare, and registers are not.
#pragma unroll 1
      for (int32_t i = thread_index(); i < SampleConfig::kChunk; i += SampleConfig::kThreads) {
        const int32_t id = chunk * SampleConfig::kChunk + i;
        if (id >= row.params.vocab_size) break;
        const float logit = edited ? row.edited_logit(i) : row.logits[id];
        uint64_t item = 0;
        if (is_item(logit, id, item)) visit(item);
      }
    }
  }

  // Copies the items within [low, high], at most kRanked, to shared memory; returns their number.
  // They may be read after it.
  __device__ __forceinline__ int32_t gather(uint64_t low, uint64_t high) const {
    const Shared<uint32_t> next = shared_cast<uint32_t>(row.shared.answer());
    const Shared<uint64_t> items = row.shared.items();
    block_sync();  // answer and items of the previous use have been read
    if (thread_index() == 0) next[0] = 0;
    block_sync();  // the counter starts at zero
    for_each([&](uint64_t item) {
      if (item >= low && item <= high) items[shared_atomic_add(next, 1u)] = item;
    });
    block_sync();  // all items are there
    const uint32_t gathered = next[0];
    return static_cast<int32_t>(gathered);
  }

  // The last of the first `wanted` items not above `most` (kByWeight: of the fewest first items
  // that weigh `wanted`); `most` if all of them are not enough. wanted >= 1.
  template <bool kByWeight>
  __device__ __forceinline__ uint64_t select(uint64_t most, uint64_t wanted) const {
    uint64_t low = 0, high = most, taken = 0;
    if (count() > SampleConfig::kRanked && !narrow<kByWeight>(low, high, taken, wanted)) {
      return most;
    }

    const int32_t n = gather(low, high);
    const Shared<uint64_t> items = row.shared.items(), weights = row.shared.item_weights();
    const Shared<uint64_t> answer = row.shared.answer();
    const bool owns = thread_index() < n;
    uint64_t mine = 0, weight = 0;
    if (owns) {
      mine = items[thread_index()];
      weight = kByWeight ? weight_of(item_distance(mine)) : 1;
      weights[thread_index()] = weight;
    }
    block_sync();  // weights are written, the number of items is read
    if (thread_index() == 0) answer[0] = most;
    uint64_t before = taken;
    for (int32_t i = 0; owns && i < n; ++i) {
      const uint64_t other = items[i], other_weight = weights[i];
      if (other < mine) before += other_weight;
    }
    block_sync();  // the default is written before the one that replaces it
    if (owns && before < wanted && wanted <= before + weight) answer[0] = mine;
    block_sync();  // the border is written
    return answer[0];
  }

 private:
  // Narrows [low, high] to at most kRanked items of which one is the border; `taken` is what is
  // before them. False: all items together are not enough.
  template <bool kByWeight>
  __device__ __forceinline__ bool narrow(uint64_t& low, uint64_t& high, uint64_t& taken,
                                         uint64_t wanted) const {
    const SampleShared& shared = row.shared;
    const Shared<uint32_t> lower = shared.low(), upper = shared.high(), counts = shared.counts();
    uint64_t largest = 0, smallest_complement = 0;
    for_each([&](uint64_t item) {
      if (item > high) return;
      largest = largest < item ? item : largest;
      smallest_complement = smallest_complement < ~item ? ~item : smallest_complement;
    });
    high = block_largest(largest, shared);
    low = ~block_largest(smallest_complement, shared);
    while (true) {
      int shift = 0;
      while ((high - low) >> shift >= SampleConfig::kBins) ++shift;
      block_sync();  // sums of the previous round have been read
      for (int32_t i = thread_index(); i < SampleConfig::kBins; i += SampleConfig::kThreads) {
        lower[i] = 0;
        upper[i] = 0;
        counts[i] = 0;
      }
      block_sync();  // sums start at zero
      for_each([&](uint64_t item) {
        if (item < low || item > high) return;
        const int32_t bin = static_cast<int32_t>((item - low) >> shift);
        if (kByWeight) add_weight(lower, upper, bin, weight_of(item_distance(item)));
        shared_atomic_add(counts + bin, 1u);
      });
      block_sync();  // all items are in
      const Found found = find_first(
          shared,
          [&](int32_t i) -> uint64_t {
            if (kByWeight) return wide(lower[i], upper[i]);
            return static_cast<uint32_t>(counts[i]);
          },
          [&](uint64_t) { return wanted - taken; });
      if (found.index < 0) return false;
      taken += found.before;
      const uint32_t left = counts[found.index];
      low += static_cast<uint64_t>(found.index) << shift;
      const uint64_t end = low + ((uint64_t{1} << shift) - 1);
      high = high < end ? high : end;
      if (left <= SampleConfig::kRanked) return true;
    }
  }
};

}  // namespace longhaul::device
