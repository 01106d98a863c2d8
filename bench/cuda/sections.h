// The parts of the kernel bench. Each adds its rows to the report; what cannot be measured (memory,
// time) is a skipped row, what should not happen (a launch that fails) is a Status.
#pragma once

#include "bench_device.h"
#include "bench_report.h"
#include "status.h"

namespace longhaul::bench {

// Copy bandwidth and the rate of dense products: the limits of everything else.
Status machine_section(BenchDevice& device, Report& report);
// Paged attention: decode by total context, prefill by length.
Status attention_section(BenchDevice& device, Report& report);
// Products with resident weights: few rows, batches, what expands weights for many rows, and
// reading single rows.
Status matmul_section(BenchDevice& device, Report& report);
// Norms, activations, qkv_finish, sampling, block copies.
Status row_ops_section(BenchDevice& device, Report& report);
// Whole decode steps of a model through backend and decoder, beside the roofline.
Status step_section(BenchDevice& device, Report& report);

// Measures a row unless time is up. Out of memory is a skipped row; other failures are the
// bench's.
template <typename Body>
Status measure_row(BenchDevice& device, Report& report, Row row, const Body& body) {
  if (device.out_of_time()) {
    report.skip(row.section, row.name, "out of time");
    return {};
  }
  const Status status = body(row);
  if (status.ok()) {
    report.add(row);
  } else if (status.code() == ErrorCode::kOutOfMemory) {
    report.skip(row.section, row.name, status.message());
  } else {
    return error(status.code(), "%s %s: %s", row.section.c_str(), row.name.c_str(),
                 status.message().c_str());
  }
  return {};
}

}  // namespace longhaul::bench
