// attention_prefill: many query rows, at the rate of the tensor cores.
//
// Cost, 128 channels: a tile of 128 rows x 64 keys is 4.2 MFLOP = 2 x 1024 HMMA.16816. mma.sync
// does about 0.62 of the 989 TFLOP/s of an H100, 4.6 TFLOP/s a multiprocessor: 0.9 us, 1600 cycles.
// Beside it stand, of a multiprocessor's two blocks of four warps,
//   shared memory  each warp reads K and V (32 KiB) and its query rows (8 KiB): 160 KiB, 1280 cycles;
//                  with 16 rows a warp it would be 288 KiB, more than the products: hence 32
//   exponentials   8192 of them at 16 a cycle: 512 cycles
//   other          per lane 64 logits x 4 (maximum, subtract, sum, half a conversion): about 300 a
//                  warp and tile, 300 cycles of a scheduler's 1600
// which overlap between the two warps of a scheduler as far as they happen to be in different
// phases. The accumulator (32 x 128 f32: 128 registers) and the logits (64) leave two blocks a
// multiprocessor. Expected on an H100: 300 to 350 TFLOP/s at 8K keys and more, causal.
// Rows of all query heads of a kv head are packed, so a tile of 128 rows spans 128 / group
// positions: little of the diagonal is wasted, and chunks of a few rows still fill tiles.
// K and V tiles come in turns through a ring of three (one being read, two on their way), one
// barrier a tile. 8-bit types: each thread widens the bytes it copied itself, so its own wait is
// enough, into one of two tiles; the same single barrier follows.
#pragma once

#include "attention_tile.cuh"

namespace longhaul::device {

template <int kHeadDim_, CacheType kType_>
struct PrefillConfig {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr CacheType kType = kType_;
  using Numbers = CacheNumbers<kType>;
  using Product = typename Numbers::Product;
  static constexpr bool kIs8Bit = Numbers::kIs8Bit;
  static constexpr PrefillShape kShape = prefill_shape(kHeadDim, kType);
  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kRowTiles = kShape.rows / 64;   // 16-row tiles a warp, at most
  static constexpr int kTileKeys = kShape.tile_keys;
  static constexpr int kColumnTiles = kTileKeys / 8;
  using Row = Rows<2 * kHeadDim>;
  // Pieces of 16 bytes that a tile is copied in.
  static constexpr int kRowChunks = kHeadDim * Numbers::kBytes / 16;
  static constexpr int kChunks = kTileKeys * kRowChunks;
  static constexpr int kCopies = (kChunks + kThreads - 1) / kThreads;
  static constexpr int kGranules = kTileKeys / 32;     // runs of 32 keys lie in one block
  static constexpr int kQueryBegin = 0;
  static constexpr int kTileBegin = kShape.query_bytes;
  static constexpr int kByteBegin = kTileBegin + kShape.slots * kShape.tile_bytes;
  static constexpr int kScaleBegin = kByteBegin + kShape.byte_slots * kShape.byte_tile_bytes;
  static_assert(kRowTiles == 1 || kRowTiles == 2);
};

// The block's tiles: K of keys [key, key + kTileKeys), V of the same keys, K of the next, ...
// `key` is a multiple of kTileKeys.
template <typename Config>
struct TileStream {
  Shared<std::byte> shared;
  const AttentionParams& p;
  int32_t table_offset, kv_head, key_end;
  int32_t block_shift;
  int32_t ids[Config::kGranules];   // blocks of the next keys to ask for

  // Asks for the first two tiles.
  __device__ __forceinline__ TileStream(Shared<std::byte> start, const AttentionParams& params,
                                        const AttentionItem& item)
      : shared(start),
        p(params),
        table_offset(item.table_offset),
        kv_head(item.kv_head),
        key_end(item.key_end),
        block_shift(31 - __builtin_clz(static_cast<unsigned>(p.cache.block_size))) {
    const int32_t first_key = item.key_begin / Config::kTileKeys * Config::kTileKeys;
    read_ids(first_key, item.key_begin);
    issue<false>(first_key, 0, item.key_begin);
    issue<true>(first_key, 1, item.key_begin);
  }

  // Asks for K (kIsValue: V) of keys [key, key + kTileKeys) into `slot`; with K come the scales of
  // both. Tiles are asked for in the order given above. Keys before key_begin (only the first tile
  // has any) and from key_end on arrive as zeros and are not read.
  template <bool kIsValue>
  __device__ __forceinline__ void issue(int32_t key, int slot, int32_t key_begin = 0) {
    if (key < key_end) {
      const std::byte* head[Config::kGranules];
      const int32_t index = kIsValue ? p.cache.num_kv_heads + kv_head : kv_head;
#pragma unroll
      for (int i = 0; i < Config::kGranules; ++i) {
        head[i] = p.cache.blocks + (ids[i] * p.cache.block_bytes + index * p.cache.head_bytes);
      }
      copy_tile(key, key_begin, head, slot);
      if constexpr (Config::kIs8Bit && !kIsValue) copy_scales(key, key_begin, head);
      if constexpr (kIsValue) read_ids(key + Config::kTileKeys, 0);
    }
    copy_async_commit();
  }

