// Fibers: stacks that hand the processor to each other. A fiber is reused from block to block, so
// its stack is mapped once. Knows nothing of threads, warps or kernels; the switch itself is
// Boost.Context's, told to the address sanitizer where that is compiled in.
#pragma once

#include <boost/context/fiber.hpp>
#include <cstddef>
#include <functional>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace longhaul::simt {

class Fiber {
 public:
  // The operating system thread's own stack: switched from and back to, never started.
  Fiber() = default;
  // A stack of its own with a guard page below. `entry` runs on the first switch to it; it must
  // not return but by calling leave() last.
  explicit Fiber(std::function<void()> entry);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Suspends the running fiber, which is `from`, and continues `to`. Returns when another fiber
  // switches back. All fibers of one operating system thread only.
  static void switch_to(Fiber& from, Fiber& to);
  // The last switch of `from`, whose entry then returns: its stack can be freed.
  static void leave(Fiber& from, Fiber& to);

 private:
  void arrive();

  // Whom control came from, for whoever continues; null after leave().
  static constinit thread_local Fiber* leaving_ __attribute__((tls_model("initial-exec")));

  boost::context::fiber context_;  // where to continue; empty while running
  Fiber* next_ = nullptr;          // set by leave(): whom the entry's return continues
  std::byte* stack_ = nullptr;     // lowest usable byte; null for the thread's own stack
  size_t stack_bytes_ = 0;
  const void* sanitizer_bottom_ = nullptr;  // of the thread's own stack, learned on leaving it
  void* sanitizer_stack_ = nullptr;
};

inline void Fiber::arrive() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(sanitizer_stack_, &bottom, &bytes);
  // The thread's own stack is known only once it has been left.
  if (leaving_ && !leaving_->stack_) {
    leaving_->sanitizer_bottom_ = bottom;
    leaving_->stack_bytes_ = bytes;
  }
#endif
}

inline __attribute__((always_inline)) void Fiber::switch_to(Fiber& from, Fiber& to) {
  leaving_ = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.sanitizer_stack_,
                                 to.stack_ ? to.stack_ : to.sanitizer_bottom_, to.stack_bytes_);
#endif
  boost::context::fiber back = std::move(to.context_).resume();
  if (leaving_) leaving_->context_ = std::move(back);
  from.arrive();
}

}  // namespace longhaul::simt
