// attention_decode: few query rows, K and V at memory speed.
//
// Cost, 128 channels in f16: an item reads 512 bytes a key and kv head and computes 16 x 2 x 2 x 128
// flops a key for all query heads of the head at once: 16 flops a byte, a twentieth of what the
// tensor cores of an H100 do beside its memory. So time is bytes / bandwidth as long as enough bytes
// are on their way. Each warp owns a ring of tiles (attention_shapes.h) and fills it by cp.async
// without a barrier to its neighbors; 3 blocks x 4 warps x 1 to 3 tiles of 8 KiB are 96 KiB or more
// in flight on a multiprocessor, against some 25 KiB of latency times bandwidth, and 12 warps hide
// each other's arithmetic: a tile of 16 keys is about 250 instructions a warp (32 HMMA, 16 LDSM,
// 16 LDGSTS, 8 exponentials, 100 of softmax and loop), while memory delivers a tile to a
// multiprocessor every 330 ns, some 2300 issue slots. 8-bit types widen 4 numbers in 5 (q8: 1 LOP3,
// 2 PRMT, 2 HADD2) or 4 (fp8: 2 PRMT, 2 F2FP) instructions: about 0.4 of the issue slots.
// Expected on an H100: above 90 % of copy bandwidth where each block has 256 KiB or more to read
// (32K keys of 8 kv heads: 134 MB, 45 us); the start of an item (list, table, first tile: three
// dependent latencies, 2 us) and its merge are what small contexts pay.
#pragma once

#include "attention_tile.cuh"

namespace longhaul::device {

template <int kHeadDim_, CacheType kType_>
struct DecodeConfig {
  static constexpr int kHeadDim = kHeadDim_;
  static constexpr CacheType kType = kType_;
  using Numbers = CacheNumbers<kType>;
  using Product = typename Numbers::Product;
  static constexpr bool kIs8Bit = Numbers::kIs8Bit;
  static constexpr DecodeShape kShape = decode_shape(kHeadDim, kType);
  static constexpr int kWarps = kShape.warps;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kTileKeys = kShape.tile_keys;
  static constexpr int kColumnTiles = kTileKeys / 8;
  static constexpr int kStages = kShape.stages;
  static constexpr int kRowBytes = kHeadDim * Numbers::kBytes;
  using Row = Rows<kRowBytes>;
  static constexpr int kTileBytes = kTileKeys * Row::kPitch;
  // Registers for queries (kHeadDim / 4) beside the accumulator (kHeadDim / 2), within the 168 that
  // three blocks leave each thread; 8-bit K and V take some to be widened in.
  static constexpr bool kQueriesInRegisters = kHeadDim <= (kIs8Bit ? 96 : 128);
  // Rows of the merge's accumulators: 4 words more than channels, so that rows g and g + 1 are four
  // banks apart.
  static constexpr int kMergePitch = kHeadDim + 4;
  static constexpr int kMergeBytes = kWarps * 16 * (kMergePitch + 2) * 4;
  static_assert(kStages >= 2);
  static_assert(kMergeBytes <= kWarps * kStages * kShape.stage_bytes);
};

// One warp's ring of tiles over the keys of an item: tiles first + warp, first + warp + kWarps, ...
// (in units of kTileKeys keys from the start of the sequence, so that a tile lies in one block).
template <typename Config>
struct TileRing {
  static constexpr int kChunks = Config::Row::kChunks;
  static constexpr int kCopies = Config::kTileKeys * kChunks / 32;
  static_assert(Config::kTileKeys * kChunks % 32 == 0);

  Shared<std::byte> ring;
  const AttentionParams& p;
  int32_t table_offset, kv_head;
  int32_t key_begin, key_end;
  int32_t block_shift;

  __device__ __forceinline__ TileRing(Shared<std::byte> start, const AttentionParams& params,
                                      const AttentionItem& item)
      : ring(start),
        p(params),
        table_offset(item.table_offset),
        kv_head(item.kv_head),
        key_begin(item.key_begin),
        key_end(item.key_end),
        block_shift(31 - __builtin_clz(static_cast<unsigned>(p.cache.block_size))) {}

  __device__ __forceinline__ int32_t block_id(int32_t tile) const {
    return load_cached(p.lists.block_tables +
                       (table_offset + (tile * Config::kTileKeys >> block_shift)));
  }
  __device__ __forceinline__ Shared<std::byte> stage(int index) const {
    return ring + index * Config::kShape.stage_bytes;
  }

  // Keys outside of the item arrive as zeros and are not read: their slots may hold anything. Most
  // tiles lie wholly within the item.
  __device__ __forceinline__ void issue(int32_t tile, int32_t id, int stage_index) const {
    const int32_t key = tile * Config::kTileKeys;
    const std::byte* k =
        p.cache.blocks + (id * p.cache.block_bytes + kv_head * p.cache.head_bytes);
    if (key >= key_begin && key + Config::kTileKeys <= key_end) {
      copy<true>(key, k, stage(stage_index));
    } else {
      copy<false>(key, k, stage(stage_index));
    }
  }

