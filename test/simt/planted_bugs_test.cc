// Each way to get synchronization or shared memory wrong, planted on purpose, must end its launch
// with a fault that names thread and line, whatever the order of threads.
#include <vector>

#include "simt/launch_probe.h"

namespace {

using namespace longhaul::device;
using namespace simt_probe;
using longhaul::simt::kDeadlock;
using longhaul::simt::kIllegalAddress;
using longhaul::simt::kLaunchFailure;
using longhaul::simt::kMisalignedAddress;

uint32_t id() { return threadIdx.x; }

LH_TEST(missing_block_sync) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int write_line = 0, read_line = 0;
    const Outcome outcome = run(seed, 64, 256, [&] {
      Shared<float> s = dynamic_shared<float>();
      write_line = __LINE__ + 1;
      s[id()] = 1.0f;
      read_line = __LINE__ + 1;
      [[maybe_unused]] const float other = s[(id() + 32) % 64];
    });
    // Depending on the order, the neighbor's element is unwritten or its write unordered.
    EXPECT_FAULT(outcome, kLaunchFailure, AT(read_line));
    EXPECT_TRUE(has(outcome.fault, "never written") ||
                (has(outcome.fault, "race") && has(outcome.fault, AT(write_line))));
  }
}

LH_TEST(race_names_both_threads_and_lines) {
  int write_line = 0, read_line = 0;
  const Outcome outcome = run(0, 64, 256, [&] {
    Shared<float> s = dynamic_shared<float>();
    write_line = __LINE__ + 1;
    if (id() == 3) s[5] = 1.0f;
    if (id() != 40) return;
    read_line = __LINE__ + 1;
    [[maybe_unused]] const float other = s[5];
  });
  EXPECT_FAULT(outcome, kLaunchFailure, "thread 40, " + AT(read_line),
               "read not ordered after the write by thread 3 (" + AT(write_line) + ")",
               "offset 20");
}

LH_TEST(write_after_read) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 256, [] {
      Shared<float> s = dynamic_shared<float>();
      s[id()] = 1.0f;
      block_sync();
      [[maybe_unused]] const float other = s[(id() + 1) % 64];
      s[id()] = 2.0f;  // its neighbor may not have read yet
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "race");
  }
}

LH_TEST(write_after_many_reads) {
  // All 256 threads read one element; the last barrier is missing for one writer.
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 256, 16, [] {
      Shared<float> s = dynamic_shared<float>();
      if (id() == 0) s[0] = 1.0f;
      block_sync();
      [[maybe_unused]] const float all = s[0];
      warp_sync();
      if (id() == 70) s[0] = 2.0f;
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "race");
  }
}

LH_TEST(write_after_write) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 256, [] {
      Shared<int32_t> s = dynamic_shared<int32_t>();
      if (id() == 1 || id() == 33) s[0] = static_cast<int32_t>(id());
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "write not ordered after the write");
  }
}

LH_TEST(missing_warp_sync) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 32, 128, [] {
      Shared<float> s = dynamic_shared<float>();
      s[id()] = 1.0f;
      // A shuffle brings the lanes together but orders no memory.
      warp_shuffle_xor(1.0f, 1);
      [[maybe_unused]] const float other = s[id() ^ 1];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "read not ordered after the write");
  }
}

LH_TEST(warp_sync_orders_one_warp_only) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 256, [] {
      Shared<float> s = dynamic_shared<float>();
      s[id()] = 1.0f;
      warp_sync();
      [[maybe_unused]] const float other = s[id() ^ 32];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "shared");
  }
}

LH_TEST(bytes_of_one_word_are_told_apart) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 64, [] {
      Shared<uint8_t> s = dynamic_shared<uint8_t>();
      s[id()] = 1;
      if (id() == 9) [[maybe_unused]]
        const uint8_t other = s[8];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "thread 9", "offset 8");
  }
}

