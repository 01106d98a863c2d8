#include "simt/async_copy.h"

#include <cstring>
#include <utility>

#include "simt/fault.h"
#include "simt/global.h"
#include "simt/machine.h"
#include "simt/simt.h"

namespace longhaul::simt {
namespace {

void land(const PendingCopy& copy) {
  if (copy.valid) {
    std::memcpy(copy.to, copy.from, copy.bytes);
  } else {
    std::memset(copy.to, 0, copy.bytes);
  }
}

}  // namespace

void CopyGroups::reset() {
  pending_.clear();
  open_group_ = 0;
}

void CopyGroups::issue(Thread& self, PendingCopy copy) {
  Block& block = *self.block;
  if (reinterpret_cast<uintptr_t>(copy.to) % copy.bytes != 0 ||
      (copy.valid && reinterpret_cast<uintptr_t>(copy.from) % copy.bytes != 0)) {
    block.fault(kMisalignedAddress,
                "copy_async of " + std::to_string(copy.bytes) + " bytes is not aligned to them",
                self, copy.site);
  }
  if (!block.checks()) {
    land(copy);
    return;
  }
  if (copy.valid) check_global(copy.from, copy.bytes, copy.bytes, "copy_async", copy.site);
  block.shadow().copy_begins(self, copy.to, copy.bytes, false, copy.site);
  copy.group = open_group_;
  pending_.push_back(copy);
}

void CopyGroups::wait(Thread& self, uint32_t groups, std::source_location site) {
  self.primitive = "copy_async_wait";
  self.site = site;
  size_t landed = 0;
  for (; landed < pending_.size(); ++landed) {
    const PendingCopy& copy = pending_[landed];
    if (copy.group + groups >= open_group_) break;
    land(copy);
    self.block->shadow().copy_landed(copy.to, copy.bytes, self.id,
                                     self.block->clocks().now(self.id), copy.site);
  }
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(landed));
}

void BulkCopies::issue(Thread& self, PendingBulkCopy copy) {
  if (copy.bytes % 16 != 0 || reinterpret_cast<uintptr_t>(copy.to) % 16 != 0 ||
      reinterpret_cast<uintptr_t>(copy.from) % 16 != 0) {
    self.block->fault(kMisalignedAddress,
                      "bulk_copy_async of " + std::to_string(copy.bytes) +
                          " bytes: size and both addresses must be multiples of 16",
                      self, copy.site);
  }
  Block& block = *self.block;
  if (!block.checks()) {
    std::memcpy(copy.to, copy.from, copy.bytes);
    block.mbarriers().bytes_landed(block, copy);
    return;
  }
  block.mbarriers().check_bulk_use(self, copy.mbarrier, copy.site);
  check_global(copy.from, copy.bytes, 16, "bulk_copy_async", copy.site);
  block.shadow().copy_begins(self, copy.to, copy.bytes, true, copy.site);
  pending_.push_back(copy);
}

bool BulkCopies::land_one(Block& block) {
  if (pending_.empty()) return false;
  const uint32_t chosen =
      block.random() ? block.random()->below(static_cast<uint32_t>(pending_.size())) : 0;
  const PendingBulkCopy copy = pending_[chosen];
  pending_.erase(pending_.begin() + chosen);
  std::memcpy(copy.to, copy.from, copy.bytes);
  block.mbarriers().bytes_landed(block, copy);
  return true;
}

void BulkCopies::check_all_waited(Block& block) {
  const PendingBulkCopy* const lost =
      pending_.empty() ? block.mbarriers().unawaited() : &pending_.front();
  if (!lost) return;
  block.set_block_fault(kLaunchFailure,
                        "thread " + std::to_string(lost->thread) + ", " + place(lost->site) +
                            ": the block ends with no wait for this bulk_copy_async");
}

}  // namespace longhaul::simt
