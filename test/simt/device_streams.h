// Streams and events of the emulated device. Queued work runs only when somebody waits for it, and
// where streams leave a choice, a seeded draw makes it:
// - nothing runs when it is queued, so host memory reused too early is seen by the copy that was
//   still to read it, and a result read too early is not there;
// - of other streams only what the wait depends on runs (lazy), or whole streams first by a random
//   priority, or operations one by one at random, so a missing wait between two streams shows in
//   whichever direction it hurts.
//
// Contents of host memory are checked beside: a source must not change between the call and the
// copy, and a destination is poisoned by the call.
//
// Not synchronized: the device runtime holds its lock over every call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "simt/random.h"
#include "status.h"

namespace longhaul::simt {

// One recording of an event. Recording again makes a new one; who waits keeps the old one.
struct Marker {
  bool reached = false;
  size_t stream = 0;       // index
};

struct Operation {
  enum class Kind { kWork, kCopyToDevice, kCopyToHost, kMark, kWait };
  Kind kind = Kind::kWork;
  std::function<Status()> run;          // kWork
  std::string name;                     // kWork: the kernel's
  void* to = nullptr;                   // copies
  const void* from = nullptr;
  int64_t bytes = 0;
  std::shared_ptr<Marker> marker;       // kMark, kWait

  // Of a queued copy from the host: contents when it was queued, if they were final then.
  bool has_digest = false;
  uint64_t digest = 0;
};

class DeviceStreams {
 public:
  // Called after each operation that wrote device memory.
  using Check = std::function<Status()>;
  // Seed 0 is always lazy.
  DeviceStreams(uint64_t seed, Check check)
      : random_(seed), lazy_only_(seed == 0), check_(std::move(check)) {}

  void set_seed(uint64_t seed);
  size_t add_stream();
  size_t num_streams() const { return queues_.size(); }

  void queue(size_t stream, Operation operation);
  std::shared_ptr<Marker> record(size_t stream);
  void wait(size_t stream, std::shared_ptr<Marker> marker);

  // Run what has to be run, and maybe more. After the first failure nothing runs any more and each
  // call returns that failure.
  Status finish(size_t stream);
  Status finish(const std::shared_ptr<Marker>& marker);
  Status finish_all();
  // Runs one operation of those that the marker, which is not reached, may wait for.
  Status advance(const std::shared_ptr<Marker>& marker);

  void fail(Status status);
  const Status& failure() const { return failure_; }
  int64_t num_queued() const;

 private:
  enum class Policy { kLazy, kPriority, kRandom };

  Status finish_until(size_t stream, const std::function<bool()>& done);
  bool runnable(size_t stream) const;
  size_t needed(size_t stream) const;   // the stream whose head has to run before this one's
  void run_head(size_t stream);
  Status run(Operation& operation);
  bool is_written_by_queued(const void* memory, int64_t bytes) const;
  bool is_used_by_queued(const void* memory, int64_t bytes) const;

  Random random_;
  bool lazy_only_;
  Check check_;
  std::vector<std::deque<Operation>> queues_;   // by stream
  Status failure_;
};

}  // namespace longhaul::simt
