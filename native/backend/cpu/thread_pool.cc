// A region is a generation number: the engine thread writes the region's body, opens one share per
// worker, then bumps the number (release); a worker that sees the new number (acquire) may read the
// body and takes its share. When the engine thread is through with its own share it takes those
// that are still open: a worker that sleeps, or that the system has not given a processor, never
// holds a region up. What is left is to wait for shares that were taken by others.
//
// Waits spin for tens of microseconds, longer than the gap between two operations of a step, and
// then sleep in the kernel (std::atomic::wait is a futex on Linux). While they spin they yield: on
// a busy machine the thread that is waited for, or Node's, may be queued on this very processor.
#include "backend/cpu/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "backend/cpu/isa.h"
#include "check.h"

namespace longhaul::cpu {
namespace {

constexpr std::chrono::microseconds kSpin{30};

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Spins until `value` differs from `old` (true), or the spin time has passed (false).
bool spin_while_equal(const std::atomic<uint32_t>& value, uint32_t old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return true;
      pause();
    }
    std::this_thread::yield();
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

// One worker's share of the current region.
struct alignas(64) Share {
  std::atomic<uint32_t> open{0};  // the generation it is open for; 0 = taken
};

}  // namespace

struct ThreadPool::State {
  // Each hot word has its own cache line: workers poll one while others write another.
  alignas(64) std::atomic<uint32_t> generation{0};
  alignas(64) std::atomic<uint32_t> running{0};  // shares not done yet, the engine thread's apart
  alignas(64) std::atomic<int64_t> counter{0};
  alignas(64) void (*call)(const void*, int) = nullptr;
  const void* body = nullptr;
  std::atomic<bool> stopping{false};
  bool spin = true;  // pointless, even harmful, with more workers than processors
  int num_threads = 1;
  std::vector<std::thread> threads;
  std::unique_ptr<Share[]> shares;  // [num_threads]

  // Whoever takes a share runs it. A share of an older generation is never open: regions end only
  // when all of theirs are done.
  bool take(int worker, uint32_t region) {
    return shares[static_cast<size_t>(worker)].open.compare_exchange_strong(
        region, 0, std::memory_order_acq_rel);
  }

  void work(int worker) {
    uint32_t seen = 0;
    for (;;) {
      if (!spin || !spin_while_equal(generation, seen)) {
        generation.wait(seen, std::memory_order_acquire);
      }
      const uint32_t region = generation.load(std::memory_order_acquire);
      if (region == seen) continue;
      seen = region;
      if (stopping.load(std::memory_order_relaxed)) return;
      // The engine thread may have taken the share and even be some regions further on.
      if (!take(worker, region)) continue;
      call(body, worker);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) running.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  LH_CHECK(num_threads >= 1);
  State& state = *state_;
  state.num_threads = num_threads;
  const unsigned processors = std::thread::hardware_concurrency();
  state.spin = processors == 0 || static_cast<unsigned>(num_threads) <= processors;
  machine_isa();  // the AMX permission must be asked for before threads start
#if defined(__unix__) || defined(__APPLE__)
  // Signals belong to the host program's threads, never to a worker; except those that an
  // instruction of the worker raises: blocked, they end the process before any handler sees them.
  sigset_t all, previous;
  sigfillset(&all);
  for (const int fault : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, &previous);
#endif
  state.shares = std::make_unique<Share[]>(static_cast<size_t>(num_threads));
  state.threads.reserve(static_cast<size_t>(num_threads - 1));
  for (int worker = 1; worker < num_threads; ++worker) {
    state.threads.emplace_back([&state, worker] { state.work(worker); });
#if defined(__linux__)
    pthread_setname_np(state.threads.back().native_handle(), "longhaul-worker");
#endif
  }
#if defined(__unix__) || defined(__APPLE__)
  pthread_sigmask(SIG_SETMASK, &previous, nullptr);
#endif
}

ThreadPool::~ThreadPool() {
  state_->stopping.store(true, std::memory_order_relaxed);
  state_->generation.fetch_add(1, std::memory_order_release);
  state_->generation.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::num_threads() const { return state_->num_threads; }

void ThreadPool::run_raw(void (*call)(const void*, int), const void* body) {
  State& state = *state_;
  if (state.num_threads == 1) return call(body, 0);
  state.call = call;
  state.body = body;
  state.running.store(static_cast<uint32_t>(state.num_threads - 1), std::memory_order_relaxed);
  uint32_t region = state.generation.load(std::memory_order_relaxed) + 1;
  if (region == 0) region = 1;  // 0 means taken
  for (int worker = 1; worker < state.num_threads; ++worker) {
    state.shares[static_cast<size_t>(worker)].open.store(region, std::memory_order_relaxed);
  }
  state.generation.store(region, std::memory_order_release);
  state.generation.notify_all();
  call(body, 0);
  uint32_t taken = 0;
  for (int worker = 1; worker < state.num_threads; ++worker) {
    if (!state.take(worker, region)) continue;
    call(body, worker);
    ++taken;
  }
  uint32_t left = state.running.fetch_sub(taken, std::memory_order_acq_rel) - taken;
  for (; left != 0; left = state.running.load(std::memory_order_acquire)) {
    if (!state.spin || !spin_while_equal(state.running, left)) {
      state.running.wait(left, std::memory_order_acquire);
    }
  }
}

void ThreadPool::reset_counter() { state_->counter.store(0, std::memory_order_relaxed); }

int64_t ThreadPool::next() { return state_->counter.fetch_add(1, std::memory_order_relaxed); }

}  // namespace longhaul::cpu
