// Copies from global to shared memory that complete behind the threads' backs.
//
// copy_async (cp.async): the bytes land at the issuing thread's wait that requires them, no
// earlier. bulk_copy_async (cp.async.bulk): they land when nothing else can run, or now and then
// earlier, and then count toward their mbarrier. In either case the destination must not be
// touched before a wait has made sure of the copy, early as it may have landed.
//
// Without checks both are done when they are issued.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <vector>

namespace longhaul::simt {

class Block;
struct Thread;

struct PendingCopy {
  std::byte* to = nullptr;
  const void* from = nullptr;
  uint32_t bytes = 0;
  bool valid = true;  // else zeros
  uint32_t group = 0;
  std::source_location site;
};

// One thread's cp.async groups.
class CopyGroups {
 public:
  void reset();
  void issue(Thread& self, PendingCopy copy);
  void commit() { ++open_group_; }
  // Lands what is in all but the last `groups` committed ones.
  void wait(Thread& self, uint32_t groups, std::source_location site);
  const std::vector<PendingCopy>& pending() const { return pending_; }

 private:
  std::vector<PendingCopy> pending_;  // in order of issue
  uint32_t open_group_ = 0;           // the group that commit() closes
};

struct PendingBulkCopy {
  std::byte* to = nullptr;
  const void* from = nullptr;
  uint32_t bytes = 0;
  uint32_t mbarrier = 0;  // index in Mbarriers
  uint32_t thread = 0;    // who issued it
  std::source_location site;
};

class BulkCopies {
 public:
  void reset() { pending_.clear(); }
  void issue(Thread& self, PendingBulkCopy copy);
  // Completes one, drawn by chance. False if none is under way.
  bool land_one(Block& block);
  // A copy that no thread waited for may write after the block's end: a fault.
  void check_all_waited(Block& block);

 private:
  std::vector<PendingBulkCopy> pending_;
};

}  // namespace longhaul::simt
