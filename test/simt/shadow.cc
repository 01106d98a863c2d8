#include "simt/shadow.h"

#include <algorithm>
#include <bit>
#include <string>

#include "simt/fault.h"
#include "simt/machine.h"
#include "simt/simt.h"

namespace longhaul::simt {

constinit thread_local bool checks_on __attribute__((tls_model("initial-exec"))) = true;

namespace {

constexpr uint32_t kGranule = 4;

// A source location is one pointer to a constant of the program; its distance from another
// constant fits 32 bits.
static_assert(sizeof(std::source_location) == sizeof(void*));
const char kAnchor = 0;

int32_t pack(std::source_location site) {
  const auto constant = std::bit_cast<intptr_t>(site);
  return constant == 0 ? 0 : static_cast<int32_t>(constant - reinterpret_cast<intptr_t>(&kAnchor));
}
std::source_location unpack(int32_t site) {
  if (site == 0) return {};
  return std::bit_cast<std::source_location>(reinterpret_cast<intptr_t>(&kAnchor) + site);
}

const char* verb_of(AccessKind kind) {
  return kind == AccessKind::kRead ? "read" : kind == AccessKind::kWrite ? "write" : "atomic";
}

}  // namespace

void check_shared(const std::byte* address, uint32_t bytes, uint32_t alignment, AccessKind kind,
                  std::source_location site) {
  Thread& self = *current;
  if (site.line() == 0) site = self.site;
  self.site = site;
  self.block->shadow().access(self, address, bytes, alignment, kind, site);
}

void Shadow::begin_block(Block& block) {
  block_ = &block;
  clocks_ = &block.clocks();
  const uint32_t granules = (block.shared_bytes() + kGranule - 1) / kGranule;
  if (granules_.size() < granules) {
    granules_.resize(granules);
    bytes_.clear();
  }
  sets_.begin_block(block.launch().threads);
  num_fences_ = 0;
  last_fence_.assign(block.launch().threads, 0);
}

void Shadow::check_range(Thread& self, const std::byte* address, uint32_t bytes, uint32_t alignment,
                         const char* verb, std::source_location site) {
  const ptrdiff_t offset = address - block_->shared();
  if (offset < 0 || offset + ptrdiff_t{bytes} > ptrdiff_t{block_->shared_bytes()}) {
    block_->fault(kIllegalAddress,
                  std::string("shared ") + verb + " of " + std::to_string(bytes) +
                      " bytes at offset " + std::to_string(offset) + " of " +
                      std::to_string(block_->shared_bytes()),
                  self, site);
  }
  if (offset % alignment != 0) {
    block_->fault(kMisalignedAddress,
                  std::string("shared ") + verb + " at offset " + std::to_string(offset) +
                      " is not aligned to " + std::to_string(alignment),
                  self, site);
  }
}

void Shadow::access(Thread& self, const std::byte* address, uint32_t bytes, uint32_t alignment,
                    AccessKind kind, std::source_location site) {
  check_range(self, address, bytes, alignment, verb_of(kind), site);
  const auto offset = static_cast<uint32_t>(address - block_->shared());
  const int32_t packed = pack(site);
  if (kind == AccessKind::kRead && offset % kGranule == 0 && bytes % kGranule == 0) {
    const Access read{self.id, clocks_->now(self.id), packed};
    for (uint32_t at = offset; at < offset + bytes; at += kGranule) {
      if (!read_again(granules_[at / kGranule], read)) {
        access_granule(self, at / kGranule, 15, kind, packed);
      }
    }
    return;
  }
  for (uint32_t at = offset; at < offset + bytes;) {
    const uint32_t first = at % kGranule;
    const uint32_t count = std::min(kGranule - first, offset + bytes - at);
    access_granule(self, at / kGranule, ((1u << count) - 1) << first, kind, packed);
    at += count;
  }
}

bool Shadow::read_again(Cell& cell, const Access& read) {
  if (cell.tag != clocks_->interval() || (cell.flags & ~kUnfenced) != 0 || cell.written != 15 ||
      cell.write_clock != 0 || cell.atomics != 0) {
    return false;
  }
  if (cell.readers != 0) return sets_.renew_in_array(cell.readers, read);
  if (cell.read_clock != 0 && cell.reader != read.thread) return false;
  cell.reader = static_cast<uint16_t>(read.thread);
  cell.read_clock = read.clock;
  cell.read_site = read.site;
  return true;
}

void Shadow::refresh(Cell& cell) {
  if (cell.tag == clocks_->interval()) return;
  if (cell.tag < clocks_->first_interval()) {
    cell.written = 0;
    cell.flags = 0;
  }
  cell.tag = clocks_->interval();
  cell.write_clock = cell.read_clock = 0;
  cell.readers = cell.atomics = 0;
}

void Shadow::split(uint32_t granule) {
  if (bytes_.empty()) bytes_.resize(granules_.size() * kGranule);
  Cell& whole = granules_[granule];
  whole.flags |= kSplit;
  for (uint32_t i = 0; i < kGranule; ++i) {
    Cell& part = bytes_[granule * kGranule + i];
    part = whole;
    part.readers = sets_.copy(whole.readers);
    part.atomics = sets_.copy(whole.atomics);
  }
}

void Shadow::access_granule(Thread& self, uint32_t granule, uint32_t mask, AccessKind kind,
                            int32_t site) {
  constexpr uint32_t kWhole = (1u << kGranule) - 1;
  Cell& cell = granules_[granule];
  refresh(cell);
  const uint32_t offset = granule * kGranule;
  if (cell.flags & (kInFlight | kMbarrier)) {
    not_ordinary(self, cell, offset, verb_of(kind), site);
  }
  if (kind == AccessKind::kWrite) {
    cell.written = static_cast<uint8_t>(cell.written | mask);
    cell.flags |= kUnfenced;
  } else if ((cell.written & mask) != mask) {
    block_->fault(kLaunchFailure,
                  std::string("shared ") + verb_of(kind) + " of bytes never written, at offset " +
                      std::to_string(offset + std::countr_zero(mask & ~uint32_t{cell.written})),
                  self, unpack(site));
  }
  if (mask == kWhole && !(cell.flags & kSplit)) {
    access_cell(self, cell, offset, kind, site);
    return;
  }
  if (!(cell.flags & kSplit)) split(granule);
  for (uint32_t i = 0; i < kGranule; ++i) {
    if (!(mask >> i & 1)) continue;
    Cell& part = bytes_[offset + i];
    refresh(part);
    access_cell(self, part, offset + i, kind, site);
  }
  if (kind == AccessKind::kWrite && mask == kWhole) {
    cell.flags = static_cast<uint8_t>(cell.flags & ~kSplit);
    set_write(cell, self.id, clocks_->now(self.id), site);
  }
}

void Shadow::access_cell(Thread& self, Cell& cell, uint32_t offset, AccessKind kind, int32_t site) {
  switch (kind) {
    case AccessKind::kRead:
      read_cell(self, cell, offset, site);
      break;
    case AccessKind::kWrite: {
      check_write(self, cell, offset, "write", site);
      const Access atomic = sets_.unordered(cell.atomics, self.id, *clocks_);
      if (atomic.clock != 0)
        race(self, offset, "write", "atomic", atomic.thread, atomic.site, site);
      set_write(cell, self.id, clocks_->now(self.id), site);
      break;
    }
    case AccessKind::kAtomic:
      // Atomics do not race with each other.
      check_write(self, cell, offset, "atomic", site);
      cell.atomics = sets_.add(cell.atomics, {self.id, clocks_->now(self.id), site});
      break;
  }
}

void Shadow::read_cell(Thread& self, Cell& cell, uint32_t offset, int32_t site) {
  const uint32_t thread = self.id;
  if (cell.write_clock != 0 && !clocks_->knows(thread, cell.writer, cell.write_clock)) {
    race(self, offset, "read", "write", cell.writer, cell.write_site, site);
  }
  if (cell.atomics != 0) {
    const Access atomic = sets_.unordered(cell.atomics, thread, *clocks_);
    if (atomic.clock != 0) race(self, offset, "read", "atomic", atomic.thread, atomic.site, site);
  }
  const uint32_t now = clocks_->now(thread);
  if (cell.readers != 0) {
    cell.readers = sets_.add(cell.readers, {thread, now, site});
    return;
  }
  if (cell.read_clock != 0 && !clocks_->knows(thread, cell.reader, cell.read_clock)) {
    cell.readers = sets_.add(0, {cell.reader, cell.read_clock, cell.read_site});
    cell.readers = sets_.add(cell.readers, {thread, now, site});
    return;
  }
  cell.reader = static_cast<uint16_t>(thread);
  cell.read_clock = now;
  cell.read_site = site;
}

void Shadow::check_write(Thread& self, Cell& cell, uint32_t offset, const char* verb,
                         int32_t site) {
  if (cell.write_clock != 0 && !clocks_->knows(self.id, cell.writer, cell.write_clock)) {
    race(self, offset, verb, "write", cell.writer, cell.write_site, site);
  }
  if (cell.readers != 0) {
    const Access read = sets_.unordered(cell.readers, self.id, *clocks_);
    if (read.clock != 0) race(self, offset, verb, "read", read.thread, read.site, site);
  } else if (cell.read_clock != 0 && !clocks_->knows(self.id, cell.reader, cell.read_clock)) {
    race(self, offset, verb, "read", cell.reader, cell.read_site, site);
  }
}

void Shadow::set_write(Cell& cell, uint32_t writer, uint32_t clock, int32_t site) {
  cell.tag = clocks_->interval();
  cell.writer = static_cast<uint16_t>(writer);
  cell.write_clock = clock;
  cell.write_site = site;
  cell.write_fences = num_fences_;
  cell.read_clock = 0;
  cell.readers = cell.atomics = 0;
}

void Shadow::copy_begins(Thread& self, const std::byte* address, uint32_t bytes, bool bulk,
                         std::source_location site) {
  const char* const verb = bulk ? "bulk_copy_async" : "copy_async";
  check_range(self, address, bytes, bulk ? 16 : bytes, verb, site);
  const auto first = static_cast<uint32_t>(address - block_->shared()) / kGranule;
  const int32_t packed = pack(site);
  for (uint32_t granule = first; granule < first + bytes / kGranule; ++granule) {
    Cell& cell = granules_[granule];
    refresh(cell);
    // Ordinary writes reach shared memory by another road than bulk copies: a fence after the
    // write, by its thread or on the way to the copy's, must come between.
    const bool fenced = last_fence_[self.id] > cell.write_fences ||
                        last_fence_[cell.writer % last_fence_.size()] > cell.write_fences;
    if (bulk && (cell.flags & kUnfenced) && !fenced) {
      block_->fault(kLaunchFailure,
                    "bulk_copy_async over an ordinary write at " + place(unpack(cell.write_site)) +
                        " with no fence_async_proxy between",
                    self, site);
    }
    access_granule(self, granule, 15, AccessKind::kWrite, packed);
    cell.flags = static_cast<uint8_t>((cell.flags | kInFlight) & ~kUnfenced);
  }
}

void Shadow::copy_landed(const std::byte* address, uint32_t bytes, uint32_t writer, uint32_t clock,
                         std::source_location site) {
  const auto first = static_cast<uint32_t>(address - block_->shared()) / kGranule;
  for (uint32_t granule = first; granule < first + bytes / kGranule; ++granule) {
    Cell& cell = granules_[granule];
    cell.flags = static_cast<uint8_t>(cell.flags & ~kInFlight);
    if (writer != clocks_->agent()) cell.flags |= kUnfenced;
    set_write(cell, writer, clock, pack(site));
  }
}

void Shadow::mbarrier_begins(Thread& self, const std::byte* address, std::source_location site) {
  access(self, address, 8, 8, AccessKind::kWrite, site);
  const auto first = static_cast<uint32_t>(address - block_->shared()) / kGranule;
  granules_[first].flags |= kMbarrier;
  granules_[first + 1].flags |= kMbarrier;
}

void Shadow::mbarrier_used(Thread& self, const std::byte* address, std::source_location site) {
  const auto offset = static_cast<uint32_t>(address - block_->shared());
  Cell& cell = granules_[offset / kGranule];
  refresh(cell);
  if (cell.write_clock != 0 && !clocks_->knows(self.id, cell.writer, cell.write_clock)) {
    race(self, offset, "use of an mbarrier", "initialization", cell.writer, cell.write_site,
         pack(site));
  }
}

void Shadow::not_ordinary(Thread& self, const Cell& cell, uint32_t offset, const char* verb,
                          int32_t site) {
  const std::string what = std::string("shared ") + verb + " at offset " + std::to_string(offset);
  block_->fault(kLaunchFailure,
                cell.flags & kMbarrier
                    ? what + ", which is an mbarrier (" + place(unpack(cell.write_site)) + ")"
                    : what + ", which a copy by thread " + std::to_string(cell.writer) + " (" +
                          place(unpack(cell.write_site)) +
                          ") is still writing: no wait has required it yet",
                self, unpack(site));
}

void Shadow::race(Thread& self, uint32_t offset, const char* verb, const char* earlier,
                  uint32_t other, int32_t other_site, int32_t site) {
  const std::string who =
      other == clocks_->agent() ? "a bulk copy" : "thread " + std::to_string(other);
  block_->fault(kLaunchFailure,
                std::string("race on shared memory at offset ") + std::to_string(offset) + ": " +
                    verb + " not ordered after the " + earlier + " by " + who + " (" +
                    place(unpack(other_site)) + ")",
                self, unpack(site));
}

}  // namespace longhaul::simt