  __device__ __forceinline__ Shared<std::byte> tile(int slot) const {
    return shared + (Config::kTileBegin + slot * Config::kShape.tile_bytes);
  }
  __device__ __forceinline__ Shared<std::byte> bytes(int slot) const {
    return shared + (Config::kByteBegin + slot * Config::kShape.byte_tile_bytes);
  }
  // Scales of K, then of V of the tile at `key`.
  __device__ __forceinline__ Shared<std::byte> scales(int32_t key) const {
    return shared +
           (Config::kScaleBegin + key / Config::kTileKeys % 2 * (2 * Config::kTileKeys * 4));
  }

  // 8-bit types: the pieces that this thread copied, as 16-bit numbers in tile `slot`.
  __device__ __forceinline__ void widen(int slot) const {
    const Shared<uint4> from = shared_cast<uint4>(bytes(slot));
    const Shared<std::byte> to = tile(slot);
    const int thread = computed_here(static_cast<int>(threadIdx.x));
    // Unrolled it would take registers that accumulator and weights are in.
#pragma unroll 1
    for (int i = 0; i < Config::kCopies; ++i) {
      const int index = i * Config::kThreads + thread;
      if (Config::kChunks % Config::kThreads != 0 && index >= Config::kChunks) break;
      const uint4 narrow = from[index];
      uint4 low, high;
      widen_neighbors<Config::kType>(narrow.x, low.x, low.y);
      widen_neighbors<Config::kType>(narrow.y, low.z, low.w);
      widen_neighbors<Config::kType>(narrow.z, high.x, high.y);
      widen_neighbors<Config::kType>(narrow.w, high.z, high.w);
      const int row = index / Config::kRowChunks, chunk = index % Config::kRowChunks * 2;
      shared_cast<uint4>(to + Config::Row::offset(row, chunk))[0] = low;
      shared_cast<uint4>(to + Config::Row::offset(row, chunk + 1))[0] = high;
    }
  }

 private:
  // Blocks of the runs of 32 keys at first. Entries without a key of the item are not read.
  __device__ __forceinline__ void read_ids(int32_t first, int32_t key_begin) {
#pragma unroll
    for (int i = 0; i < Config::kGranules; ++i) {
      const int32_t key = first + 32 * i;
      const bool needed = key < key_end && key + 32 > key_begin;
      ids[i] = needed ? load_cached(p.lists.block_tables + (table_offset + (key >> block_shift))) : 0;
    }
  }
  __device__ __forceinline__ int32_t slot_of(int32_t key) const {
    return key & (p.cache.block_size - 1);
  }

  __device__ __forceinline__ void copy_tile(int32_t key, int32_t key_begin,
                                            const std::byte* (&head)[Config::kGranules],
                                            int slot) const {
    const std::byte* from[Config::kGranules];
#pragma unroll
    for (int i = 0; i < Config::kGranules; ++i) {
      // Minus the pieces before the run, so that one index serves all runs.
      from[i] = head[i] + (slot_of(key + 32 * i) - 32 * i) * (Config::kRowChunks * 16);
    }
    const Shared<std::byte> to = Config::kIs8Bit ? bytes(slot) : tile(slot);
    // Most tiles lie wholly within the item: no row to check.
    if (key >= key_begin && key + Config::kTileKeys <= key_end) {
      copy_pieces<true>(key, key_begin, from, to);
    } else {
      copy_pieces<false>(key, key_begin, from, to);
    }
  }

  template <bool kIsWhole>
  __device__ __forceinline__ void copy_pieces(int32_t key, int32_t key_begin,
                                              const std::byte* (&from)[Config::kGranules],
                                              Shared<std::byte> to) const {
    const int thread = computed_here(static_cast<int>(threadIdx.x));
#pragma unroll
    for (int i = 0; i < Config::kCopies; ++i) {
      const int index = i * Config::kThreads + thread;
      if (Config::kChunks % Config::kThreads != 0 && index >= Config::kChunks) break;
      const int row = index / Config::kRowChunks;
      const bool valid = kIsWhole || (key + row >= key_begin && key + row < key_end);
      const std::byte* run = from[0];
      if constexpr (Config::kGranules == 2) {
        // Where a turn of the block's threads stays within one run the choice is the compiler's.
        constexpr int kRun = 32 * Config::kRowChunks;
        const bool is_split = i * Config::kThreads / kRun != ((i + 1) * Config::kThreads - 1) / kRun;
        run = (is_split ? index : i * Config::kThreads) < kRun ? from[0] : from[1];
      }
      const int place = Config::kIs8Bit
                            ? index * 16
                            : Config::Row::offset(row, index % Config::kRowChunks);
      copy_async<16>(to + place, run + index * 16, valid);
    }
  }

