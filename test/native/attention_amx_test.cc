// Attention over 8-bit keys and values with AMX has the bits of the scalar one. On a processor with
// AVX-512 but without AMX the tile instructions run by software (tile_traps.h), everything else as
// it is.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "backend/cpu/attention.h"
#include "backend/cpu/attention_kernels.h"
#include "backend/cpu/quantized_kv.h"
#include "test.h"
#include "tile_traps.h"

#if LH_HAS_TILE_TRAPS
#include "backend/cpu/amx_tiles.h"

using namespace longhaul;
using namespace longhaul::cpu;
using lh_test::TileTraps;

namespace {

constexpr float kGuard = 12345.0f;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

bool traps() { return machine_isa() < Isa::kAmx; }

bool can_run() {
  static const bool can = [] {
    if (machine_isa() >= Isa::kAvx512) return true;
    std::printf("skipped: attention with AMX needs a processor with AVX-512\n");
    return false;
  }();
  return can;
}

// Same bits; NaN of any payload are equal.
bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::memcmp(&a, &b, sizeof(a)) == 0;
}

// One slice of K and V in blocks of their own, each exactly as large as a block's head, so that a
// sanitizer sees reads beyond it. All bytes are random. Scales of tokens that no row sees are NaN,
// blocks before the first and after the last token that some row sees are null.
class Slice {
 public:
  Slice(int head_dim, int block_size, int num_rows, float softcap, uint32_t seed)
      : random_(seed), head_dim_(head_dim), block_size_(block_size), rows_(num_rows) {
    softcap_ = softcap;
    q8_.resize(static_cast<size_t>(rows_ * head_dim_));
    for (int8_t& q : q8_) q = static_cast<int8_t>(static_cast<int>(random_() % 255) - 127);
    for (int r = 0; r < rows_; ++r) {
      const auto begin = q8_.begin() + r * head_dim_;
      sums_.push_back(std::accumulate(begin, begin + head_dim_, int32_t{0}));
      scales_.push_back(uniform() * 0x1p-15f);
    }
  }

  // Keys that each row sees.
  void see(std::vector<int32_t> first, std::vector<int32_t> last) {
    first_ = std::move(first);
    last_ = std::move(last);
    const int num_blocks = kSliceKeys / block_size_;
    int any_first = kSliceKeys, any_last = 0;
    for (size_t r = 0; r < first_.size(); ++r) {
      if (first_[r] >= last_[r]) continue;
      any_first = std::min(any_first, first_[r]);
      any_last = std::max(any_last, last_[r]);
    }
    memory_.assign(static_cast<size_t>(num_blocks), {});
    blocks_.assign(kSliceBlocksMax, nullptr);
    for (int b = 0; b < num_blocks; ++b) {
      if (any_first >= (b + 1) * block_size_ || any_last <= b * block_size_) continue;
      const auto bytes = static_cast<size_t>(2 * head_bytes());
      memory_[static_cast<size_t>(b)].resize(bytes / sizeof(float));
      auto* block = reinterpret_cast<std::byte*>(memory_[static_cast<size_t>(b)].data());
      blocks_[static_cast<size_t>(b)] = block;
      for (size_t i = 0; i < bytes; ++i) block[i] = static_cast<std::byte>(random_());
      for (const bool is_value : {false, true}) {
        auto* scales = reinterpret_cast<float*>(block + (is_value ? head_bytes() : 0) +
                                                block_size_ * head_dim_);
        for (int t = 0; t < block_size_; ++t) {
          const int token = b * block_size_ + t;
          scales[t] = seen(token) ? uniform() : kNaN;
        }
      }
    }
  }
  // Causal rows, `group` a position, the first at `position`; window 0 = all.
  void see_causally(int position, int group, int window) {
    std::vector<int32_t> first, last;
    for (int r = 0; r < rows_; ++r) {
      const int end = position + r / group + 1;
      first.push_back(std::clamp(window > 0 ? end - window : 0, 0, kSliceKeys));
      last.push_back(std::clamp(end, first.back(), kSliceKeys));
    }
    see(std::move(first), std::move(last));
  }
  // A token that overflowed.
  void spoil(int token) {
    std::vector<float>& block = memory_[static_cast<size_t>(token / block_size_)];
    block[static_cast<size_t>(block_size_ * head_dim_ / 4 + token % block_size_)] = kNaN;
  }

