#include "backend/cuda/sample_results.h"

namespace longhaul::cuda {
namespace {

void deliver(const SampleRow& row, const device::SampleResult& result,
             const device::SampleTop* tops) {
  *row.finite = result.finite != 0;
  const bool good = result.finite != 0 && result.token_id >= 0;
  if (!good) *row.finite = false;
  *row.token = good ? TokenLogprob{result.token_id, result.logprob, result.rank}
                    : TokenLogprob{-1, 0, 0};
  for (int32_t i = 0; i < row.num_top; ++i) {
    row.top[i] = good ? TokenLogprob{tops[i].token_id, tops[i].logprob, tops[i].rank}
                      : TokenLogprob{-1, 0, 0};
  }
}

}  // namespace

SampleResults::~SampleResults() {
  for (Step& step : steps_) {
    runtime_.release(step.host_results);
    runtime_.release(step.host_tops);
  }
}

Status SampleResults::open(int32_t rows_max, DeviceArena& arena) {
  rows_max_ = rows_max;
  LH_ASSIGN_OR_RETURN(stream_, runtime_.create_stream());
  LH_ASSIGN_OR_RETURN(computed_, runtime_.create_event());
  const int64_t num_tops = int64_t{rows_max} * device::kSampleTopMax;
  for (Step& step : steps_) {
    LH_ASSIGN_OR_RETURN(step.device_results, arena.take_array<device::SampleResult>(rows_max));
    LH_ASSIGN_OR_RETURN(step.device_tops, arena.take_array<device::SampleTop>(num_tops));
    LH_ASSIGN_OR_RETURN(void* results, runtime_.allocate_pinned(
                                           int64_t{rows_max} * sizeof(device::SampleResult), "sampled tokens"));
    step.host_results = static_cast<device::SampleResult*>(results);
    LH_ASSIGN_OR_RETURN(void* tops, runtime_.allocate_pinned(
                                        num_tops * int64_t{sizeof(device::SampleTop)}, "log-probabilities"));
    step.host_tops = static_cast<device::SampleTop*>(tops);
    LH_ASSIGN_OR_RETURN(step.done, runtime_.create_event());
  }
  return {};
}

void SampleResults::begin_step(StepTicket ticket) {
  current_ = static_cast<size_t>(ticket) % steps_.size();
  Step& step = current();
  step.rows.clear();
  step.launches.clear();
  step.num_results = 0;
  step.num_tops = 0;
}

Status SampleResults::place(std::span<const SampleRow> rows, bool any_top,
                            device::SampleParams* params) {
  Step& step = current();
  const auto num_rows = static_cast<int64_t>(rows.size());
  if (step.num_results + num_rows > rows_max_) {
    return error(ErrorCode::kInternal, "sample: %lld rows in a step, %d planned",
                 static_cast<long long>(step.num_results + num_rows), rows_max_);
  }
  Launch launch;
  launch.first_row = static_cast<size_t>(step.num_results);
  launch.num_rows = static_cast<size_t>(num_rows);
  params->results = step.device_results + step.num_results;
  step.num_results += num_rows;
  if (any_top) {
    launch.first_top = step.num_tops;
    params->top = step.device_tops + step.num_tops * device::kSampleTopMax;
    step.num_tops += num_rows;
  }
  step.rows.insert(step.rows.end(), rows.begin(), rows.end());
  step.launches.push_back(launch);
  return {};
}

Status SampleResults::end_step() {
  Step& step = current();
  if (step.num_results == 0) return runtime_.record(step.done, compute_);
  // Orders the sampling kernels before the copies that read their results. The place they wrote is
  // written again two steps later, after this step has been waited for.
  LH_TRY(runtime_.record(computed_, compute_));
  LH_TRY(runtime_.wait(stream_, computed_));
  LH_TRY(runtime_.copy_to_host(step.host_results, step.device_results,
                               step.num_results * int64_t{sizeof(device::SampleResult)}, stream_));
  LH_TRY(runtime_.copy_to_host(
      step.host_tops, step.device_tops,
      step.num_tops * device::kSampleTopMax * int64_t{sizeof(device::SampleTop)}, stream_));
  return runtime_.record(step.done, stream_);
}

Status SampleResults::wait(StepTicket ticket) {
  Step& step = at(ticket);
  LH_TRY(runtime_.synchronize(step.done));
  for (const Launch& launch : step.launches) {
    for (size_t i = 0; i < launch.num_rows; ++i) {
      const device::SampleTop* const tops =
          launch.first_top < 0 ? nullptr
                               : step.host_tops + (launch.first_top + static_cast<int64_t>(i)) *
                                                      device::kSampleTopMax;
      deliver(step.rows[launch.first_row + i], step.host_results[launch.first_row + i], tops);
    }
  }
  return {};
}

}  // namespace longhaul::cuda
