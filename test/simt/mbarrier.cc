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

void Mbarriers::init(Thread& self, std::byte* address, uint32_t arrivals, std::source_location site) {
  if (arrivals == 0 || arrivals > kArrivalsMax) {
    self.block->fault(kLaunchFailure, "mbarrier of " + std::to_string(arrivals) + " arrivals", self,
                      site);
  }
  for (const Mbarrier& known : table_) {
    if (known.address == address) {
      self.block->fault(kLaunchFailure,
                        "mbarrier initialized again, first at " + place(known.site), self, site);
    }
  }
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
  for (uint32_t i = 0; i < table_.size(); ++i) {
    if (table_[i].address == address) return i;
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
    self.block->fault(kLaunchFailure,
                      "more arrivals than the mbarrier's " + std::to_string(barrier.arrivals) +
                          " in one phase",
                      self, site);
  }
  --barrier.pending;
  complete_if_done(*self.block, barrier);
}

void Mbarriers::bytes_landed(Block& block, uint32_t index, uint32_t bytes) {
  table_[index].bytes -= bytes;
  complete_if_done(block, table_[index]);
}

void Mbarriers::complete_if_done(Block& block, Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  ++barrier.phase;
  barrier.pending = barrier.arrivals;
  for (const uint32_t id : barrier.waiting) block.wake(id);
  barrier.waiting.clear();
}

void Mbarriers::wait(Thread& self, uint32_t index, uint32_t parity, std::source_location site) {
  self.primitive = "mbarrier_wait";
  self.site = site;
  // table_ does not move meanwhile only by luck, hence the index each time.
  while ((table_[index].phase & 1) == (parity & 1)) {
    table_[index].waiting.push_back(self.id);
    self.block->wait(self);
  }
  self.block->maybe_yield(self);
}

}  // namespace longhaul::simt