LH_TEST(out_of_bounds) {
  const int line = __LINE__ + 1;
  const Outcome outcome = run(1, 32, 128, [] { dynamic_shared<float>()[32 + id()] = 0.0f; });
  EXPECT_FAULT(outcome, kIllegalAddress, AT(line), "of 128");
  EXPECT_FAULT(run(1, 32, 128, [] { dynamic_shared<float>()[-1] = 0.0f; }), kIllegalAddress,
               "offset -4");
  EXPECT_FAULT(run(1, 32, 130, [] { *(dynamic_shared<uint16_t>() + 65) = uint16_t{0}; }),
               kIllegalAddress, "offset 130");
  // The last bytes are inside.
  EXPECT_CLEAN(run(1, 32, 130, [] {
    if (id() == 0) dynamic_shared<uint16_t>()[64] = uint16_t{0};
  }));
}

LH_TEST(misaligned) {
  int line = 0;
  Outcome outcome = run(1, 32, 128, [&] {
    Shared<float> odd = dynamic_shared<float>() + 1;
    line = __LINE__ + 1;
    shared_cast<uint4>(odd)[0] = uint4{0, 0, 0, 0};
  });
  EXPECT_FAULT(outcome, kMisalignedAddress, AT(line), "offset 4", "aligned to 16");
  const std::vector<float> x(8);
  line = __LINE__ + 1;
  outcome = run(1, 32, 0, [&] { load_stream(reinterpret_cast<const float4*>(&x[1])); });
  EXPECT_FAULT(outcome, kMisalignedAddress, AT(line), "global load of 16");
}

LH_TEST(uninitialized_read) {
  const int line = __LINE__ + 2;
  const Outcome outcome = run(1, 32, 128, [] {
    [[maybe_unused]] const float x = dynamic_shared<float>()[7];
  });
  EXPECT_FAULT(outcome, kLaunchFailure, "never written", "offset 28", AT(line));
  // Half of a word is written.
  EXPECT_FAULT(run(1, 32, 128,
                   [] {
                     if (id() != 0) return;
                     dynamic_shared<uint16_t>()[2] = uint16_t{1};
                     [[maybe_unused]] const uint32_t x = dynamic_shared<uint32_t>()[1];
                   }),
               kLaunchFailure, "never written", "offset 6");
  // What an earlier block left is not initialized either.
  EXPECT_FAULT(run(
                   0, 32, 128,
                   [] {
                     Shared<float> s = dynamic_shared<float>();
                     if (blockIdx.x == 0) s[id()] = 1.0f;
                     [[maybe_unused]] const float x = s[id()];
                   },
                   dim3(2)),
               kLaunchFailure, "block (1,0,0)", "never written");
}

// Bodies stand outside of the EXPECT macros: inside, every line is the macro's.
void two_barriers() {
  if (id() < 32) {
    block_sync();
  } else {
    block_sync();
  }
}
void early_end() {
  if (id() == 63) return;
  block_sync();
}

LH_TEST(divergent_barrier) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_FAULT(run(seed, 64, 0, two_barriers), kLaunchFailure, "divergent barrier",
                 "is at block_sync");
    EXPECT_FAULT(run(seed, 64, 0, early_end), kLaunchFailure, "divergent barrier");
  }
}

void two_sums() {
  if (id() < 16) {
    warp_sum(1);
  } else {
    warp_sum(2);
  }
}
void sum_or_max() { id() < 16 ? warp_sum(1) : warp_max(1); }
void early_lane_end() {
  if (id() == 5) return;
  warp_sync();
}
void lane_at_block_sync() {
  if (id() != 5) warp_sync();
  block_sync();
}

