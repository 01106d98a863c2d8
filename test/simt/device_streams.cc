#include "simt/device_streams.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "simt/device_memory.h"

namespace longhaul::simt {
namespace {

// FNV-1a over 8-byte words, then bytes.
uint64_t digest_of(const void* memory, int64_t bytes) {
  const auto* at = static_cast<const std::byte*>(memory);
  uint64_t digest = 0xcbf29ce484222325ull;
  for (; bytes >= 8; bytes -= 8, at += 8) {
    uint64_t word;
    std::memcpy(&word, at, sizeof(word));
    digest = (digest ^ word) * 0x100000001b3ull;
    digest ^= digest >> 29;   // high bits come down too
  }
  for (; bytes > 0; --bytes, ++at) {
    digest = (digest ^ static_cast<uint64_t>(*at)) * 0x100000001b3ull;
  }
  return digest;
}

bool overlap(const void* a, int64_t a_bytes, const void* b, int64_t b_bytes) {
  const auto* const x = static_cast<const std::byte*>(a);
  const auto* const y = static_cast<const std::byte*>(b);
  return x < y + b_bytes && y < x + a_bytes;
}

}  // namespace

void DeviceStreams::set_seed(uint64_t seed) {
  random_ = Random(seed);
  lazy_only_ = seed == 0;
}

size_t DeviceStreams::add_stream() {
  queues_.emplace_back();
  return queues_.size() - 1;
}

bool DeviceStreams::is_written_by_queued(const void* memory, int64_t bytes) const {
  for (const auto& queue : queues_) {
    for (const Operation& operation : queue) {
      if (operation.kind == Operation::Kind::kCopyToHost &&
          overlap(operation.to, operation.bytes, memory, bytes)) {
        return true;
      }
    }
  }
  return false;
}

bool DeviceStreams::is_used_by_queued(const void* memory, int64_t bytes) const {
  for (const auto& queue : queues_) {
    for (const Operation& operation : queue) {
      if (operation.kind == Operation::Kind::kCopyToDevice &&
          overlap(operation.from, operation.bytes, memory, bytes)) {
        return true;
      }
    }
  }
  return is_written_by_queued(memory, bytes);
}

void DeviceStreams::queue(size_t stream, Operation operation) {
  if (!failure_.ok()) return;
  if (operation.kind == Operation::Kind::kCopyToDevice) {
    operation.has_digest = !is_written_by_queued(operation.from, operation.bytes);
    if (operation.has_digest) operation.digest = digest_of(operation.from, operation.bytes);
  }
  if (operation.kind == Operation::Kind::kCopyToHost &&
      !is_used_by_queued(operation.to, operation.bytes)) {
    fill_poison(operation.to, operation.bytes);
  }
  queues_[stream].push_back(std::move(operation));
}

std::shared_ptr<Marker> DeviceStreams::record(size_t stream) {
  auto marker = std::make_shared<Marker>();
  marker->stream = stream;
  Operation operation;
  operation.kind = Operation::Kind::kMark;
  operation.marker = marker;
  queue(stream, std::move(operation));
  return marker;
}

void DeviceStreams::wait(size_t stream, std::shared_ptr<Marker> marker) {
  Operation operation;
  operation.kind = Operation::Kind::kWait;
  operation.marker = std::move(marker);
  queue(stream, std::move(operation));
}

bool DeviceStreams::runnable(size_t stream) const {
  if (queues_[stream].empty()) return false;
  const Operation& head = queues_[stream].front();
  return head.kind != Operation::Kind::kWait || head.marker->reached;
}

// A wait's marker was queued before the wait, so the chain ends.
size_t DeviceStreams::needed(size_t stream) const {
  while (!runnable(stream)) stream = queues_[stream].front().marker->stream;
  return stream;
}

Status DeviceStreams::run(Operation& operation) {
  switch (operation.kind) {
    case Operation::Kind::kMark:
      operation.marker->reached = true;
      return {};
    case Operation::Kind::kWait:
      return {};
    case Operation::Kind::kCopyToHost:
      std::memcpy(operation.to, operation.from, static_cast<size_t>(operation.bytes));
      return {};
    case Operation::Kind::kCopyToDevice:
      if (operation.has_digest && digest_of(operation.from, operation.bytes) != operation.digest) {
        return error(ErrorCode::kDevice,
                     "copy_to_device: the host memory at %p (%lld bytes) was changed before the "
                     "copy was done",
                     operation.from, static_cast<long long>(operation.bytes));
      }
      std::memcpy(operation.to, operation.from, static_cast<size_t>(operation.bytes));
      return check_();
    case Operation::Kind::kWork:
      LH_TRY(operation.run());
      if (const Status status = check_(); !status.ok()) {
        return error(status.code(), "after %s: %s", operation.name.c_str(),
                     status.message().c_str());
      }
      return {};
  }
  return {};
}

void DeviceStreams::run_head(size_t stream) {
  Operation operation = std::move(queues_[stream].front());
  queues_[stream].pop_front();
  if (Status status = run(operation); !status.ok()) fail(std::move(status));
}

void DeviceStreams::fail(Status status) {
  if (!failure_.ok()) return;
  failure_ = std::move(status);
  for (auto& queue : queues_) queue.clear();
}

Status DeviceStreams::finish_until(size_t stream, const std::function<bool()>& done) {
  if (!failure_.ok()) return failure_;
  if (done()) return {};   // draws nothing: polling leaves the order of what follows as it is
  const Policy policy = lazy_only_ ? Policy::kLazy : static_cast<Policy>(random_.below(3));
  std::vector<size_t> order(queues_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto shuffle = [&] {
    for (size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1], order[random_.below(static_cast<uint32_t>(i))]);
    }
  };
  if (policy == Policy::kPriority) shuffle();
  while (failure_.ok() && !done()) {
    if (policy == Policy::kRandom) shuffle();
    size_t next = needed(stream);
    if (policy != Policy::kLazy) {
      next = *std::find_if(order.begin(), order.end(), [&](size_t i) { return runnable(i); });
    }
    run_head(next);
  }
  return failure_;
}

Status DeviceStreams::finish(size_t stream) {
  return finish_until(stream, [&] { return queues_[stream].empty(); });
}

Status DeviceStreams::finish(const std::shared_ptr<Marker>& marker) {
  return finish_until(marker->stream, [&] { return marker->reached; });
}

Status DeviceStreams::advance(const std::shared_ptr<Marker>& marker) {
  if (!failure_.ok()) return failure_;
  size_t next = needed(marker->stream);
  if (!lazy_only_) {
    const size_t other = random_.below(static_cast<uint32_t>(queues_.size()));
    if (runnable(other)) next = other;
  }
  run_head(next);
  return failure_;
}

Status DeviceStreams::finish_all() {
  for (size_t i = 0; i < queues_.size(); ++i) LH_TRY(finish(i));
  return failure_;
}

int64_t DeviceStreams::num_queued() const {
  int64_t count = 0;
  for (const auto& queue : queues_) count += static_cast<int64_t>(queue.size());
  return count;
}

}  // namespace longhaul::simt