 private:
  template <bool kIsWhole>
  __device__ __forceinline__ void copy(int32_t key, const std::byte* k, Shared<std::byte> to) const {
    const int32_t slot = key & (p.cache.block_size - 1);
    const int64_t k_to_v = p.cache.num_kv_heads * p.cache.head_bytes;
    const int lane = computed_here(static_cast<int>(threadIdx.x)) % 32;
    const std::byte* from = k + (slot * Config::kRowBytes + lane * 16);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int index = i * 32 + lane;
      const int row = index / kChunks;
      const bool valid = kIsWhole || (key + row >= key_begin && key + row < key_end);
      const int place = Config::Row::offset(row, index % kChunks);
      copy_async<16>(to + place, from + i * 512, valid);
      copy_async<16>(to + (Config::kTileBytes + place), from + k_to_v + i * 512, valid);
    }
    if constexpr (Config::kIs8Bit) {
      if (lane < Config::kTileKeys) {
        const bool valid = kIsWhole || (key + lane >= key_begin && key + lane < key_end);
        const std::byte* scale = k + (p.cache.block_size * Config::kRowBytes + (slot + lane) * 4);
        const Shared<std::byte> scales = to + (2 * Config::kTileBytes + lane * 4);
        copy_async<4>(scales, scale, valid);
        copy_async<4>(scales + Config::kTileKeys * 4, scale + k_to_v, valid);
      }
    }
  }
};

// ---- products of one warp's tile

// s += q k over channels [16 step, 16 step + 16 kSteps). See attention_tile.cuh for 8-bit orders.
template <typename Config, typename Queries>
__device__ __forceinline__ void multiply_keys(float (&s)[Config::kColumnTiles][4],
                                              const Queries& queries,
                                              Shared<const std::byte> keys) {
  using Product = typename Config::Product;
  uint32_t a[4], r[4];
  if constexpr (!Config::kIs8Bit) {
    static_assert(Config::kTileKeys == 16);
    const LanePlace<Config::kRowBytes> place;
#pragma unroll
    for (int step = 0; step < Config::kHeadDim / 16; ++step) {
      queries.get(step, a);
      load_matrix_x4(r, keys + place.at(2 * step));
      mma_16816<Product>(s[0], a, {r[0], r[2]});
      mma_16816<Product>(s[1], a, {r[1], r[3]});
    }
  } else if constexpr (Config::kTileKeys == 32) {
    // Matrices: one chunk of keys 0..7, 8..15, 16..23, 24..31.
    const auto place = LanePlace<Config::kRowBytes>::of_rows();
#pragma unroll
    for (int step = 0; step < Config::kHeadDim / 16; ++step) {
      queries.get(step, a);
      load_matrix_x4(r, keys + place.at(step));
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        uint32_t b[2];
        widen_neighbors<Config::kType>(r[j], b[0], b[1]);
        mma_16816<Product>(s[j], a, b);
      }
    }
  } else {
    const LanePlace<Config::kRowBytes> place;
#pragma unroll
    for (int step = 0; step < Config::kHeadDim / 16; step += 2) {
      load_matrix_x4(r, keys + place.at(step));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i % 2 == 0) queries.get(step + i / 2, a);
        uint32_t b[2];
        widen_neighbors<Config::kType>(r[i], b[0], b[1]);
        mma_16816<Product>(s[i % 2], a, b);
      }
    }
  }
}

