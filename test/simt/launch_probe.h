// What the emulator's own tests share: launching a body and looking at the fault it ends with.
#pragma once

#include <functional>
#include <string>

#include "device.cuh"
#include "test.h"

namespace simt_probe {

// Seeds that tests of chance go through; 0 is order of arrival.
constexpr uint64_t kSeeds = 20;

struct Outcome {
  int code = 0;
  std::string fault;
};

inline Outcome run(uint64_t seed, uint32_t threads, uint32_t shared_bytes,
                   const std::function<void()>& body, dim3 grid = dim3(1)) {
  longhaul::simt::Options options;
  options.seed = seed;
  longhaul::simt::set_options(options);
  longhaul::simt::take_fault();
  Outcome outcome;
  outcome.code = longhaul::simt::run_grid(grid, threads, shared_bytes, body, "probe");
  outcome.fault = longhaul::simt::take_fault();
  return outcome;
}

inline void expect_clean(const Outcome& outcome, const char* file, int line) {
  if (outcome.code != 0 || !outcome.fault.empty()) {
    lh_test::fail(file, line, std::to_string(outcome.code) + " " + outcome.fault);
  }
}

inline bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

inline void expect_fault(const Outcome& outcome, int code, std::initializer_list<std::string> parts,
                         const char* file, int line) {
  bool all = outcome.code == code && has(outcome.fault, "kernel probe, block (");
  for (const std::string& part : parts) all &= has(outcome.fault, part);
  if (!all) lh_test::fail(file, line, std::to_string(outcome.code) + " \"" + outcome.fault + "\"");
}

// "file.cc:line" as faults write it.
inline std::string at_line(const char* file, int line) {
  const std::string path = file;
  return path.substr(path.rfind('/') + 1) + ":" + std::to_string(line);
}

}  // namespace simt_probe

#define EXPECT_CLEAN(outcome) simt_probe::expect_clean((outcome), __FILE__, __LINE__)
#define EXPECT_FAULT(outcome, code, ...) \
  simt_probe::expect_fault((outcome), (code), {__VA_ARGS__}, __FILE__, __LINE__)
#define AT(line) simt_probe::at_line(__FILE__, (line))