  // [rows][head_dim + 2], rows from `row` on at once.
  std::vector<float> run(const AttentionKernels& kernels, int row, int rows) {
    const auto at = static_cast<size_t>(row);
    const int partial = head_dim_ + 2;
    std::vector<float> out(static_cast<size_t>(rows * partial), kGuard);
    std::vector<float*> partials;
    for (int r = 0; r < rows; ++r) partials.push_back(out.data() + r * partial);
    std::vector<int8_t> packed(static_cast<size_t>(4 * rows * head_dim_));
    kernels.pack_queries8(q8_.data() + row * head_dim_, rows, head_dim_, packed.data());
    std::vector<float> scores(static_cast<size_t>(kQueryRowsMax * kSliceKeys), kNaN);
    std::vector<uint8_t> weights(static_cast<size_t>(kQueryRowsMax * kSliceKeys), 0xff);
    AttentionSliceArgs args;
    args.num_rows = rows;
    args.q8 = packed.data();
    args.q8_scales = scales_.data() + at;
    args.q8_sums = sums_.data() + at;
    args.first = first_.data() + at;
    args.last = last_.data() + at;
    args.blocks = blocks_.data();
    args.values_offset = head_bytes();
    args.next_blocks = next_blocks_;
    args.block_size = block_size_;
    args.head_dim = head_dim_;
    args.dtype = KvDType::kQ8;
    args.softcap = softcap_;
    args.scores = scores.data();
    args.weights8 = weights.data();
    args.partials = partials.data();
    kernels.slice8(args);
    return out;
  }

  // All rows together with AMX against each row alone with the scalar kernels.
  void expect_scalar_bits(const char* what) {
    attention_kernels_amx().enter(head_dim_);
    const std::vector<float> out = run(attention_kernels_amx(), 0, rows_);
    attention_kernels_amx().leave();
    int wrong = 0;
    for (int r = 0; r < rows_; ++r) {
      const std::vector<float> expected = run(attention_kernels_scalar(), r, 1);
      for (size_t i = 0; i < expected.size(); ++i) {
        const float found = out[static_cast<size_t>(r) * expected.size() + i];
        if (!same(found, expected[i])) ++wrong;
      }
      const bool sees = first_[static_cast<size_t>(r)] < last_[static_cast<size_t>(r)];
      EXPECT_EQ(expected[0] != kGuard, sees);
    }
    if (wrong != 0) {
      std::printf("  %s head_dim %d block %d rows %d: %d wrong\n", what, head_dim_, block_size_,
                  rows_, wrong);
    }
    EXPECT_EQ(wrong, 0);
  }

 private:
  int64_t head_bytes() const { return int64_t{block_size_} * (head_dim_ + 4); }
  float uniform() { return 0.01f + static_cast<float>(random_() % 1000) * 0.001f; }
  bool seen(int token) const {
    for (size_t r = 0; r < first_.size(); ++r) {
      if (first_[r] <= token && token < last_[r]) return true;
    }
    return false;
  }

  std::mt19937 random_;
  int head_dim_, block_size_, rows_;
  float softcap_ = 0;
  std::vector<int8_t> q8_;
  std::vector<int32_t> sums_, first_, last_;
  std::vector<float> scales_;
  std::vector<std::vector<float>> memory_;
  std::vector<const std::byte*> blocks_;
  const std::byte* next_blocks_[kSliceBlocksMax] = {};
};

}  // namespace

LH_TEST(tile_products_of_mixed_signs) {
  if (!can_run()) return;
  const TileTraps installed;
  // One row of four bytes against one dword: operands at the ends of their ranges.
  TileConfig config;
  for (int tile = 0; tile < 3; ++tile) {
    config.rows[tile] = 1;
    config.row_bytes[tile] = 4;
  }
  const uint8_t left[4] = {255, 128, 127, 3}, right[4] = {128, 200, 255, 129};
  const auto s = [](uint8_t x) { return static_cast<int32_t>(static_cast<int8_t>(x)); };
  int32_t signed_left = 0, signed_right = 0, sums[2];
  for (int i = 0; i < 4; ++i) {
    signed_left += s(left[i]) * right[i];
    signed_right += left[i] * s(right[i]);
  }
  configure_tiles(config);
  load_tile<1>(left, 64);
  load_tile<2>(right, 64);
  zero_tile<0>();
  multiply_tiles_s8_u8<0, 1, 2>();
  store_tile<0>(&sums[0], 64);
  zero_tile<0>();
  multiply_tiles_u8_s8<0, 1, 2>();
  store_tile<0>(&sums[1], 64);
  release_tiles();
  EXPECT_EQ(sums[0], signed_left);
  EXPECT_EQ(sums[1], signed_right);
}

