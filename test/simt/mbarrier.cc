#include "simt/mbarrier.h"

#include <string>

#include "simt/fault.h"
#include "simt/machine.h"
#include "simt/simt.h"

namespace longhaul::simt {
namespace {

constexpr uint32_t kArrivalsMax = (1u << 20) - 1;
constexpr int64_t kBytesMax = (1 << 20) - 1;

}  // namespace

void Mbarriers::init(Thread& self, std::byte* address, uint32_t arrivals,
                     std::source_location site) {
  if (arrivals == 0 || arrivals > kArrivalsMax) {
    self.block->fault(kLaunchFailure, "mbarrier of " + std::to_string(arrivals) + " arrivals", self,
                      site);
  }
  for (const Mbarrier& known : table_) {
    if (known.address == address) {
      self.block->fault(kLaunchFailure, "mbarrier initialized again, first at " + place(known.site),
                        self, site);
    }
  }
  if (reinterpret_cast<uintptr_t>(address) % 8 != 0) {
    self.block->fault(kMisalignedAddress, "mbarrier not aligned to 8 bytes", self, site);
  }
  if (self.block->checks()) self.block->shadow().mbarrier_begins(self, address, site);
  Mbarrier barrier;
  barrier.address = address;
  barrier.arrivals = barrier.pending = arrivals;
  barrier.initializer = self.id;
  barrier.site = site;
  table_.push_back(std::move(barrier));
}

void Mbarriers::fence_init(Thread& self) {
  for (Mbarrier& barrier : table_) {
    if (barrier.initializer == self.id) barrier.fenced = true;
  }
}

uint32_t Mbarriers::find(Thread& self, std::byte* address, std::source_location site) {
  self.site = site;
  for (uint32_t i = 0; i < table_.size(); ++i) {
    if (table_[i].address != address) continue;
    if (self.block->checks()) self.block->shadow().mbarrier_used(self, address, site);
    return i;
  }
  self.block->fault(kLaunchFailure, "no mbarrier was initialized here", self, site);
}

void Mbarriers::arrive(Thread& self, uint32_t index, uint32_t expected_bytes,
                       std::source_location site) {
  Mbarrier& barrier = table_[index];
  barrier.bytes += expected_bytes;
  if (barrier.bytes > kBytesMax) {
    self.block->fault(kLaunchFailure, "mbarrier expects more than 2^20 - 1 bytes", self, site);
  }
  if (barrier.pending == 0) {
    self.block->fault(
        kLaunchFailure,
        "more arrivals than the mbarrier's " + std::to_string(barrier.arrivals) + " in one phase",
        self, site);
  }
  if (self.block->checks()) self.block->clocks().release(self.id, barrier.arriving);
  --barrier.pending;
  complete_if_done(*self.block, barrier);
}

void Mbarriers::bytes_landed(Block& block, const PendingBulkCopy& copy) {
  Mbarrier& barrier = table_[copy.mbarrier];
  barrier.bytes -= copy.bytes;
  if (block.checks()) barrier.landed.push_back(copy);
  complete_if_done(block, barrier);
}

void Mbarriers::check_bulk_use(Thread& self, uint32_t index, std::source_location site) {
  if (table_[index].fenced) return;
  self.block->fault(kLaunchFailure,
                    "bulk_copy_async on an mbarrier (" + place(table_[index].site) +
                        ") whose initialization no fence_mbarrier_init followed",
                    self, site);
}

const PendingBulkCopy* Mbarriers::unawaited() const {
  for (const Mbarrier& barrier : table_) {
    if (!barrier.landed.empty()) return &barrier.landed.front();
    if (!barrier.unawaited.empty()) return &barrier.unawaited.front();
  }
  return nullptr;
}

void Mbarriers::complete_if_done(Block& block, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
  if (block.checks()) {
    block.clocks().merge(barrier.arriving, barrier.completed);
    barrier.arriving.interval = 0;
    barrier.unawaited.insert(barrier.unawaited.end(), barrier.landed.begin(), barrier.landed.end());
    barrier.landed.clear();
  }
  for (const uint32_t id : barrier.waiting) block.wake(id);
  barrier.waiting.clear();
}

void Mbarriers::wait(Thread& self, uint32_t index, uint32_t parity, std::source_location site) {
  self.primitive = "mbarrier_wait";
  self.site = site;
  // Another thread may grow the table meanwhile, hence the index each time.
  while ((table_[index].phase & 1) == (parity & 1)) {
    table_[index].waiting.push_back(self.id);
    self.block->wait(self);
  }
  if (self.block->checks()) acquire(self, table_[index]);
  self.block->maybe_yield(self);
}

// The first thread to wait for a phase makes its copies known, as writes of the bulk copies' own
// clock; those that wait later learn of it, and nobody else.
void Mbarriers::acquire(Thread& self, Mbarrier& barrier) {
  Block& block = *self.block;
  if (!barrier.unawaited.empty()) {
    const uint32_t clock = block.clocks().release_agent(barrier.completed);
    for (const PendingBulkCopy& copy : barrier.unawaited) {
      block.shadow().copy_landed(copy.to, copy.bytes, block.clocks().agent(), clock, copy.site);
    }
    barrier.unawaited.clear();
  }
  block.clocks().acquire(self.id, barrier.completed);
}

}  // namespace longhaul::simt