// o += weights v. Column tiles of o: 16-bit V channels 8 i + ..; 8-bit V even and odd channels of
// chunk i / 2.
template <typename Config>
__device__ __forceinline__ void multiply_values(float (&o)[Config::kHeadDim / 8][4],
                                                const float (&weights)[Config::kColumnTiles][4],
                                                Shared<const std::byte> values) {
  using Product = typename Config::Product;
  uint32_t r[4];
  if constexpr (!Config::kIs8Bit) {
    uint32_t a[4];
    pack_weights<Product>(a, weights[0], weights[1]);
    const LanePlace<Config::kRowBytes> place;
#pragma unroll
    for (int i = 0; i < Config::kHeadDim / 8; i += 2) {
      load_matrix_x4_trans(r, values + place.at(i));
      mma_16816<Product>(o[i], a, {r[0], r[1]});
      mma_16816<Product>(o[i + 1], a, {r[2], r[3]});
    }
  } else if constexpr (Config::kTileKeys == 32) {
    uint32_t a[2][4];
    pack_weights<Product>(a[0], weights[0], weights[1]);
    pack_weights<Product>(a[1], weights[2], weights[3]);
    const auto place = LanePlace<Config::kRowBytes>::of_rows();
#pragma unroll
    for (int i = 0; i < Config::kHeadDim / 16; ++i) {
      load_matrix_x4_trans(r, values + place.at(i));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint32_t even[2], odd[2];
        widen_columns<Config::kType>(r[2 * half], even[0], odd[0]);
        widen_columns<Config::kType>(r[2 * half + 1], even[1], odd[1]);
        mma_16816<Product>(o[2 * i], a[half], even);
        mma_16816<Product>(o[2 * i + 1], a[half], odd);
      }
    }
  } else {
    uint32_t a[4];
    pack_weights<Product>(a, weights[0], weights[1]);
    const LanePlace<Config::kRowBytes> place;
#pragma unroll
    for (int i = 0; i < Config::kHeadDim / 16; i += 2) {
      load_matrix_x4_trans(r, values + place.at(i));
#pragma unroll
      for (int next = 0; next < 2; ++next) {
        uint32_t even[2], odd[2];
        widen_columns<Config::kType>(r[2 * next], even[0], odd[0]);
        widen_columns<Config::kType>(r[2 * next + 1], even[1], odd[1]);
        mma_16816<Product>(o[2 * (i + next)], a, even);
        mma_16816<Product>(o[2 * (i + next) + 1], a, odd);
      }
    }
  }
}

// Left operands of the product with K: from registers, or from shared memory each time.
template <typename Config>
struct Queries {
  static constexpr int kSteps = Config::kHeadDim / 16;
  static constexpr int kHeld = Config::kQueriesInRegisters ? kSteps : 1;

  Shared<const std::byte> rows;
  uint32_t held[kHeld][4];

  __device__ __forceinline__ void load(Shared<const std::byte> from) {
    rows = from;
    if constexpr (Config::kQueriesInRegisters) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) read(step, held[step]);
    }
  }
  __device__ __forceinline__ void get(int step, uint32_t (&a)[4]) const {
    if constexpr (Config::kQueriesInRegisters) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = held[step][i];
    } else {
      read(step, a);
    }
  }

 private:
  __device__ __forceinline__ void read(int step, uint32_t (&a)[4]) const {
    const LanePlace<2 * Config::kHeadDim> place;
    load_matrix_x4(a, rows + place.at(2 * step));
  }
};

// ---- merge of a block's warps

// Warps' accumulators go through shared memory (their rings, no longer in use) and leave as output
// rows or as one partial. Rows beyond packed_count are not touched.
template <typename Config>
__device__ __forceinline__ void merge_warps(const SoftmaxTile<Config::kHeadDim>& tile,
                                            Shared<std::byte> scratch, const AttentionParams& p,
                                            const AttentionItem& item) {
  constexpr int kPitch = Config::kMergePitch;
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  const int g = lane / 4, t = lane % 4;
  const Shared<float> o = shared_cast<float>(scratch);             // [kWarps, 16, kPitch]
  const Shared<float2> ml = shared_cast<float2>(o + Config::kWarps * 16 * kPitch);  // [kWarps, 16]

  // Every warp is done with the tiles in its ring before any writes over them.
  block_sync();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int row = g + 8 * r;
    if (row >= item.packed_count) continue;
    const Shared<float> to = o + (warp * 16 + row) * kPitch;
#pragma unroll
    for (int i = 0; i < Config::kHeadDim / 8; i += 2) {
      const float* even = &tile.o[i][2 * r];
      const float* odd = &tile.o[i + 1][2 * r];
      if constexpr (Config::kIs8Bit) {
        shared_cast<float4>(to + (8 * i + 4 * t))[0] = float4{even[0], odd[0], even[1], odd[1]};
      } else {
        shared_cast<float2>(to + (8 * i + 2 * t))[0] = float2{even[0], even[1]};
        shared_cast<float2>(to + (8 * i + 8 + 2 * t))[0] = float2{odd[0], odd[1]};
      }
    }
    if (t == 0) ml[warp * 16 + row] = float2{tile.m[r], tile.l[r]};
  }
  // All accumulators are written before they are summed.
  block_sync();

  constexpr int kQuads = Config::kHeadDim / 4;
  for (int index = static_cast<int>(threadIdx.x); index < item.packed_count * kQuads;
       index += Config::kThreads) {
    const int row = index / kQuads, channel = index % kQuads * 4;
    float2 of_warp[Config::kWarps];
    float max = -INFINITY;
#pragma unroll
    for (int w = 0; w < Config::kWarps; ++w) {
      of_warp[w] = ml[w * 16 + row];
      max = fmaxf(max, of_warp[w].x);
    }
    const float base = softmax_base(max);
    float sum = 0;
    float4 v{0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < Config::kWarps; ++w) {
      const float weight = exp2_fast(of_warp[w].x - base);
      const float4 x = shared_cast<float4>(o + ((w * 16 + row) * kPitch + channel))[0];
      sum += weight * of_warp[w].y;
      v.x += weight * x.x;
      v.y += weight * x.y;
      v.z += weight * x.z;
      v.w += weight * x.w;
    }
    if (item.first_partial < 0) {
      const float inverse = reciprocal_fast(sum);
      store_output(p.out,
                   output_index(p, item.first_row, item.kv_head, item.packed_begin + row, channel),
                   float4{v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse});
    } else {
      const int64_t partial = int64_t{item.first_partial} + row;
      store_stream(reinterpret_cast<float4*>(p.partial_o + partial * Config::kHeadDim + channel), v);
      if (channel == 0) {
        store_stream(reinterpret_cast<float2*>(p.partial_ml + partial * 2), float2{max, sum});
      }
    }
  }
  // The rings and the query rows are free again only when everybody has read.
  block_sync();
}

