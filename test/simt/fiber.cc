#include "simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace longhaul::simt {

constinit thread_local Fiber* Fiber::leaving_ __attribute__((tls_model("initial-exec"))) = nullptr;

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
  // All stacks begin at the same place of a page, hence in the same few sets of the caches: start
  // each some lines further, or hundreds of fibers evict each other at every switch.
  static thread_local size_t fibers = 0;
  const size_t color = fibers++ * 7 % 64 * 64;
  OwnedStack owned;
  owned.context.sp = stack_ + stack_bytes_ - color;
  owned.context.size = stack_bytes_ - color;
  context_ = boost::context::fiber(std::allocator_arg, owned,
                                   [this, run = std::move(entry)](boost::context::fiber&& from) {
                                     leaving_->context_ = std::move(from);
                                     arrive();
                                     run();
                                     return std::move(next_->context_);
                                   });
}

Fiber::~Fiber() {
  if (stack_) munmap(stack_ - page_bytes(), stack_bytes_ + page_bytes());
}

void Fiber::leave(Fiber& from, Fiber& to) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, to.stack_ ? to.stack_ : to.sanitizer_bottom_,
                                 to.stack_bytes_);
#endif
  from.next_ = &to;
  leaving_ = nullptr;
}

}  // namespace longhaul::simt
