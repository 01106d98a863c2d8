// Attention over 8-bit keys and values with AMX tiles: a tile product makes the sums of 16 query
// rows x 16 keys over 64 channels of K, or of 16 rows x 16 channels over a weight block of V. The
// units of a block are the right operands as they lie in memory. All else, few query rows, the
// softmax and 16-bit keys and values, is that of AVX-512, and so are the bits: sums are exact, and
// what follows them in f32 is the same.
//
// Cycles of a slice of 512 keys for 16 rows, head_dim 64 (128), counted from published costs of
// single instructions; nothing here has been timed on a processor with AMX. Two vector operations
// a cycle; VPDPBUSD beside it for the same work:
//
//                                            tiles              VPDPBUSD
//   scores   32 products of 16 (64)          512 (1024)         4096 (8192)
//            convert, two scales: 1536       768 (768)          768 (768)
//   softmax  weigh_row, some 25 a vector     6400 (6400)        6400 (6400)
//   values   32 products of 16 (64)          512 (1024)         4096 (8192)
//            convert, FMA: 1024 (2048)       512 (1024)         512 (1024)
//
// Blocks of 32 tokens have half a weight block each: twice the products, 1024 (2048) for values.
// Beside a product the load ports are about as busy as the tiles: its right operand takes 8 cycles,
// asking for the same lines of later blocks 5, the other operand or the start of the sums 4 to 8.
// A tile product closes one of the two vector ports for a while afterwards, so the parts alternate
// in runs as long as the cache allows: all scores of a slice, 16 tiles of values.
//
// Fewer rows cost the tiles the same: some 1500 cycles where VPDPBUSD takes 512 a row. Rows from
// num_rows on are zeros in queries and stale in weights, and nobody reads their sums.
//
// Only intrinsics, built-ins and functions in unnamed namespaces: see attention_lanes.h.
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"  // what the slice of AVX-512 has for itself
#endif
#include "backend/cpu/amx_tiles.h"
#include "backend/cpu/attention_q8_impl.h"

