#include "simt/machine.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "simt/fault.h"
#include "simt/simt.h"

namespace longhaul::simt {

constinit thread_local Thread* current __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

constexpr size_t kSharedAlignment = 128;

std::string thread_name(const Thread& thread) { return "thread " + std::to_string(thread.id); }

// One call in the source has one constant for its place in nearly all cases; two texts are
// compared only where it has not (a function template's instantiations).
bool same_place(const char* a, Site where_a, const char* b, Site where_b) {
  if (a != b && std::strcmp(a, b) != 0) return false;
  if (std::bit_cast<const void*>(where_a) == std::bit_cast<const void*>(where_b)) return true;
  return where_a.line() == where_b.line() && where_a.column() == where_b.column() &&
         std::strcmp(where_a.file_name(), where_b.file_name()) == 0;
}

}  // namespace

Block::Block() : ready_(kReadySlots) {}

Block::~Block() {
  quitting_ = true;
  for (const auto& thread : threads_) Fiber::switch_to(scheduler_, *thread->fiber);
}

bool Block::run(const Launch& launch, uint3 block_index, Random* random) {
  prepare(launch, block_index, random);
  run_ready();
  while (alive_ > 0 && !aborting_) {
    if (bulk_copies_.land_one(*this)) {
      run_ready();
    } else {
      set_block_fault(kDeadlock, deadlock_message());
    }
  }
  if (!aborting_) bulk_copies_.check_all_waited(*this);
  if (aborting_) abandon_threads();
  current = nullptr;
  return !aborting_;
}

void Block::prepare(const Launch& launch, uint3 block_index, Random* random) {
  launch_ = launch;
  index_ = block_index;
  random_ = random;
  aborting_ = false;
  alive_ = launch.threads;
  ready_head_ = ready_count_ = 0;
  mbarriers_.reset();
  bulk_copies_.reset();
  for (NamedBarrier& barrier : barriers_) {
    barrier.threads = barrier.arrived = 0;
    barrier.waiting.clear();
  }
  if (shared_arena_.size() < launch.shared_bytes + kSharedAlignment) {
    shared_arena_.resize(launch.shared_bytes + kSharedAlignment);
  }
  const auto base = reinterpret_cast<uintptr_t>(shared_arena_.data());
  shared_ = shared_arena_.data() + (kSharedAlignment - base % kSharedAlignment) % kSharedAlignment;
  // Not a number in every floating-point type, and a wild index.
  if (launch.checks) std::memset(shared_, 0xff, launch.shared_bytes);

  if (launch.checks) {
    clocks_.begin_block(launch.threads);
    shadow_.begin_block(*this);
  }
  warps_.assign((launch.threads + kWarpLanes - 1) / kWarpLanes, Warp());
  while (threads_.size() < launch.threads) {
    auto added = std::make_unique<Thread>();
    Thread* const self = added.get();
    self->block = this;
    self->id = static_cast<uint32_t>(threads_.size());
    self->lane = self->id % kWarpLanes;
    self->index = uint3{self->id, 0, 0};
    self->fiber = std::make_unique<Fiber>([self] { self->block->thread_main(*self); });
    threads_.push_back(std::move(added));
  }
  for (uint32_t id = 0; id < launch.threads; ++id) {
    Thread& thread = *threads_[id];
    thread.warp = &warps_[id / kWarpLanes];
    thread.exited = false;
    thread.primitive = nullptr;
    thread.copies.reset();
    wake(id);
  }
}

// A fiber's whole life: one thread of one block after another.
void Block::thread_main(Thread& self) {
  while (!quitting_) {
    current = &self;
    try {
      if (!aborting_) {
        launch_.call(launch_.body);
        thread_ends(self);
      }
    } catch (const Abandon&) {
    }
    self.exited = true;
    --alive_;
    leave_cpu(self);
  }
  Fiber::leave(*self.fiber, scheduler_);
}