LH_TEST(divergent_warp) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_FAULT(run(seed, 32, 0, two_sums), kLaunchFailure, "divergent warp",
                 "other lanes of the warp are at warp_sum");
    EXPECT_FAULT(run(seed, 32, 0, sum_or_max), kLaunchFailure, "divergent warp", "warp_sum",
                 "warp_max");
    EXPECT_FAULT(run(seed, 32, 0, early_lane_end), kLaunchFailure, "divergent warp");
    EXPECT_FAULT(run(seed, 32, 0, lane_at_block_sync), kDeadlock,
                 "31 thread(s), first thread 0, at warp_sync",
                 "1 thread(s), first thread 5, at block_sync");
  }
}

LH_TEST(named_barriers_that_never_fill) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const int line = __LINE__ + 2;
    const Outcome outcome = run(seed, 96, 0, [] {
      if (id() < 32) barrier_sync(1, 64);
    });
    EXPECT_FAULT(outcome, kDeadlock, "deadlock",
                 "32 thread(s), first thread 0, at barrier_sync (" + AT(line) + ")",
                 "64 thread(s) exited");
    // Two counts for one barrier: the smaller one may be complete before the other begins.
    const Outcome counts = run(seed, 64, 0, [] { barrier_sync(2, id() < 32 ? 32 : 64); });
    EXPECT_FAULT(counts, counts.code == kDeadlock ? kDeadlock : kLaunchFailure, "barrier");
    EXPECT_FAULT(run(seed, 64, 0,
                     [] {
                       if (id() >= 32) return;
                       barrier_arrive(3, 64);
                       barrier_arrive(3, 64);
                     }),
                 kLaunchFailure, "second arrival");
  }
  EXPECT_FAULT(run(1, 64, 0, [] { barrier_sync(16, 64); }), kLaunchFailure, "no named barrier 16");
  EXPECT_FAULT(run(1, 64, 0, [] { barrier_sync(1, 48); }), kLaunchFailure, "48 threads");
}

LH_TEST(named_barrier_orders_its_members_only) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 96, 16, [] {
      Shared<float> s = dynamic_shared<float>();
      if (id() == 0) s[0] = 1.0f;
      if (id() < 64) barrier_sync(1, 64);
      if (id() < 64 || id() == 80) [[maybe_unused]]
        const float x = s[0];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "thread 80");
  }
}

LH_TEST(arrival_does_not_acquire) {
  // The consumers' write is ordered after the producers' by barrier_sync, but a producer that only
  // arrived knows nothing of the consumers.
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 16, [] {
      Shared<float> s = dynamic_shared<float>();
      if (id() < 32) {
        if (id() == 0) s[0] = 1.0f;
        barrier_arrive(1, 64);
        if (id() == 1) [[maybe_unused]]
          const float x = s[0];
      } else {
        barrier_sync(1, 64);
      }
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "thread 1,", "shared");
  }
}

// ---- asynchronous copies

struct Source {
  alignas(16) float values[256];
  Source() {
    for (int i = 0; i < 256; ++i) values[i] = static_cast<float>(i);
  }
};
const Source source;

Shared<std::byte> bytes_at(uint32_t offset) { return dynamic_shared<std::byte>() + offset; }

LH_TEST(missing_copy_async_wait) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int copy_line = 0;
    const Outcome outcome = run(seed, 64, 1024, [&] {
      copy_line = __LINE__ + 1;
      copy_async<16>(bytes_at(16 * id()), source.values + 4 * id());
      copy_async_commit();
      block_sync();
      [[maybe_unused]] const float x = dynamic_shared<float>()[4 * id()];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "still writing", AT(copy_line), AT(copy_line + 3));
  }
}

LH_TEST(wait_for_too_few_groups) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int line = 0;
    const Outcome outcome = run(seed, 32, 1024, [&] {
      copy_async<16>(bytes_at(16 * id()), source.values + 4 * id());
      copy_async_commit();
      copy_async<16>(bytes_at(512 + 16 * id()), source.values + 4 * id());
      copy_async_commit();
      copy_async_wait<1>();
      [[maybe_unused]] const float first = dynamic_shared<float>()[4 * id()];
      line = __LINE__ + 1;
      [[maybe_unused]] const float second = dynamic_shared<float>()[128 + 4 * id()];
      copy_async_wait<0>();
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "still writing", AT(line));
  }
}