namespace longhaul::cpu {
namespace {

static_assert(kQueryRowsMax == kTileRows && kTile * 4 == kTileRowBytes);
static_assert(kUnitBytes == kTileRowBytes && kWeightBlock == kTileRowBytes);

constexpr int kDepth = kTileRowBytes;  // bytes a product adds up at most
constexpr int kHalfDepth = kDepth / 2;
constexpr int kTileSums = kTileRows * kTile;
constexpr int kKeysStep = 32;          // no block is shorter
constexpr int kStepTiles = 16;         // of values before they are scaled, 16 KB
static_assert(kStepTiles * kTileSums <= kQueryRowsMax * kSliceKeys);

// Tiles 0 and 1 take sums. Operands have a pair of tiles for every depth: whole, half (values in
// blocks of 32 tokens), and what head_dim leaves over 64. Processors rename tiles, so that reusing
// one does not wait for its readers.
constexpr int kSums = 0;
constexpr int kRows = 2, kUnits = 3;
constexpr int kHalfRows = 4, kHalfUnits = 5;
constexpr int kTailRows = 6, kTailUnits = 7;

void enter(int32_t head_dim) {
  TileConfig config = {1, 0, {}, {64, 64, 64, 64, 32, 64}, {16, 16, 16, 16, 16, 8}};
  const int tail = head_dim % kDepth;
  if (tail != 0) {
    config.row_bytes[kTailRows] = static_cast<uint16_t>(tail);
    config.rows[kTailRows] = kTileRows;
    config.row_bytes[kTailUnits] = kTileRowBytes;
    config.rows[kTailUnits] = static_cast<uint8_t>(tail / kFour);
  }
  configure_tiles(config);
}

void leave() { release_tiles(); }

inline bool use_tiles(int num_rows) { return num_rows >= kTileQueryRowsMin; }

// As they are, [16][head_dim].
void pack_queries(const int8_t* q8, int32_t num_rows, int32_t head_dim, int8_t* packed) {
  if (!use_tiles(num_rows)) return pack_queries8(q8, num_rows, head_dim, packed);
  const auto bytes = static_cast<size_t>(num_rows) * static_cast<size_t>(head_dim);
  __builtin_memcpy(packed, q8, bytes);
  __builtin_memset(packed + bytes, 0, static_cast<size_t>(kTileRows * head_dim) - bytes);
}

inline void ask_for_units(const void* units, int count, ptrdiff_t ahead) {
  const char* first = static_cast<const char*>(units) + ahead;
  // One register and offsets; otherwise GCC keeps 16 sums and spills half of them.
  __asm__("" : "+r"(first));
  for (int i = 0; i < count; ++i) ask_for(first + i * kUnitBytes, 0);
}

// sums[2][row][key] += queries over the channels of one depth, for the keys of two tiles.
template <int kLeft, int kRight>
inline void add_keys(const int8_t* queries, int head_dim, const uint8_t* units, int num_units,
                     ptrdiff_t ahead) {
  const ptrdiff_t tile_bytes = ptrdiff_t{head_dim} * kTile;
  load_tile<kLeft>(queries, head_dim);
  ask_for_units(units, num_units, ahead);
  load_tile<kRight>(units, kUnitBytes);
  multiply_tiles_s8_u8<kSums, kLeft, kRight>();
  ask_for_units(units + tile_bytes, num_units, ahead);
  load_tile<kRight>(units + tile_bytes, kUnitBytes);
  multiply_tiles_s8_u8<kSums + 1, kLeft, kRight>();
}

// Scales of the keys of the slice, kKeysStep each.
struct KeyScales {
  const float* runs[kSliceKeys / kKeysStep];
};

// Integer sums of all rows and the keys [first, last) rounded to kKeysStep, where scores belong.
// Tokens outside the range may be unused slots: their sums are never read.
__attribute__((noinline)) void multiply_keys(const AttentionSliceArgs& args,
                                             const ReadOrder& order, int first, int last,
                                             KeyScales& key_scales) {
  alignas(64) int32_t offsets[kTileRows][kTile] = {};  // keys have 128 added
  for (int r = 0; r < args.num_rows; ++r) {
    _mm512_store_si512(offsets[r], _mm512_set1_epi32(-128 * args.q8_sums[r]));
  }
  const int block_size = args.block_size, head_dim = args.head_dim;
  for (int t = first / kKeysStep * kKeysStep; t < last; t += kKeysStep) {
    const int b = t / block_size, in_block = t % block_size;
    const ptrdiff_t ahead = order.ahead(b - order.first_block);
    const auto* keys = reinterpret_cast<const uint8_t*>(args.blocks[b]) +
                       ptrdiff_t{in_block} * head_dim;
    const float* scales = scales_of(args, args.blocks[b]) + in_block;
    key_scales.runs[t / kKeysStep] = scales;
    ask_for_units(scales, kKeysStep / kTile, ahead);
    load_tile<kSums>(offsets, kTileRowBytes);
    load_tile<kSums + 1>(offsets, kTileRowBytes);
    int c = 0;
    for (; c + kDepth <= head_dim; c += kDepth) {
      add_keys<kRows, kUnits>(args.q8 + c, head_dim, keys + c * kTile, kDepth / kFour, ahead);
    }
    if (c < head_dim) {
      add_keys<kTailRows, kTailUnits>(args.q8 + c, head_dim, keys + c * kTile,
                                      (head_dim - c) / kFour, ahead);
    }
    store_tile<kSums>(args.scores + t, kSliceKeys * sizeof(float));
    store_tile<kSums + 1>(args.scores + t + kTile, kSliceKeys * sizeof(float));
  }
}

// Sums into scores, of the vectors that hold keys the row sees.
__attribute__((noinline)) void scale_scores(const AttentionSliceArgs& args,
                                            const KeyScales& key_scales) {
  using L = Lanes;
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.first[r] >= args.last[r]) continue;
    const L::F query_scale = L::broadcast(args.q8_scales[r]);
    for (int t = args.first[r] / kTile * kTile; t < args.last[r]; t += kTile) {
      float* at = args.scores + r * kSliceKeys + t;
      const float* scales = key_scales.runs[t / kKeysStep] + t % kKeysStep;
      const L::F sum = ByteLanes::to_float(_mm512_loadu_si512(at));
      L::store(at, L::mul(L::mul(sum, L::load(scales)), query_scale));
    }
  }
}