void Block::thread_ends(Thread& self) {
  if (!self.copies.pending().empty()) {
    fault(kLaunchFailure, "the thread ends without waiting for this copy_async", self,
          self.copies.pending().front().site);
  }
  Warp& warp = *self.warp;
  if (warp.arrived != 0) {
    fault(kLaunchFailure,
          std::string("divergent warp: the thread ends while other lanes of the warp are at ") +
              warp.primitive + " (" + place(warp.site) + ")",
          self, self.site);
  }
  if (barriers_[0].arrived != 0) {
    fault(kLaunchFailure,
          "divergent barrier: the thread ends while " +
              thread_name(*threads_[barriers_[0].waiting.front()]) + " is at block_sync (" +
              place(barriers_[0].site) + ")",
          self, self.site);
  }
  warp.exited |= 1u << self.lane;
}

void Block::run_ready() {
  if (ready_count_ == 0) return;
  Fiber::switch_to(scheduler_, *threads_[next_ready()]->fiber);
}

void Block::abandon_threads() {
  for (uint32_t id = 0; id < launch_.threads; ++id) {
    if (!threads_[id]->exited) Fiber::switch_to(scheduler_, *threads_[id]->fiber);
  }
}

void Block::maybe_yield(Thread& self) {
  if (!random_ || random_->below(4) != 0) return;
  wake(self.id);
  wait(self);
}

bool Block::warp_arrive(Thread& self, const char* primitive, void* operands, Site site) {
  Warp& warp = *self.warp;
  self.primitive = primitive;
  self.site = site;
  if (warp.arrived == 0) {
    warp.primitive = primitive;
    warp.site = site;
  } else if (!same_place(warp.primitive, warp.site, primitive, site)) {
    fault(kLaunchFailure,
          std::string("divergent warp: ") + primitive + " while other lanes of the warp are at " +
              warp.primitive + " (" + place(warp.site) + ")",
          self, site);
  }
  if (warp.exited != 0) {
    const auto lane = static_cast<uint32_t>(std::countr_zero(warp.exited));
    fault(kLaunchFailure,
          std::string("divergent warp: ") + primitive + " after " +
              thread_name(*threads_[self.id - self.lane + lane]) + " has ended",
          self, site);
  }
  warp.lanes[self.lane] = operands;
  warp.arrived |= 1u << self.lane;
  if (warp.arrived == 0xffffffffu) return true;
  wait(self);
  return false;
}

void Block::warp_release(Thread& self) {
  self.warp->arrived = 0;
  const uint32_t first = self.id - self.lane;
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    if (lane != self.lane) wake(first + lane);
  }
  maybe_yield(self);
}

void Block::block_sync(Thread& self, Site site) {
  self.primitive = "block_sync";
  self.site = site;
  NamedBarrier& barrier = barriers_[0];
  if (barrier.arrived == 0) {
    barrier.site = site;
  } else if (!same_place("", barrier.site, "", site)) {
    fault(kLaunchFailure,
          "divergent barrier: block_sync while " + thread_name(*threads_[barrier.waiting.front()]) +
              " is at block_sync (" + place(barrier.site) + ")",
          self, site);
  }
  if (alive_ < launch_.threads) {
    fault(kLaunchFailure, "divergent barrier: block_sync after other threads have ended", self,
          site);
  }
  if (++barrier.arrived < launch_.threads) {
    barrier.waiting.push_back(self.id);
    wait(self);
    return;
  }
  barrier.arrived = 0;
  all_ordered();
  for (const uint32_t id : barrier.waiting) wake(id);
  barrier.waiting.clear();
  maybe_yield(self);
}

void Block::barrier_sync(Thread& self, uint32_t id, uint32_t threads, Site site) {
  self.primitive = "barrier_sync";
  self.site = site;
  arrive_named(self, id, threads, true, site);
}

void Block::barrier_arrive(Thread& self, uint32_t id, uint32_t threads, Site site) {
  self.primitive = "barrier_arrive";
  self.site = site;
  arrive_named(self, id, threads, false, site);
}

