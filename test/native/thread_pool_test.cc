// Regions run once for every worker, splits cover every index exactly once, and writes of one
// region are visible to the next, also after workers have gone to sleep.
#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <set>
#include <thread>
#include <vector>

#include "test.h"

using longhaul::cpu::ThreadPool;

LH_TEST(runs_once_for_every_worker) {
  for (const int n : {1, 2, 3, 7}) {
    ThreadPool pool(n);
    EXPECT_EQ(pool.num_threads(), n);
    std::vector<int> runs(static_cast<size_t>(n), 0);
    std::vector<std::thread::id> ids(static_cast<size_t>(n));
    for (int round = 0; round < 1000; ++round) {
      pool.run([&](int worker) {
        ++runs[static_cast<size_t>(worker)];
        ids[static_cast<size_t>(worker)] = std::this_thread::get_id();
      });
      EXPECT_TRUE(ids[0] == std::this_thread::get_id());
    }
    EXPECT_EQ(runs, std::vector<int>(static_cast<size_t>(n), 1000));
  }
}

LH_TEST(threads_take_their_shares) {
  // While the calling thread is busy, every other share runs on a thread of its own.
  ThreadPool pool(4);
  for (int round = 0; round < 3; ++round) {
    std::vector<std::thread::id> ids(4);
    std::atomic<int> begun{0};
    pool.run([&](int worker) {
      ids[static_cast<size_t>(worker)] = std::this_thread::get_id();
      begun.fetch_add(1);
      while (worker == 0 && begun.load() < 4) std::this_thread::yield();
    });
    EXPECT_EQ(std::set<std::thread::id>(ids.begin(), ids.end()).size(), 4u);
  }
}

LH_TEST(no_share_is_lost_or_run_twice) {
  // Empty regions in quick succession: threads arrive early, late or regions behind. No share is
  // lost or run twice, however they race.
  ThreadPool pool(3);
  for (int round = 0; round < 20000; ++round) {
    int runs[3] = {};
    pool.run([&](int worker) { ++runs[worker]; });
    if (runs[0] != 1 || runs[1] != 1 || runs[2] != 1) {
      EXPECT_EQ(runs[0] * 100 + runs[1] * 10 + runs[2], 111);
      return;
    }
  }
}

LH_TEST(splits_cover_each_index_once) {
  for (const int n : {1, 2, 5}) {
    ThreadPool pool(n);
    for (const int64_t count : {0, 1, 2, 4, 5, 6, 1000}) {
      std::vector<std::atomic<int>> fixed(static_cast<size_t>(count)), dynamic(fixed.size());
      std::vector<int> owner(fixed.size(), -1);
      std::atomic<bool> worker_ok{true};
      pool.for_static(count, [&](int64_t i, int worker) {
        fixed[static_cast<size_t>(i)].fetch_add(1);
        owner[static_cast<size_t>(i)] = worker;
        if (worker < 0 || worker >= n) worker_ok = false;
      });
      pool.for_dynamic(count, [&](int64_t i, int worker) {
        dynamic[static_cast<size_t>(i)].fetch_add(1);
        if (worker < 0 || worker >= n) worker_ok = false;
      });
      EXPECT_TRUE(worker_ok);
      for (size_t i = 0; i < fixed.size(); ++i) {
        EXPECT_EQ(fixed[i].load(), 1);
        EXPECT_EQ(dynamic[i].load(), 1);
        if (i > 0) EXPECT_TRUE(owner[i] >= owner[i - 1]);
      }
    }
  }
}

LH_TEST(regions_are_ordered) {
  ThreadPool pool(3);
  // Each region reads what the previous one wrote in another worker's slot.
  std::vector<int64_t> values(3, 0), next(3, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.run([&](int worker) {
      next[static_cast<size_t>(worker)] = values[static_cast<size_t>(worker + 1) % 3] + 1;
    });
    values = next;
  }
  EXPECT_EQ(values, std::vector<int64_t>(3, 2000));
}

LH_TEST(wakes_after_sleep) {
  ThreadPool pool(2);
  std::atomic<int> runs{0};
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));  // far beyond the spin
    pool.run([&](int) { runs.fetch_add(1); });
  }
  // The engine thread sleeps too while a worker is slow.
  pool.run([&](int worker) {
    if (worker == 1) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    runs.fetch_add(1);
  });
  EXPECT_EQ(runs.load(), 12);
}

LH_TEST(stops_idle_and_asleep) {
  for (int round = 0; round < 20; ++round) {
    ThreadPool pool(4);
    if (round % 2 == 1) pool.run([](int) {});
  }
}

LH_TEST(enter_and_leave_surround_a_share) {
  // On the thread of the share, once, and not at all where no index was left for it.
  static thread_local int depth = 0;
  for (const int n : {1, 3}) {
    ThreadPool pool(n);
    for (const int64_t count : {0, 1, 2, 200}) {
      std::atomic<int> entered{0}, left{0};
      std::atomic<int64_t> inside{0};
      pool.for_dynamic(
          count, [&](int64_t, int) { inside += depth; },
          [&] {
            ++depth;
            ++entered;
          },
          [&] {
            --depth;
            ++left;
          });
      EXPECT_EQ(inside.load(), count);
      EXPECT_EQ(entered.load(), left.load());
      EXPECT_TRUE(entered <= std::min<int64_t>(n, count) && (entered >= 1 || count == 0));
      EXPECT_EQ(depth, 0);
    }
  }
}

LH_TEST_MAIN