// Sums of one weight block for one or two groups of 16 channels, kTokens at a time. Weights of
// tokens that a row does not see are zero, and so are their products with an unused slot.
template <int kTokens, int kGroups>
inline void add_group_values(const AttentionSliceArgs& args, const ReadOrder& order,
                             const Spans& spans, int weight_block, int group, int32_t* sums) {
  constexpr int kLeft = kTokens == kDepth ? kRows : kHalfRows;
  constexpr int kRight = kTokens == kDepth ? kUnits : kHalfUnits;
  const int block_size = args.block_size;
  const ptrdiff_t group_bytes = ptrdiff_t{block_size} * kTile;
  zero_tile<kSums>();
  if constexpr (kGroups == 2) zero_tile<kSums + 1>();
  const int begin = weight_block * kWeightBlock;
  for (int t = begin; t < begin + kWeightBlock; t += kTokens) {
    if (t + kTokens <= spans.any_first || t >= spans.any_last) continue;  // there may be no block
    const int b = t / block_size;
    const ptrdiff_t ahead = order.ahead(order.first_value + b - order.first_block);
    const std::byte* units = args.blocks[b] + args.values_offset + group * group_bytes +
                             ptrdiff_t{t % block_size} * kTile;
    load_tile<kLeft>(args.weights8 + t, kSliceKeys);
    ask_for_units(units, kTokens / kFour, ahead);
    load_tile<kRight>(units, kUnitBytes);
    multiply_tiles_u8_s8<kSums, kLeft, kRight>();
    if constexpr (kGroups == 2) {
      ask_for_units(units + group_bytes, kTokens / kFour, ahead);
      load_tile<kRight>(units + group_bytes, kUnitBytes);
      multiply_tiles_u8_s8<kSums + 1, kLeft, kRight>();
    }
  }
  store_tile<kSums>(sums, kTileRowBytes);
  if constexpr (kGroups == 2) store_tile<kSums + 1>(sums + kTileSums, kTileRowBytes);
}

// sums[weight block - begin][group][row][channel] of the weight blocks [begin, end).
template <int kTokens>
__attribute__((noinline)) void multiply_values(const AttentionSliceArgs& args,
                                               const ReadOrder& order, const Spans& spans,
                                               int begin, int end, int32_t* sums) {
  const int groups = args.head_dim / kTile;
  for (int block = begin; block < end; ++block) {
    int g = 0;
    for (; g + 2 <= groups; g += 2, sums += 2 * kTileSums) {
      add_group_values<kTokens, 2>(args, order, spans, block, g, sums);
    }
    if (g < groups) {
      add_group_values<kTokens, 1>(args, order, spans, block, g, sums);
      sums += kTileSums;
    }
  }
}

__attribute__((noinline)) void scale_values(const AttentionSliceArgs& args,
                                            const float (*block_scales)[kWeightBlocks], int begin,
                                            int end, const int32_t* sums, bool is_first) {
  using L = Lanes;
  const int groups = args.head_dim / kTile;
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.first[r] >= args.last[r]) continue;
    for (int g = 0; g < groups; ++g) {
      float* at = args.partials[r] + g * kTile;
      const int32_t* sum = sums + g * kTileSums + r * kTile;
      L::F o = is_first ? L::zero() : L::load(at);
#pragma GCC unroll 1
      for (int block = begin; block < end; ++block, sum += groups * kTileSums) {
        o = L::fma(ByteLanes::to_float(_mm512_loadu_si512(sum)),
                   L::broadcast(block_scales[r][block]), o);
      }
      L::store(at, o);
    }
  }
}

void slice8(const AttentionSliceArgs& args) {
  if (!use_tiles(args.num_rows)) return attention_kernels_avx512().slice8(args);
  const Spans spans = spans_of(args);
  if (spans.any_first >= spans.any_last) return;
  const ReadOrder order = read_order(args, spans.any_first, spans.any_last);
  KeyScales key_scales;
  multiply_keys(args, order, spans.any_first, spans.any_last, key_scales);
  scale_scores(args, key_scales);
  const ValueScales value_scales(args, spans);
  float block_scales[kQueryRowsMax][kWeightBlocks];
  for (int r = 0; r < args.num_rows; ++r) {
    if (args.softcap > 0.0f && args.first[r] < args.last[r]) {
      cap_row(args.scores + r * kSliceKeys, args.first[r], args.last[r], args.softcap);
    }
    weigh_row(args, spans, value_scales, r, block_scales[r]);
  }
  // Scores are no longer needed.
  auto* sums = reinterpret_cast<int32_t*>(args.scores);
  const int first = spans.any_first / kWeightBlock;
  const int last = (spans.any_last + kWeightBlock - 1) / kWeightBlock;
  const int step = max_of(1, kStepTiles * kTile / args.head_dim);
  for (int begin = first; begin < last; begin += step) {
    const int end = min_of(begin + step, last);
    if (args.block_size < kDepth) {
      multiply_values<kHalfDepth>(args, order, spans, begin, end, sums);
    } else {
      multiply_values<kDepth>(args, order, spans, begin, end, sums);
    }
    scale_values(args, block_scales, begin, end, sums, begin == first);
  }
}

AttentionKernels with_tiles(AttentionKernels kernels) noexcept {
  kernels.query_rows8 = kTileRows;
  kernels.slice8 = slice8;
  kernels.pack_queries8 = pack_queries;
  kernels.enter = enter;
  kernels.leave = leave;
  return kernels;
}

}  // namespace

const AttentionKernels& attention_kernels_amx() {
  static const AttentionKernels kKernels = with_tiles(attention_kernels_avx512());
  return kKernels;
}

}  // namespace longhaul::cpu
