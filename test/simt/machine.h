// One thread block being emulated: its threads, each on a fiber, what they wait for, and who runs
// next. The primitives (device_emulated.h) are written over this; kernels and tests are not.
//
// Threads run one at a time and switch only inside primitives that wait. Who continues is drawn
// from the launch's seed (0: first come, first served). A wrong program ends the launch with a
// fault: the thread that found it throws Abandon, every other thread throws it where it waits, so
// that all fibers unwind, and run_grid returns the fault's number.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

#include "simt/async_copy.h"
#include "simt/clocks.h"
#include "simt/fiber.h"
#include "simt/mbarrier.h"
#include "simt/random.h"
#include "simt/shadow.h"
#include "simt/vector_types.h"

namespace longhaul::simt {

using Site = std::source_location;

class Block;
struct Warp;

constexpr uint32_t kWarpLanes = 32;
constexpr uint32_t kReadySlots = 1024;   // threads a block can have
constexpr uint32_t kNamedBarriers = 16;  // 0 is block_sync's

struct Thread {
  uint3 index{};    // threadIdx
  uint32_t id = 0;  // in the block
  uint32_t lane = 0;
  Warp* warp = nullptr;
  Block* block = nullptr;
  bool exited = true;
  const char* primitive = nullptr;  // where it waits, or was last
  Site site;
  std::unique_ptr<Fiber> fiber;
  CopyGroups copies;
};

// A warp's meeting point: lanes leave pointers to their operands, the last one does the work for
// all of them.
struct Warp {
  uint32_t arrived = 0;  // bit per lane
  uint32_t exited = 0;   // bit per lane
  const char* primitive = nullptr;
  Site site;
  void* lanes[kWarpLanes] = {};
};

struct NamedBarrier {
  uint32_t threads = 0;  // that complete it; 0: nobody has arrived
  uint32_t arrived = 0;
  bool arrivals_only = false;     // barrier_arrive among them
  Site site;                      // of the first arrival
  std::vector<bool> seen;         // per thread
  std::vector<uint32_t> waiting;  // thread ids
  ClockSet clocks;                // published by the arrivals
};

// Thrown through device code to unwind a fiber; caught in this room only.
struct Abandon {};

class Block {
 public:
  Block();
  ~Block();

  // Runs one block to its end. Returns false after a fault. `body` is called by every thread.
  struct Launch {
    const char* kernel = "";
    dim3 grid;
    uint32_t threads = 0;
    uint32_t shared_bytes = 0;
    bool checks = true;
    void (*call)(const void* body) = nullptr;
    const void* body = nullptr;
  };
  bool run(const Launch& launch, uint3 block_index, Random* random);

  const Launch& launch() const { return launch_; }
  uint3 index() const { return index_; }
  dim3 block_dim() const { return dim3(launch_.threads); }
  bool checks() const { return launch_.checks; }
  Random* random() { return random_; }

  std::byte* shared() const { return shared_; }
  uint32_t shared_bytes() const { return launch_.shared_bytes; }
  Thread& thread(uint32_t id) { return *threads_[id]; }

  // ---- for primitives, called by the running thread

  // Arrives at a warp primitive with a pointer to this lane's operands. True for the last lane,
  // which does the work on warp.lanes and calls warp_release(); the others return when it has.
  bool warp_arrive(Thread& self, const char* primitive, void* operands, Site site);
  void warp_release(Thread& self);
  void block_sync(Thread& self, Site site);
  void barrier_sync(Thread& self, uint32_t id, uint32_t threads, Site site);
  void barrier_arrive(Thread& self, uint32_t id, uint32_t threads, Site site);
  // Another thread may run first, sometimes.
  void maybe_yield(Thread& self);

  // Suspends until wake() is called for this thread.
  void wait(Thread& self);
  void wake(uint32_t id);

  // A barrier of the whole block has ordered everything.
  void all_ordered();

  Clocks& clocks() { return clocks_; }
  Shadow& shadow() { return shadow_; }
  Mbarriers& mbarriers() { return mbarriers_; }
  BulkCopies& bulk_copies() { return bulk_copies_; }

  // Ends the launch: records "kernel, block, thread, file:line: message" and throws Abandon.
  [[noreturn]] void fault(int code, const std::string& message, const Thread& self, Site site);
  // The same from outside of any thread: the launch ends when threads next switch. The first
  // fault of a launch is the one told.
  void set_block_fault(int code, const std::string& message);

 private:
  void prepare(const Launch& launch, uint3 block_index, Random* random);
  void thread_main(Thread& self);
  void thread_ends(Thread& self);
  void run_ready();
  void abandon_threads();
  void leave_cpu(Thread& self);  // to the next ready thread, or to the scheduler
  uint32_t next_ready();
  void arrive_named(Thread& self, uint32_t id, uint32_t threads, bool waits, Site site);
  std::string deadlock_message();

  Launch launch_;
  uint3 index_{};
  Random* random_ = nullptr;
  Fiber scheduler_;
  std::vector<std::unique_ptr<Thread>> threads_;  // grows to the largest block yet
  std::vector<Warp> warps_;
  NamedBarrier barriers_[kNamedBarriers];
  Clocks clocks_;
  Shadow shadow_;
  Mbarriers mbarriers_;
  BulkCopies bulk_copies_;
  std::vector<uint32_t> ready_;  // ring of thread ids, a power of two long
  uint32_t ready_head_ = 0, ready_count_ = 0;
  uint32_t alive_ = 0;
  bool aborting_ = false;
  bool quitting_ = false;
  std::byte* shared_ = nullptr;
  std::vector<std::byte> shared_arena_;
};

// The running thread; null outside of kernels.
extern constinit thread_local Thread* current __attribute__((tls_model("initial-exec")));

// The way from one fiber to the next is one function. A switch leaves the processor's stack of
// return addresses one call behind, so that every return after it is mispredicted: with this path
// in four functions a switch took half as long again.
#define LONGHAUL_SIMT_INLINE inline __attribute__((always_inline))

LONGHAUL_SIMT_INLINE void Block::leave_cpu(Thread& self) {
  if (ready_count_ == 0 || aborting_) {
    Fiber::switch_to(*self.fiber, scheduler_);
  } else {
    Thread& next = *threads_[next_ready()];
    if (&next != &self) Fiber::switch_to(*self.fiber, *next.fiber);
  }
}

LONGHAUL_SIMT_INLINE uint32_t Block::next_ready() {
  if (random_) {
    if (random_->below(64) == 0) bulk_copies_.land_one(*this);
    const uint32_t chosen = (ready_head_ + random_->below(ready_count_)) % kReadySlots;
    std::swap(ready_[ready_head_], ready_[chosen]);
  }
  const uint32_t id = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) % kReadySlots;
  --ready_count_;
  return id;
}

LONGHAUL_SIMT_INLINE void Block::wait(Thread& self) {
  leave_cpu(self);
  current = &self;
  if (aborting_) throw Abandon();
}

LONGHAUL_SIMT_INLINE void Block::wake(uint32_t id) {
  ready_[(ready_head_ + ready_count_) % kReadySlots] = id;
  ++ready_count_;
}

}  // namespace longhaul::simt
