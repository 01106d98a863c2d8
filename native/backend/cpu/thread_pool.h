// ThreadPool: the CPU backend's workers. The calling (engine) thread is worker 0; the others are
// created once, spin for microseconds after a region and then sleep, so that Node's thread stays
// responsive on a small machine.
#pragma once

#include <cstdint>
#include <memory>

namespace longhaul::cpu {

class ThreadPool {
 public:
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Runs body(worker) once for every worker number, returns when all are done. Not reentrant.
  // The calling thread runs body(0), and then the numbers whose threads have not begun: bodies
  // must not wait for each other, and per-worker state goes by the number, not by the thread.
  template <typename Body>
  void run(const Body& body) {
    run_raw([](const void* b, int worker) { (*static_cast<const Body*>(b))(worker); }, &body);
  }

  // body(index, worker) for index in [0, count): contiguous static split.
  template <typename Body>
  void for_static(int64_t count, const Body& body) {
    const int n = num_threads();
    run([&](int worker) {
      const int64_t begin = count * worker / n, end = count * (worker + 1) / n;
      for (int64_t i = begin; i < end; ++i) body(i, worker);
    });
  }

  // body(index, worker) for index in [0, count): workers take the next index when free. A share
  // that gets any calls enter() before its first index and leave() after its last, all on the one
  // thread that runs it.
  template <typename Body, typename Enter, typename Leave>
  void for_dynamic(int64_t count, const Body& body, const Enter& enter, const Leave& leave) {
    reset_counter();
    run([&](int worker) {
      int64_t i = next();
      if (i >= count) return;
      enter();
      for (; i < count; i = next()) body(i, worker);
      leave();
    });
  }
  template <typename Body>
  void for_dynamic(int64_t count, const Body& body) {
    for_dynamic(count, body, [] {}, [] {});
  }

 private:
  void run_raw(void (*call)(const void*, int), const void* body);
  void reset_counter();
  int64_t next();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace longhaul::cpu
