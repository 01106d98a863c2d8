#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace longhaul::simt {
namespace {

// Device code keeps its arrays in registers, so a thread's frames are a few KiB; red zones and
// unoptimized frames multiply that. Only touched pages cost memory.
#if defined(__SANITIZE_ADDRESS__) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 256 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

size_t page_bytes() {
  static const size_t bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

// Boost's allocator concept over a stack that the Fiber owns.
struct OwnedStack {
  boost::context::stack_context context;
  boost::context::stack_context allocate() { return context; }
  void deallocate(boost::context::stack_context&) {}
};

// Whom control came from, for whoever continues.
thread_local Fiber* leaving = nullptr;

}  // namespace

Fiber::Fiber(std::function<void()> entry) {
  const size_t guard = page_bytes();
  void* memory = mmap(nullptr, guard + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, guard, PROT_NONE) != 0) {
    std::perror("simt: no memory for a fiber's stack");
    std::abort();
  }
  stack_ = static_cast<std::byte*>(memory) + guard;
  stack_bytes_ = kStackBytes;
  OwnedStack owned;
  owned.context.sp = stack_ + stack_bytes_;
  owned.context.size = stack_bytes_;
  context_ = boost::context::fiber(
      std::allocator_arg, owned,
      [this, run = std::move(entry)](boost::context::fiber&& from) {
        leaving->context_ = std::move(from);
        arrive();
        run();
        return std::move(next_->context_);
      });
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - page_bytes(), stack_bytes_ + page_bytes());
}

void Fiber::arrive() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(sanitizer_stack_, &bottom, &bytes);
  // The thread's own stack is known only once it has been left.
  if (leaving && !leaving->stack_) {
    leaving->sanitizer_bottom_ = bottom;
    leaving->stack_bytes_ = bytes;
  }
#endif
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  leaving = &from;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&from.sanitizer_stack_,
                                 to.stack_ ? to.stack_ : to.sanitizer_bottom_,
                                 to.stack_bytes_);
#endif
  boost::context::fiber back = std::move(to.context_).resume();
  if (leaving) leaving->context_ = std::move(back);
  from.arrive();
}

void Fiber::leave(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, to.stack_ ? to.stack_ : to.sanitizer_bottom_,
                                 to.stack_bytes_);
#endif
  from.next_ = &to;
  leaving = nullptr;
}

}  // namespace longhaul::simt