  __device__ __forceinline__ void copy_scales(int32_t first_key, int32_t key_begin,
                                              const std::byte* (&head)[Config::kGranules]) const {
    const int index = static_cast<int>(threadIdx.x);
    static_assert(2 * Config::kTileKeys <= Config::kThreads);
    if (index >= 2 * Config::kTileKeys) return;
    const int row = index % Config::kTileKeys;
    const int32_t key = first_key + row;
    const std::byte* run = head[0];
    if constexpr (Config::kGranules == 2) run = row < 32 ? head[0] : head[1];
    if (index >= Config::kTileKeys) run += p.cache.num_kv_heads * p.cache.head_bytes;
    copy_async<4>(scales(first_key) + index * 4,
                  run + (p.cache.block_size * (Config::kRowChunks * 16) + slot_of(key) * 4),
                  key >= key_begin && key < key_end);
  }
};

// ---- products of a warp's kRowTiles x 16 rows with a tile

template <typename Config, int kRowTiles>
__device__ __forceinline__ void multiply_key_tile(
    float (&s)[kRowTiles][Config::kColumnTiles][4], Shared<const std::byte> queries,
    Shared<const std::byte> keys) {
  using Product = typename Config::Product;
  constexpr int kPitch = Config::Row::kPitch;
  const Shared<const std::byte> warp_queries = queries + threadIdx.x / 32 * (16 * kPitch);
  const LanePlace<2 * Config::kHeadDim> place;
#pragma unroll
  for (int step = 0; step < Config::kHeadDim / 16; ++step) {
    uint32_t a[kRowTiles][4], r[4];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      load_matrix_x4(a[i], warp_queries + (place.at(2 * step) + i * 64 * kPitch));
    }
#pragma unroll
    for (int j = 0; j < Config::kColumnTiles; j += 2) {
      load_matrix_x4(r, keys + (place.at(2 * step) + j * 8 * kPitch));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_16816<Product>(s[i][j], a[i], {r[0], r[2]});
        mma_16816<Product>(s[i][j + 1], a[i], {r[1], r[3]});
      }
    }
  }
}

template <typename Config, int kRowTiles>
__device__ __forceinline__ void multiply_value_tile(
    SoftmaxTile<Config::kHeadDim> (&softmax)[kRowTiles],
    const uint32_t (&weights)[kRowTiles][Config::kColumnTiles / 2][4],
    Shared<const std::byte> values) {
  using Product = typename Config::Product;
  const LanePlace<2 * Config::kHeadDim> place;
#pragma unroll
  for (int j = 0; j < Config::kColumnTiles / 2; ++j) {
    uint32_t r[4];
#pragma unroll
    for (int n = 0; n < Config::kHeadDim / 8; n += 2) {
      load_matrix_x4_trans(r, values + (place.at(n) + j * 16 * Config::Row::kPitch));
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        mma_16816<Product>(softmax[i].o[n], weights[i][j], {r[0], r[1]});
        mma_16816<Product>(softmax[i].o[n + 1], weights[i][j], {r[2], r[3]});
      }
    }
  }
}

// ---- one item

template <typename Config>
__device__ __forceinline__ void store_rows(const SoftmaxTile<Config::kHeadDim>& tile, int first_row,
                                           const AttentionParams& p, const AttentionItem& item) {
  const int lane = static_cast<int>(threadIdx.x % 32), t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = first_row + lane / 4 + 8 * r;
    if (row >= item.packed_count) continue;
    if (item.first_partial < 0) {
      const float inverse = reciprocal_fast(tile.l[r]);
      const int64_t to = output_index(p, item.first_row, item.kv_head, item.packed_begin + row, 2 * t);
#pragma unroll
      for (int n = 0; n < Config::kHeadDim / 8; ++n) {
        store_output(p.out, to + 8 * n,
                     float2{tile.o[n][2 * r] * inverse, tile.o[n][2 * r + 1] * inverse});
      }
    } else {
      const int64_t partial = int64_t{item.first_partial} + row;
      float* to = p.partial_o + partial * Config::kHeadDim + 2 * t;
#pragma unroll
      for (int n = 0; n < Config::kHeadDim / 8; ++n) {
        store_stream(reinterpret_cast<float2*>(to + 8 * n),
                     float2{tile.o[n][2 * r], tile.o[n][2 * r + 1]});
      }
      if (t == 0) {
        store_stream(reinterpret_cast<float2*>(p.partial_ml + partial * 2),
                     float2{tile.m[r], tile.l[r]});
      }
    }
  }
}