LH_TEST(missing_barrier_after_wait) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 1024, [] {
      copy_async<16>(bytes_at(16 * id()), source.values + 4 * id());
      copy_async_commit();
      copy_async_wait<0>();
      [[maybe_unused]] const float x = dynamic_shared<float>()[(4 * id() + 4) % 256];
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "shared");
  }
}

LH_TEST(copy_over_what_others_still_read) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome outcome = run(seed, 64, 1024, [] {
      Shared<float> s = dynamic_shared<float>();
      for (int i = 0; i < 4; ++i) s[4 * id() + i] = 0.0f;
      block_sync();
      [[maybe_unused]] const float x = s[(4 * id() + 4) % 256];
      copy_async<16>(bytes_at(16 * id()), source.values + 4 * id());
      copy_async_commit();
      copy_async_wait<0>();
    });
    EXPECT_FAULT(outcome, kLaunchFailure, "shared");
  }
}

LH_TEST(copies_never_waited_for) {
  int line = 0;
  const Outcome outcome = run(1, 32, 1024, [&] {
    line = __LINE__ + 1;
    copy_async<4>(bytes_at(4 * id()), source.values + id());
    copy_async_commit();
  });
  EXPECT_FAULT(outcome, kLaunchFailure, "ends without waiting", AT(line));
  // A wait covers committed groups only.
  EXPECT_FAULT(run(1, 32, 1024,
                   [] {
                     copy_async<4>(bytes_at(4 * id()), source.values + id());
                     copy_async_wait<0>();
                   }),
               kLaunchFailure, "ends without waiting");
}

LH_TEST(copy_async_addresses) {
  EXPECT_FAULT(run(1, 32, 1024, [] { copy_async<16>(bytes_at(8), source.values); }),
               kMisalignedAddress, "copy_async of 16");
  EXPECT_FAULT(run(1, 32, 1024, [] { copy_async<16>(bytes_at(0), source.values + 1); }),
               kMisalignedAddress, "copy_async of 16");
  EXPECT_FAULT(run(1, 32, 1024, [] { copy_async<16>(bytes_at(1024), source.values); }),
               kIllegalAddress, "offset 1024");
}

// ---- mbarriers and bulk copies

// One thread copies 64 floats to offset 64 behind an mbarrier at offset 0; `consume` runs in all.
Outcome bulk(uint64_t seed, const std::function<void(Shared<uint64_t>)>& produce,
             const std::function<void(Shared<uint64_t>)>& consume) {
  return run(seed, 64, 64 + 256, [&] {
    Shared<uint64_t> bar = dynamic_shared<uint64_t>();
    if (id() == 0) {
      mbarrier_init(bar, 1);
      fence_mbarrier_init();
    }
    block_sync();
    if (id() == 0) produce(bar);
    consume(bar);
  });
}
void copy_64(Shared<uint64_t> bar) {
  mbarrier_arrive_expect(bar, 256);
  bulk_copy_async(bytes_at(64), source.values, 256, bar);
}
float read_at(uint32_t i) { return dynamic_shared<float>()[16 + i]; }

LH_TEST(bulk_copy_waited_for_is_clean) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    int wrong = 0;
    EXPECT_CLEAN(bulk(seed, copy_64, [&](Shared<uint64_t> bar) {
      mbarrier_wait(bar, 0);
      wrong += read_at(id()) != static_cast<float>(id());
    }));
    EXPECT_EQ(wrong, 0);
  }
}

LH_TEST(bulk_copy_without_wait) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_FAULT(bulk(seed, copy_64, [](Shared<uint64_t>) { read_at(id()); }), kLaunchFailure,
                 "shared");
    EXPECT_FAULT(bulk(seed, copy_64,
                      [](Shared<uint64_t>) {
                        block_sync();
                        block_sync();
                        read_at(id());
                      }),
                 kLaunchFailure, "still writing");
    EXPECT_FAULT(bulk(seed, copy_64, [](Shared<uint64_t>) {}), kLaunchFailure, "thread 0",
                 "ends with no wait");
  }
}