LH_TEST(scalar_bits_for_every_shape) {
  if (!can_run()) return;
  const TileTraps installed;
  uint32_t seed = 1;
  for (const int head_dim : {16, 32, 48, 64, 80, 96, 112, 128, 192, 256, 400, 512}) {
    for (const int block_size : {32, 64, 128, 512}) {
      for (const float softcap : {0.0f, 40.0f}) {
        // Short ranges most of the time, as every trap takes its time.
        Slice slice(head_dim, block_size, 16 - static_cast<int>(seed % 11), softcap, seed);
        slice.see_causally(seed % 5 == 0 ? 511 : static_cast<int>(seed * 37 % 150), 3, 0);
        slice.expect_scalar_bits("causal");
        slice.see_causally(static_cast<int>(seed * 91 % 520), 2, 70);
        slice.expect_scalar_bits("window");
        ++seed;
      }
    }
  }
}

// As many rows as there may be, and too few for tiles.
LH_TEST(scalar_bits_for_every_number_of_rows) {
  if (!can_run()) return;
  const TileTraps installed;
  for (int rows = 1; rows <= kQueryRowsMax; ++rows) {
    const int64_t before = TileTraps::counts().products;
    Slice slice(80, 32, rows, 0, static_cast<uint32_t>(100 + rows));
    slice.see_causally(60 + rows, 1, 0);
    slice.expect_scalar_bits("rows");
    if (traps()) {
      EXPECT_EQ(TileTraps::counts().products > before, rows >= kTileQueryRowsMin);
    }
  }
}

LH_TEST(rows_that_see_nothing_keep_their_partials) {
  if (!can_run()) return;
  const TileTraps installed;
  for (const int block_size : {32, 256}) {
    Slice slice(48, block_size, 9, 0, 7);
    slice.see({0, 0, 512, 31, 200, 250, 0, 97, 100}, {0, 9, 512, 33, 290, 251, 0, 98, 101});
    slice.expect_scalar_bits("some");
    slice.see(std::vector<int32_t>(9, 0), std::vector<int32_t>(9, 0));
    slice.expect_scalar_bits("none");
  }
}

// Ranges of single keys, at and around the edges of tiles, blocks and weight blocks.
LH_TEST(scalar_bits_at_every_edge) {
  if (!can_run()) return;
  const TileTraps installed;
  std::mt19937 random(11);
  const int edges[] = {0, 1, 15, 16, 31, 32, 33, 47, 63, 64, 65, 95, 96, 128, 480, 511, 512};
  const auto edge = [&] { return edges[random() % std::size(edges)]; };
  for (int i = 0; i < 60; ++i) {
    const int rows = kTileQueryRowsMin + static_cast<int>(random() % 11);
    std::vector<int32_t> first, last;
    for (int r = 0; r < rows; ++r) {
      const int a = edge(), b = edge();
      first.push_back(a == b ? 0 : std::min(a, b));
      last.push_back(a == b ? 0 : std::max(a, b));
    }
    Slice slice(i % 2 == 0 ? 32 : 80, 32 << i % 3, rows, i % 4 == 0 ? 20.0f : 0.0f, random());
    slice.see(first, last);
    slice.expect_scalar_bits("edges");
  }
}

LH_TEST(a_token_that_overflowed_spoils_the_rows_that_see_it) {
  if (!can_run()) return;
  const TileTraps installed;
  Slice slice(64, 32, 12, 0, 13);
  slice.see_causally(70, 1, 0);
  slice.spoil(75);
  attention_kernels_amx().enter(64);
  const std::vector<float> out = slice.run(attention_kernels_amx(), 0, 12);
  attention_kernels_amx().leave();
  for (size_t r = 0; r < 12; ++r) EXPECT_EQ(std::isnan(out[r * 66 + 65]), r >= 5);  // l
  slice.expect_scalar_bits("spoiled");
}

