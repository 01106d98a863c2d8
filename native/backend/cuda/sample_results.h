// SampleResults: what a step's sampling launches produced, on its way to the host: a place on the
// device and page-locked memory for every step in flight, copied on a stream of its own so that the
// next step's kernels do not wait for it, and handed to the rows' outputs when the step is waited for.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/device_arena.h"
#include "backend/cuda/device_runtime.h"
#include "sample.h"
#include "status.h"

namespace longhaul::cuda {

class SampleResults {
 public:
  SampleResults(DeviceRuntime& runtime, Stream compute) : runtime_(runtime), compute_(compute) {}
  ~SampleResults();
  SampleResults(const SampleResults&) = delete;
  SampleResults& operator=(const SampleResults&) = delete;

  Status open(int32_t rows_max, DeviceArena& arena);

  // The step that used this place before has been waited for.
  void begin_step(StepTicket ticket);
  // Where the next launch, of these rows, writes; kInternal when the step has more than planned.
  Status place(std::span<const SampleRow> rows, bool any_top, device::SampleParams* params);

  // Queues the copy of everything; the step is done when it is.
  Status end_step();
  Result<bool> is_done(StepTicket ticket) { return runtime_.is_done(at(ticket).done); }
  // Waits, and writes the rows' outputs.
  Status wait(StepTicket ticket);

 private:
  struct Launch {
    size_t first_row = 0;       // of rows, and of results
    size_t num_rows = 0;
    int64_t first_top = -1;     // rows of tops; -1: none
  };
  struct Step {
    device::SampleResult* device_results = nullptr;
    device::SampleTop* device_tops = nullptr;    // [.., kSampleTopMax]
    device::SampleResult* host_results = nullptr;
    device::SampleTop* host_tops = nullptr;
    std::vector<SampleRow> rows;
    std::vector<Launch> launches;
    int64_t num_results = 0;
    int64_t num_tops = 0;
    Event done;
  };

  Step& at(StepTicket ticket) { return steps_[static_cast<size_t>(ticket) % steps_.size()]; }
  Step& current() { return steps_[current_]; }

  DeviceRuntime& runtime_;
  Stream compute_;
  Stream stream_;
  Event computed_;
  int32_t rows_max_ = 0;
  std::array<Step, kStepsInFlight> steps_;
  size_t current_ = 0;
};

}  // namespace longhaul::cuda