LH_TEST(wait_of_another_thread_is_not_enough) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_FAULT(bulk(seed, copy_64,
                      [](Shared<uint64_t> bar) {
                        if (id() < 32) {
                          mbarrier_wait(bar, 0);
                          read_at(id());
                        }
                        if (id() == 32) read_at(0);
                      }),
                 kLaunchFailure, "thread 32", "shared");
    // But with a barrier after it, it is.
    EXPECT_CLEAN(bulk(seed, copy_64, [](Shared<uint64_t> bar) {
      if (id() == 7) mbarrier_wait(bar, 0);
      block_sync();
      read_at(id());
    }));
  }
}

LH_TEST(lost_mbarrier_phase) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    // Parity never flipped: the second wait is satisfied by the first phase or waits forever.
    const Outcome outcome = bulk(seed, copy_64, [](Shared<uint64_t> bar) {
      mbarrier_wait(bar, 0);
      read_at(id());
      block_sync();
      if (id() == 0) copy_64(bar);
      mbarrier_wait(bar, 0);
      read_at(id());
    });
    EXPECT_TRUE(outcome.code == kDeadlock || outcome.code == kLaunchFailure);
    EXPECT_TRUE(has(outcome.fault, "shared") || has(outcome.fault, "mbarrier_wait") ||
                has(outcome.fault, "no wait"));
  }
}

LH_TEST(mbarrier_counts) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    // Announced more than copied.
    int line = 0;
    const Outcome outcome = bulk(
        seed,
        [](Shared<uint64_t> bar) {
          mbarrier_arrive_expect(bar, 272);
          bulk_copy_async(bytes_at(64), source.values, 256, bar);
        },
        [&](Shared<uint64_t> bar) {
          line = __LINE__ + 1;
          mbarrier_wait(bar, 0);
        });
    EXPECT_FAULT(outcome, kDeadlock, "64 thread(s)", "mbarrier_wait (" + AT(line) + ")");
    // Nobody arrives.
    EXPECT_FAULT(
        bulk(
            seed, [](Shared<uint64_t>) {}, [](Shared<uint64_t> bar) { mbarrier_wait(bar, 0); }),
        kDeadlock, "mbarrier_wait");
    // The copy is issued before its bytes are announced: the phase must not complete early.
    EXPECT_CLEAN(bulk(
        seed,
        [](Shared<uint64_t> bar) {
          bulk_copy_async(bytes_at(64), source.values, 256, bar);
          mbarrier_arrive_expect(bar, 256);
        },
        [](Shared<uint64_t> bar) {
          mbarrier_wait(bar, 0);
          read_at(id());
        }));
  }
}

LH_TEST(mbarrier_before_its_time) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    // No barrier between initialization and use.
    EXPECT_FAULT(run(seed, 64, 16,
                     [] {
                       Shared<uint64_t> bar = dynamic_shared<uint64_t>();
                       if (id() == 0) mbarrier_init(bar, 64);
                       mbarrier_arrive(bar);
                     }),
                 kLaunchFailure, "mbarrier");
    // No fence between initialization and the bulk copy.
    EXPECT_FAULT(run(seed, 64, 64 + 256,
                     [] {
                       Shared<uint64_t> bar = dynamic_shared<uint64_t>();
                       if (id() == 0) mbarrier_init(bar, 1);
                       block_sync();
                       if (id() == 0) copy_64(bar);
                       mbarrier_wait(bar, 0);
                     }),
                 kLaunchFailure, "fence_mbarrier_init");
    // Its bytes are not ordinary memory.
    EXPECT_FAULT(bulk(
                     seed, [](Shared<uint64_t>) {},
                     [](Shared<uint64_t> bar) { [[maybe_unused]] const uint64_t x = bar[0]; }),
                 kLaunchFailure, "is an mbarrier");
  }
}

