// Right programs, written as kernels are, end without a fault and with the exact result in every
// order of threads, with checks and without.
#include <cstdint>
#include <thread>
#include <vector>

#include "simt/launch_probe.h"

namespace {

using namespace longhaul::device;
using namespace simt_probe;

// Runs in all orders, and once without checks; `verify` looks at the result of each.
void in_all_orders(uint32_t threads, uint32_t shared_bytes, dim3 grid,
                   const std::function<void()>& clear, const std::function<void()>& body,
                   const std::function<bool()>& verify) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    clear();
    EXPECT_CLEAN(run(seed, threads, shared_bytes, body, grid));
    EXPECT_TRUE(verify());
  }
  clear();
  longhaul::simt::Options options;
  options.checks = false;
  longhaul::simt::set_options(options);
  EXPECT_EQ(longhaul::simt::run_grid(grid, threads, shared_bytes, body, "probe"), 0);
  EXPECT_TRUE(verify());
}

LH_TEST(tree_reduction) {
  std::vector<int32_t> x(3 * 256);
  std::vector<int32_t> sums(3);
  int32_t expected[3] = {};
  for (int i = 0; i < 768; ++i) expected[i / 256] += x[i] = i * i % 1013;
  in_all_orders(
      256, 1024, dim3(3), [&] { sums.assign(3, -1); },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        const uint32_t t = threadIdx.x;
        s[t] = load_stream(&x[blockIdx.x * 256 + t]);
        block_sync();
        for (uint32_t half = 128; half > 0; half /= 2) {
          if (t < half) s[t] += s[t + half];
          block_sync();
        }
        if (t == 0) sums[blockIdx.x] = s[0];
      },
      [&] { return sums == std::vector<int32_t>(expected, expected + 3); });
}

// c[64, 64] = a[64, k] b[k, 64] with small whole numbers, so that every order of sums is exact.
// Four warps, 16 rows each; stages of 16 in k through two buffers filled by copy_async. A stage's
// rows are padded to keep ldmatrix's eight rows in different banks.
template <typename T>
struct Product {
  static constexpr int kRows = 64, kColumns = 64, kDepth = 80, kStage = 16;
  static constexpr int kARow = (kStage + 8) * 2, kBRow = (kColumns + 8) * 2;  // bytes
  static constexpr int kBuffer = kRows * kARow + kStage * kBRow;

  alignas(16) T a[kRows][kDepth];
  alignas(16) T b[kDepth][kColumns];
  float c[kRows][kColumns];

  static int a_value(int row, int k) { return (row * 7 + k * 3) % 11 - 5; }
  static int b_value(int k, int column) { return (k * 5 + column * 2) % 13 - 6; }