// ---- kernel

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, kDecodeBlocksMax)
    attention_decode_kernel(const __grid_constant__ AttentionParams p) {
  // Block: items [offsets[b], offsets[b + 1]), one after another. Warp: every kWarps-th tile of keys,
  // for all rows. Lane: parts of 16 x 8 tiles as the fragments have them.
  constexpr int kTileKeys = Config::kTileKeys, kColumnTiles = Config::kColumnTiles;
  const Shared<std::byte> shared = dynamic_shared<std::byte>();
  const Shared<std::byte> rings = shared + Config::kShape.query_bytes;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int32_t* offsets = p.lists.decode_offsets + blockIdx.x;
  for (int32_t i = load_cached(offsets); i < load_stream(offsets + 1); ++i) {
    const AttentionItem item = load_item(p.lists.decode_items + i);
    const TileRing<Config> ring(rings + warp * (Config::kStages * Config::kShape.stage_bytes), p,
                                item);
    const int32_t tile_end = (item.key_end - 1) / kTileKeys + 1;
    int32_t next = item.key_begin / kTileKeys + warp;   // the next tile to ask for
    int32_t tile = next;
#pragma unroll
    for (int stage = 0; stage < Config::kStages; ++stage) {
      if (next < tile_end) ring.issue(next, ring.block_id(next), stage);
      copy_async_commit();
      next += Config::kWarps;
    }
    int32_t next_id = next < tile_end ? ring.block_id(next) : 0;

    store_queries<Config::kHeadDim, 16, Config::kThreads, typename Config::Product,
                  Config::kIs8Bit>(shared, p, item, query_scale(p));
    // Query rows are written by all threads and read by all warps.
    block_sync();
    Queries<Config> queries;
    queries.load(shared);

    const KeyRange all = keys_of_all_rows(p, item);

    SoftmaxTile<Config::kHeadDim> softmax;
    softmax.clear();
    ValueUnits units;
    for (int stage = 0; tile < tile_end; tile += Config::kWarps) {
      // This lane's copies of the oldest tile are done; then all lanes' are.
      copy_async_wait<Config::kStages - 1>();
      warp_sync();
      const Shared<std::byte> k = ring.stage(stage);
      float s[1][kColumnTiles][4] = {};
      multiply_keys<Config>(s[0], queries, k);
      if constexpr (Config::kIs8Bit) multiply_scales(s, k + 2 * Config::kTileBytes, 1.0f);
      if (p.softcap > 0) cap_logits(s[0], p.softcap);
      const int32_t first_key = tile * kTileKeys;
      if (first_key < all.first || first_key + kTileKeys - 1 > all.last) {
        mask_logits(s[0], p, load_item(p.lists.decode_items + i), 0, first_key);
      }
      if constexpr (Config::kIs8Bit) {
        const Shared<const std::byte> scales = k + (2 * Config::kTileBytes + kTileKeys * 4);
        softmax.update(s[0], units.raise(max_scale<kColumnTiles>(scales)));
        multiply_scales(s, scales, units.share());
      } else {
        softmax.update(s[0]);
      }
      multiply_values<Config>(softmax.o, s[0], k + Config::kTileBytes);
      // All lanes have read the tile before its place is filled again.
      warp_sync();
      if (next < tile_end) ring.issue(next, next_id, stage);
      copy_async_commit();
      next += Config::kWarps;
      next_id = next < tile_end ? ring.block_id(next) : 0;
      stage = stage + 1 == Config::kStages ? 0 : stage + 1;
    }
    // Nothing is on its way any more: the groups that are still open are empty.
    softmax.finish(Config::kIs8Bit ? units.scale : 1.0f);
    merge_warps<Config>(softmax, rings, p, load_item(p.lists.decode_items + i));
  }
}

}  // namespace longhaul::device