void Block::arrive_named(Thread& self, uint32_t id, uint32_t threads, bool waits, Site site) {
  if (id == 0 || id >= kNamedBarriers) {
    fault(kLaunchFailure, "no named barrier " + std::to_string(id) + " (1..15)", self, site);
  }
  if (threads == 0 || threads % kWarpLanes != 0 || threads > launch_.threads) {
    fault(kLaunchFailure,
          "a named barrier of " + std::to_string(threads) + " threads in a block of " +
              std::to_string(launch_.threads),
          self, site);
  }
  NamedBarrier& barrier = barriers_[id];
  if (barrier.arrived == 0) {
    barrier.threads = threads;
    barrier.site = site;
    barrier.arrivals_only = false;
    barrier.seen.assign(launch_.threads, false);
    barrier.clocks.interval = 0;
  } else if (barrier.threads != threads) {
    fault(kLaunchFailure,
          "barrier " + std::to_string(id) + " of " + std::to_string(threads) + " threads, but of " +
              std::to_string(barrier.threads) + " at " + place(barrier.site),
          self, site);
  }
  if (barrier.seen[self.id]) {
    fault(kLaunchFailure,
          "second arrival at barrier " + std::to_string(id) + " before it completed", self, site);
  }
  barrier.seen[self.id] = true;
  barrier.arrivals_only |= !waits;
  if (checks()) clocks_.release(self.id, barrier.clocks);
  if (++barrier.arrived < barrier.threads) {
    if (!waits) return;
    barrier.waiting.push_back(self.id);
    wait(self);
    return;
  }
  barrier.arrived = 0;
  if (barrier.threads == launch_.threads && !barrier.arrivals_only) {
    all_ordered();
  } else if (checks()) {
    for (const uint32_t waiter : barrier.waiting) clocks_.acquire(waiter, barrier.clocks);
    if (waits) clocks_.acquire(self.id, barrier.clocks);
  }
  for (const uint32_t waiter : barrier.waiting) wake(waiter);
  barrier.waiting.clear();
  maybe_yield(self);
}

void Block::all_ordered() {
  if (!checks()) return;
  clocks_.block_barrier();
  shadow_.interval_begun();
}

void Block::fault(int code, const std::string& message, const Thread& self, Site site) {
  set_block_fault(code, thread_name(self) + ", " + place(site) + ": " + message);
  throw Abandon();
}

void Block::set_block_fault(int code, const std::string& message) {
  if (aborting_) return;
  aborting_ = true;
  set_fault(code, std::string("kernel ") + launch_.kernel + ", block (" + std::to_string(index_.x) +
                      "," + std::to_string(index_.y) + "," + std::to_string(index_.z) + "), " +
                      message);
}

// One line a place where threads wait, with how many and the first of them.
std::string Block::deadlock_message() {
  struct Place {
    const char* primitive;
    Site site;
    uint32_t first, count;
  };
  std::vector<Place> places;
  uint32_t exited = 0;
  bool barrier = false;
  for (uint32_t id = 0; id < launch_.threads; ++id) {
    const Thread& thread = *threads_[id];
    if (thread.exited) {
      ++exited;
      continue;
    }
    const char* const primitive = thread.primitive ? thread.primitive : "start";
    barrier |= std::strcmp(primitive, "block_sync") == 0;
    const auto known = std::find_if(places.begin(), places.end(), [&](const Place& p) {
      return same_place(p.primitive, p.site, primitive, thread.site);
    });
    if (known != places.end()) {
      ++known->count;
    } else {
      places.push_back({primitive, thread.site, id, 1});
    }
  }
  std::string text =
      barrier && (exited > 0 || places.size() > 1) ? "divergent barrier, deadlock:" : "deadlock:";
  for (const Place& p : places) {
    text += " " + std::to_string(p.count) + " thread(s), first thread " + std::to_string(p.first) +
            ", at " + p.primitive + " (" + place(p.site) + ");";
  }
  if (exited > 0) text += " " + std::to_string(exited) + " thread(s) exited;";
  text.pop_back();
  return text;
}

}  // namespace longhaul::simt