  Product() {
    for (int i = 0; i < kRows; ++i)
      for (int k = 0; k < kDepth; ++k) a[i][k] = from_float<T>(static_cast<float>(a_value(i, k)));
    for (int k = 0; k < kDepth; ++k)
      for (int j = 0; j < kColumns; ++j) b[k][j] = from_float<T>(static_cast<float>(b_value(k, j)));
  }
  void clear() {
    for (auto& row : c)
      for (float& x : row) x = -1.0f;
  }
  bool verify() const {
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kColumns; ++j) {
        int sum = 0;
        for (int k = 0; k < kDepth; ++k) sum += a_value(i, k) * b_value(k, j);
        if (c[i][j] != static_cast<float>(sum)) return false;
      }
    }
    return true;
  }

  void fetch(Shared<std::byte> buffer, int stage) const {
    const int t = static_cast<int>(threadIdx.x);
    const bool valid = stage < kDepth / kStage;
    const int k = valid ? stage * kStage : 0;
    // 64 rows of 2 chunks and 16 rows of 8: one chunk of each a thread.
    copy_async<16>(buffer + (t / 2 * kARow + t % 2 * 16), &a[t / 2][k + t % 2 * 8], valid);
    copy_async<16>(buffer + (kRows * kARow + t / 8 * kBRow + t % 8 * 16), &b[k + t / 8][t % 8 * 8],
                   valid);
    copy_async_commit();
  }

  void kernel() {
    Shared<std::byte> shared = dynamic_shared<std::byte>();
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
    float sums[8][4] = {};
    fetch(shared, 0);
    constexpr int kStages = kDepth / kStage;
    for (int stage = 0; stage < kStages; ++stage) {
      fetch(shared + (stage + 1) % 2 * kBuffer, stage + 1);
      copy_async_wait<1>();
      block_sync();  // this stage's bytes, copied by all threads, are there for all
      Shared<std::byte> buffer = shared + stage % 2 * kBuffer;
      uint32_t a_fragment[4];
      load_matrix_x4(a_fragment, buffer + ((warp * 16 + lane % 16) * kARow + lane / 16 * 16));
      for (int tile = 0; tile < 8; tile += 2) {
        uint32_t pair[4];
        load_matrix_x4_trans(
            pair, buffer + (kRows * kARow + lane % 16 * kBRow + (tile + lane / 16) * 16));
        mma_16816<T>(sums[tile], a_fragment, {pair[0], pair[1]});
        mma_16816<T>(sums[tile + 1], a_fragment, {pair[2], pair[3]});
      }
      block_sync();  // all have read this buffer before the next fetch refills it
    }
    copy_async_wait<0>();
    for (int tile = 0; tile < 8; ++tile) {
      for (int i = 0; i < 4; ++i) {
        c[warp * 16 + lane / 4 + i / 2 * 8][tile * 8 + lane % 4 * 2 + i % 2] = sums[tile][i];
      }
    }
  }
};

LH_TEST(product_through_double_buffers_f16) {
  Product<f16> product;
  in_all_orders(
      128, 2 * Product<f16>::kBuffer, dim3(1), [&] { product.clear(); }, [&] { product.kernel(); },
      [&] { return product.verify(); });
}
LH_TEST(product_through_double_buffers_bf16) {
  Product<bf16> product;
  in_all_orders(
      128, 2 * Product<bf16>::kBuffer, dim3(1), [&] { product.clear(); }, [&] { product.kernel(); },
      [&] { return product.verify(); });
}

// One warp copies rows in bulk into three buffers, four others add them up; full and empty
// mbarriers, each with its own phase, keep them apart.
LH_TEST(specialized_warps_through_a_ring) {
  constexpr uint32_t kRing = 3, kTiles = 11, kFloats = 128, kConsumers = 4;
  alignas(16) static float x[kTiles * kFloats];
  for (uint32_t i = 0; i < kTiles * kFloats; ++i) x[i] = static_cast<float>(i % 97);
  std::vector<float> sums(kFloats);
  const auto kernel = [&] {
    Shared<uint64_t> full = dynamic_shared<uint64_t>();
    Shared<uint64_t> empty = full + kRing;
    Shared<std::byte> ring = dynamic_shared<std::byte>() + 128;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
      for (uint32_t i = 0; i < kRing; ++i) {
        mbarrier_init(full + i, 1);
        mbarrier_init(empty + i, kConsumers);
      }
      fence_mbarrier_init();
    }
    block_sync();
    if (warp == kConsumers) {
      for (uint32_t tile = 0; tile < kTiles && lane == 0; ++tile) {
        const uint32_t slot = tile % kRing, round = tile / kRing;
        mbarrier_wait(empty + slot, (round & 1) ^ 1);  // the first round finds all slots empty
        mbarrier_arrive_expect(full + slot, kFloats * 4);
        bulk_copy_async(ring + slot * kFloats * 4, x + tile * kFloats, kFloats * 4, full + slot);
      }
      return;
    }
    float sum = 0.0f;
    for (uint32_t tile = 0; tile < kTiles; ++tile) {
      const uint32_t slot = tile % kRing, round = tile / kRing;
      mbarrier_wait(full + slot, round & 1);
      sum += shared_cast<float>(ring)[slot * kFloats + threadIdx.x];
      warp_sync();  // all lanes have read before one tells so
      if (lane == 0) mbarrier_arrive(empty + slot);
    }
    sums[threadIdx.x] = sum;
  };
  in_all_orders((kConsumers + 1) * 32, 128 + kRing * kFloats * 4, dim3(1),
                [&] { sums.assign(kFloats, -1.0f); }, kernel,
                [&] {
                  for (uint32_t i = 0; i < kFloats; ++i) {
                    float expected = 0.0f;
                    for (uint32_t tile = 0; tile < kTiles; ++tile)
                      expected += x[tile * kFloats + i];
                    if (sums[i] != expected) return false;
                  }
                  return true;
                });
}