namespace {

// A step of several sequences through attention_layer.
class Step {
 public:
  Step(KvDType dtype, int32_t kv_heads, int32_t group, int32_t head_dim, int32_t window)
      : heads_(kv_heads * group), head_dim_(head_dim) {
    KvLayout layout;
    layout.dtype = dtype;
    layout.block_size = 32;
    layout.num_kv_heads = kv_heads;
    layout.head_dim = head_dim;
    layout.layers_per_block = 1;
    EXPECT_TRUE(store_.create(layout, kBlocks).ok());
    std::memset(store_.block(0), dtype == KvDType::kQ8 ? 0xff : 0x11,
                static_cast<size_t>(layout.block_bytes() * kBlocks));
    work_.window = window;
    work_.block_size = layout.block_size;
    table_.resize(kBlocks);
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), random_);
  }

  void add(int32_t position, int32_t rows) {
    const int32_t blocks = (position + rows + 31) / 32;
    EXPECT_TRUE(next_block_ + blocks <= kBlocks);
    const int32_t* table = table_.data() + next_block_;
    work_.sequences.push_back({num_rows_, rows, position, table, blocks});
    num_rows_ += rows;
    next_block_ += blocks;
    if (store_.layout().dtype != KvDType::kQ8) return;
    for (int32_t t = 0; t < position + rows; ++t) {
      for (int32_t head = 0; head < store_.layout().num_kv_heads; ++head) {
        const std::vector<float> k = normals(head_dim_), v = normals(head_dim_);
        store_quantized(store_, {table[t / 32], 0, head, t % 32}, k.data(), v.data(),
                        row_ops_scalar());
      }
    }
  }
  void finish() { q_ = normals(num_rows_ * heads_ * head_dim_); }

  std::vector<float> run(Isa isa, int threads, int32_t max_partials) {
    build_attention_work(work_, {store_.layout().num_kv_heads, threads, max_partials});
    std::vector<float> out(q_.size(), kGuard);
    AttentionLayerParams params;
    params.work = &work_;
    params.q = q_.data();
    params.q_stride = params.out_stride = int64_t{heads_} * head_dim_;
    params.out = out.data();
    params.num_heads = heads_;
    params.scale = 0.125f;
    ThreadPool pool(threads);
    AttentionScratch scratch;
    attention_layer(params, store_, isa, scratch, pool);
    return out;
  }

 private:
  static constexpr int32_t kBlocks = 80;

  std::vector<float> normals(int count) {
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<size_t>(count));
    for (float& value : x) value = normal(random_);
    return x;
  }

  int32_t heads_, head_dim_;
  std::mt19937 random_{17};
  KvStore store_;
  std::vector<int32_t> table_;
  AttentionWork work_;
  std::vector<float> q_;
  int32_t num_rows_ = 0, next_block_ = 0;
};

struct Counted {
  int64_t configures, releases, products;
  static Counted now() {
    const lh_test::TileCounts& counts = TileTraps::counts();
    return {counts.configures, counts.releases, counts.products};
  }
};

}  // namespace

// Chunks, decode and several slices, folded by one worker or split into partials.
LH_TEST(layers_have_scalar_bits) {
  if (!can_run()) return;
  const TileTraps installed;
  for (const int32_t window : {0, 200}) {
    Step step(KvDType::kQ8, 2, 7, 48, window);
    step.add(0, 5);
    step.add(1040, 1);
    step.add(500, 17);
    step.finish();
    const std::vector<float> expected = step.run(Isa::kScalar, 1, 0);
    for (const int threads : {1, 2}) {
      for (const int32_t max_partials : {0, 200}) {
        const Counted before = Counted::now();
        const std::vector<float> out = step.run(Isa::kAmx, threads, max_partials);
        const Counted after = Counted::now();
        EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0);
        if (!traps()) continue;
        EXPECT_TRUE(after.products > before.products);
        EXPECT_EQ(after.configures - before.configures, after.releases - before.releases);
        EXPECT_TRUE(after.configures > before.configures);
        EXPECT_TRUE(after.configures - before.configures <= threads);
      }
    }
  }
}

// Threads keep tiles out of their state where nothing uses them.
LH_TEST(tiles_stay_unused_where_they_do_not_pay) {
  if (!can_run()) return;
  const TileTraps installed;
  const Counted before = Counted::now();
  Step decode(KvDType::kQ8, 1, 5, 64, 0);
  decode.add(100, 1);
  decode.add(40, 1);
  decode.finish();
  EXPECT_TRUE(decode.run(Isa::kAmx, 2, 0) == decode.run(Isa::kScalar, 1, 0));
  Step wide(KvDType::kBF16, 1, 8, 64, 0);
  wide.add(100, 3);
  wide.finish();
  EXPECT_TRUE(wide.run(Isa::kAmx, 2, 0) == wide.run(Isa::kScalar, 1, 0));
  EXPECT_EQ(Counted::now().configures, before.configures);
}

#else

LH_TEST(skipped) { std::printf("skipped: attention with AMX exists on x86-64 only\n"); }

#endif

LH_TEST_MAIN