// Item `index`, of up to 64 kRowTiles rows. Row tile i of warp w: rows 64 i + 16 w ...
template <typename Config, int kRowTiles>
__device__ __forceinline__ void attend(TileStream<Config>& stream, int32_t index,
                                       int32_t first_key, KeyRange all) {
  constexpr int kTileKeys = Config::kTileKeys;
  const AttentionParams& p = stream.p;
  SoftmaxTile<Config::kHeadDim> softmax[kRowTiles];
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) softmax[i].clear();
  ValueUnits units;

  int slot = 0;   // of the ring, where the tile that is read is; the one before it is free
  const auto arrive = [&](auto is_value, int32_t next_key) {
    constexpr bool kIsValue = decltype(is_value)::value;
    // This thread's part of the tile is here.
    copy_async_wait<1>();
    if constexpr (Config::kIs8Bit) stream.widen(kIsValue);
    // Everybody's part is (and the query rows, the first time), and everybody is done with the tile
    // before, whose place in the ring is free.
    block_sync();
    stream.template issue<kIsValue>(next_key, Config::kIs8Bit ? kIsValue : slot == 0 ? 2 : slot - 1);
  };

  for (int32_t key = first_key; key < stream.key_end; key += kTileKeys) {
    uint32_t weights[kRowTiles][Config::kColumnTiles / 2][4];
    arrive(std::false_type(), key + kTileKeys);
    {
      float s[kRowTiles][Config::kColumnTiles][4] = {};
      multiply_key_tile<Config, kRowTiles>(s, stream.shared,
                                           stream.tile(Config::kIs8Bit ? 0 : slot));
      const Shared<const std::byte> k_scales = stream.scales(key);
      const Shared<const std::byte> v_scales = k_scales + kTileKeys * 4;
      float new_units = 1.0f;
      if constexpr (Config::kIs8Bit) {
        multiply_scales(s, k_scales, 1.0f);
        new_units = units.raise(max_scale<Config::kColumnTiles>(v_scales));
      }
      if (p.softcap > 0) {
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) cap_logits(s[i], p.softcap);
      }
      if (key < all.first || key + kTileKeys - 1 > all.last) {
        const AttentionItem item = load_item(p.lists.prefill_items + index);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) {
          mask_logits(s[i], p, item, 64 * i + static_cast<int>(threadIdx.x) / 32 * 16, key);
        }
      }
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) softmax[i].update(s[i], new_units);
      if constexpr (Config::kIs8Bit) multiply_scales(s, v_scales, units.share());
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
        for (int j = 0; j < Config::kColumnTiles / 2; ++j) {
          pack_weights<typename Config::Product>(weights[i][j], s[i][2 * j], s[i][2 * j + 1]);
        }
      }
    }
    slot = slot == 2 ? 0 : slot + 1;
    arrive(std::true_type(), key + kTileKeys);
    multiply_value_tile<Config, kRowTiles>(softmax, weights,
                                           stream.tile(Config::kIs8Bit ? 1 : slot));
    slot = slot == 2 ? 0 : slot + 1;
  }
  // Nothing is on its way any more: the groups that are still open are empty.
  const AttentionItem item = load_item(p.lists.prefill_items + index);
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
    softmax[i].finish(Config::kIs8Bit ? units.scale : 1.0f);
    store_rows<Config>(softmax[i], 64 * i + static_cast<int>(threadIdx.x) / 32 * 16, p, item);
  }
  // Query rows and tiles are free for the next item when every warp is done with them.
  block_sync();
}

// ---- kernel

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, kPrefillBlocksMax)
    attention_prefill_kernel(const __grid_constant__ AttentionParams p) {
  // Block: items [offsets[b], offsets[b + 1]), one after another. Warp: 16 or 32 of the item's rows,
  // all keys. Lane: parts of 16 x 8 tiles as the fragments have them.
  const Shared<std::byte> shared = dynamic_shared<std::byte>();
  const int32_t* offsets = p.lists.prefill_offsets + blockIdx.x;
  for (int32_t i = load_cached(offsets); i < load_stream(offsets + 1); ++i) {
    const AttentionItem item = load_item(p.lists.prefill_items + i);
    TileStream<Config> stream(shared, p, item);
    store_queries<Config::kHeadDim, Config::kShape.rows, Config::kThreads, typename Config::Product,
                  false>(shared, p, item, query_scale(p));
    const int32_t first_key = item.key_begin / Config::kTileKeys * Config::kTileKeys;
    const KeyRange all = keys_of_all_rows(p, item);
    if (Config::kRowTiles == 2 && item.packed_count > 64) {
      attend<Config, Config::kRowTiles>(stream, i, first_key, all);
    } else {
      attend<Config, 1>(stream, i, first_key, all);
    }
  }
}

}  // namespace longhaul::device