// Producer and consumer warps through named barriers, as bar.arrive and bar.sync are meant.
LH_TEST(named_barriers_hand_over_a_buffer) {
  constexpr int kRounds = 5, kFull = 1, kEmpty = 2;
  std::vector<int32_t> out(kRounds * 64);
  in_all_orders(
      128, 64 * 4, dim3(1), [&] { out.assign(kRounds * 64, -1); },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        const int t = static_cast<int>(threadIdx.x);
        for (int round = 0; round < kRounds; ++round) {
          if (t < 64) {
            if (round > 0) barrier_sync(kEmpty, 128);
            s[t] = 100 * round + t;
            barrier_arrive(kFull, 128);
          } else {
            barrier_sync(kFull, 128);
            out[round * 64 + t - 64] = s[127 - t];
            if (round + 1 < kRounds) barrier_arrive(kEmpty, 128);
          }
        }
      },
      [&] {
        for (int i = 0; i < kRounds * 64; ++i) {
          if (out[i] != 100 * (i / 64) + 63 - i % 64) return false;
        }
        return true;
      });
}

LH_TEST(halves_written_apart_and_read_together) {
  std::vector<uint32_t> out(64);
  in_all_orders(
      128, 256, dim3(2), [&] { out.assign(64, 0); },
      [&] {
        Shared<f16> s = dynamic_shared<f16>();
        for (int pass = 0; pass < 3; ++pass) {
          s[threadIdx.x] = from_float<f16>(static_cast<float>(threadIdx.x + pass));
          block_sync();
          if (threadIdx.x < 16) {
            const uint4 four = shared_cast<uint4>(s)[threadIdx.x];
            const uint32_t words[4] = {four.x, four.y, four.z, four.w};
            for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = words[i];
          }
          block_sync();
        }
      },
      [&] {
        for (int i = 0; i < 64; ++i) {
          if (out[i] != pack2<f16>(static_cast<float>(2 * i + 2), static_cast<float>(2 * i + 3)))
            return false;
        }
        return true;
      });
}

LH_TEST(atomics_of_shared_memory) {
  std::vector<int32_t> counts(8);
  int32_t largest = 0;
  uint32_t bits = 0;
  float sum = 0.0f;
  in_all_orders(
      256, 64, dim3(1),
      [&] {
        counts.assign(8, 0);
        largest = 0, bits = 0, sum = 0.0f;
      },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        if (threadIdx.x < 11) s[threadIdx.x] = 0;
        block_sync();
        const int t = static_cast<int>(threadIdx.x);
        shared_atomic_add(s + t % 8, 1);
        shared_atomic_max(s + 8, t * 37 % 256);
        shared_atomic_or(shared_cast<uint32_t>(s + 9), 1u << (t % 32));
        shared_atomic_add(shared_cast<float>(s + 10), 0.5f);
        block_sync();
        if (t < 8) counts[t] = s[t];
        if (t == 0)
          largest = s[8], bits = shared_cast<uint32_t>(s)[9], sum = shared_cast<float>(s)[10];
      },
      [&] {
        return counts == std::vector<int32_t>(8, 32) && largest == 255 && bits == 0xffffffffu &&
               sum == 128.0f;
      });
}