LH_TEST(bulk_copy_over_ordinary_writes) {
  const auto refill = [](bool fence) {
    return [fence](Shared<uint64_t> bar) {
      dynamic_shared<float>()[16 + id()] = 0.0f;
      if (fence) fence_async_proxy();
      block_sync();
      if (id() == 0) copy_64(bar);
      mbarrier_wait(bar, 0);
      read_at(id());
    };
  };
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_CLEAN(bulk(seed, [](Shared<uint64_t>) {}, refill(true)));
    EXPECT_FAULT(
        bulk(seed, [](Shared<uint64_t>) {}, refill(false)), kLaunchFailure, "no fence_async_proxy");
  }
}

LH_TEST(refill_before_consumers_are_done) {
  // Two phases through one buffer; consumers tell they are done through a second mbarrier, or not.
  const auto pipeline = [](uint64_t seed, bool release) {
    return run(seed, 64, 64 + 256, [release] {
      Shared<uint64_t> full = dynamic_shared<uint64_t>(), empty = full + 1;
      if (id() == 0) {
        mbarrier_init(full, 1);
        mbarrier_init(empty, 1);
        fence_mbarrier_init();
      }
      block_sync();
      for (uint32_t round = 0; round < 4; ++round) {
        if (id() < 32) {
          if (id() == 0) {
            if (release) mbarrier_wait(empty, (round & 1) ^ 1);
            copy_64(full);
            if (!release) mbarrier_wait(full, round & 1);
          }
        } else {
          mbarrier_wait(full, round & 1);
          read_at(id());
          read_at(id() - 32);
          warp_sync();
          if (id() == 32) mbarrier_arrive(empty);
        }
      }
    });
  };
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_CLEAN(pipeline(seed, true));
    const Outcome outcome = pipeline(seed, false);
    EXPECT_TRUE(outcome.code == kLaunchFailure || outcome.code == kDeadlock);
  }
}

// ---- the emulator itself

LH_TEST(a_failed_launch_leaves_nothing_behind) {
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const Outcome failed = run(seed, 128, 64, [] {
      if (id() < 64) warp_sync();
      if (id() == 77) [[maybe_unused]]
        const float x = dynamic_shared<float>()[0];
      block_sync();
    });
    EXPECT_FAULT(failed, kLaunchFailure, "thread 77");
    int sum = 0;
    EXPECT_CLEAN(run(seed, 256, 64, [&] {
      block_sync();
      sum += warp_sum(1);
    }));
    EXPECT_EQ(sum, 256 * 32);
  }
}

LH_TEST(shapes_that_no_device_takes) {
  const auto nothing = [] {};
  using longhaul::simt::kInvalidConfiguration;
  EXPECT_EQ(run(1, 0, 0, nothing).code, kInvalidConfiguration);
  EXPECT_EQ(run(1, 33, 0, nothing).code, kInvalidConfiguration);
  EXPECT_EQ(run(1, 1056, 0, nothing).code, kInvalidConfiguration);
  EXPECT_EQ(run(1, 32, 227 * 1024 + 1, nothing).code, kInvalidConfiguration);
  EXPECT_EQ(run(1, 32, 0, nothing, dim3(1, 65536)).code, kInvalidConfiguration);
  int inner = 0;
  EXPECT_EQ(run(1, 32, 0, [&] { inner = longhaul::simt::run_grid(dim3(1), 32, 0, [] {}); }).code,
            0);
  EXPECT_EQ(inner, kInvalidConfiguration);
  // Nothing to run is no fault.
  EXPECT_CLEAN(run(1, 32, 0, [] { *static_cast<volatile int*>(nullptr) = 0; }, dim3(4, 0)));
}

}  // namespace

LH_TEST_MAIN