// The last block to finish, whichever it is, adds up what all blocks wrote.
LH_TEST(last_block_of_a_grid) {
  std::vector<int32_t> partial(24);
  int32_t done = 0, total = 0;
  in_all_orders(
      64, 16, dim3(2, 3, 4),
      [&] {
        partial.assign(24, 0);
        done = total = 0;
      },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
        if (threadIdx.x == 0) {
          store_stream(&partial[block], static_cast<int32_t>(block + 1));
          global_fence();
          s[0] = global_atomic_add(&done, 1);
        }
        block_sync();
        if (s[0] != 23 || threadIdx.x >= 32) return;
        const int32_t mine = threadIdx.x < 24 ? load_cached(&partial[threadIdx.x]) : 0;
        const int32_t sum = warp_sum(mine);
        if (threadIdx.x == 0) total = sum;
      },
      [&] { return total == 300; });
}

// Prefix sums over a block: shuffles within warps, shared memory across.
LH_TEST(prefix_sums) {
  std::vector<int32_t> out(512);
  in_all_orders(
      512, 64, dim3(1), [&] { out.assign(512, -1); },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        const int t = static_cast<int>(threadIdx.x), lane = t % 32, warp = t / 32;
        int32_t sum = t % 7;
        for (int step = 1; step < 32; step *= 2) {
          const int32_t before = warp_shuffle_up(sum, step);
          if (lane >= step) sum += before;
        }
        if (lane == 31) s[warp] = sum;
        block_sync();
        int32_t base = 0;
        for (int i = 0; i < warp; ++i) base += s[i];
        out[t] = base + sum;
      },
      [&] {
        int32_t sum = 0;
        for (int i = 0; i < 512; ++i) {
          sum += i % 7;
          if (out[i] != sum) return false;
        }
        return true;
      });
}

// What one lane writes is there for its warp after warp_sync, again and again, in every warp.
LH_TEST(warps_pass_notes) {
  std::vector<int32_t> out(128);
  in_all_orders(
      128, 128 * 4, dim3(1), [&] { out.assign(128, -1); },
      [&] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        const int t = static_cast<int>(threadIdx.x);
        s[t] = t;
        for (int round = 0; round < 10; ++round) {
          warp_sync();
          const int32_t next = s[(t & ~31) | ((t + 1) & 31)];
          warp_sync();
          s[t] = next;
        }
        out[t] = s[t];
      },
      [&] {
        for (int t = 0; t < 128; ++t) {
          if (out[t] != ((t & ~31) | ((t + 10) & 31))) return false;
        }
        return true;
      });
}

// Streams may run on different threads of the host: launches do not meet.
LH_TEST(two_host_threads_launch_at_once) {
  int codes[2] = {-1, -1};
  std::vector<int32_t> sums(2 * 20);
  const auto host = [&](int which) {
    codes[which] = 0;
    for (int i = 0; i < 20; ++i) {
      codes[which] += longhaul::simt::run_grid(dim3(3), 128, 512, [&, which, i] {
        Shared<int32_t> s = dynamic_shared<int32_t>();
        s[threadIdx.x] = which + 1;
        block_sync();
        const int32_t other = s[127 - threadIdx.x];
        const int32_t sum = warp_sum(other);
        if (threadIdx.x == 0) sums[which * 20 + i] += sum;
      });
    }
  };
  std::thread first(host, 0), second(host, 1);
  first.join();
  second.join();
  EXPECT_EQ(codes[0], 0);
  EXPECT_EQ(codes[1], 0);
  for (int i = 0; i < 40; ++i) EXPECT_EQ(sums[i], 3 * 32 * (1 + i / 20));
}

LH_TEST(seeds_give_the_order_back) {
  const auto order = [](uint64_t seed) {
    std::vector<uint32_t> seen;
    EXPECT_CLEAN(run(
        seed, 64, 0,
        [&] {
          seen.push_back(blockIdx.x * 64 + threadIdx.x);
          block_sync();
          seen.push_back(blockIdx.x * 64 + threadIdx.x);
        },
        dim3(4)));
    return seen;
  };
  EXPECT_TRUE(order(5) == order(5));
  EXPECT_TRUE(order(5) != order(6));
  // 0 is in order of arrival.
  const std::vector<uint32_t> plain = order(0);
  for (uint32_t i = 0; i < 64; ++i) EXPECT_EQ(plain[i], i);
}

}  // namespace

LH_TEST_MAIN
