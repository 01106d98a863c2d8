// The registry of instantiations: names, marks, the coverage file. And the check itself:
//
//   export LONGHAUL_SIMT_COVERAGE=coverage.txt      then run all emulated tests, then
//   simt_coverage_test --check coverage.txt         lists instantiations that none has executed
//
// This executable carries every kernel (the emulated objects are linked whole), so that a kernel
// without any test is missed, too.
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <vector>

#include "launch.cuh"
#include "simt/launch_probe.h"

namespace {

using namespace longhaul;
using namespace longhaul::device;

struct ProbeParams {
  int32_t* out;
};
struct ProbeConfig {
  int threads;
  bool fast;
};
template <ProbeConfig kConfig, typename T>
__global__ void __launch_bounds__(kConfig.threads) probe(const __grid_constant__ ProbeParams p) {
  p.out[threadIdx.x] = static_cast<int32_t>(threadIdx.x * sizeof(T));
}
__global__ void plain(const __grid_constant__ ProbeParams p) { p.out[0] = 1; }

const simt::Instantiation* find(const std::string& part) {
  for (const simt::Instantiation* each : simt::instantiations()) {
    if (simt_probe::has(each->name(), part)) return each;
  }
  return nullptr;
}

// Compiled, never called: registered all the same.
[[maybe_unused]] int never(Stream stream) {
  return launch_kernel<probe<ProbeConfig{64, true}, bf16>>({dim3(1), 64, 0}, ProbeParams{}, stream);
}

LH_TEST(instantiations_are_known_before_they_run) {
  std::vector<int32_t> out(64);
  const simt::Instantiation* const run = find("probe<ProbeConfig{32, false}, f16>");
  const simt::Instantiation* const not_run = find("probe<ProbeConfig{64, true}, bf16>");
  EXPECT_TRUE(run != nullptr && not_run != nullptr && find("plain") != nullptr);
  if (!run || !not_run) {
    for (const simt::Instantiation* each : simt::instantiations()) std::puts(each->name().c_str());
    return;
  }
  EXPECT_TRUE(!run->executed() && !not_run->executed());
  const auto launch = [&](dim3 grid) {
    return launch_kernel<probe<ProbeConfig{32, false}, f16>>({grid, 32, 0}, ProbeParams{out.data()},
                                                             Stream{});
  };
  EXPECT_EQ(launch(dim3(0)), 0);
  EXPECT_TRUE(!run->executed());  // an empty grid proves nothing
  EXPECT_EQ(launch(dim3(1)), 0);
  EXPECT_TRUE(run->executed() && !not_run->executed());
  for (int i = 0; i < 32; ++i) EXPECT_EQ(out[i], 2 * i);
  EXPECT_EQ(launch_kernel<plain>({dim3(1), 32, 0}, ProbeParams{out.data()}, Stream{}), 0);
}

LH_TEST(names) {
  using simt::kernel_name;
  EXPECT_EQ(
      kernel_name("std::string f() [with auto Kernel = longhaul::device::k<(longhaul::device::"
                  "C{8, 1})>; std::string = std::basic_string<char>]"),
      "k<(C{8, 1})>");
  EXPECT_EQ(kernel_name("std::string f() [Kernel = &longhaul::device::k<4, float>]"),
            "k<4, float>");
  EXPECT_EQ(kernel_name("something else"), "something else");
}

LH_TEST(coverage_of_several_processes) {
  std::istringstream one("compiled a\ncompiled b<1, 2>\ncompiled c\nexecuted a\n");
  std::istringstream two("compiled a\ncompiled b<1, 2>\ncompiled c\nexecuted c\nexecuted a\n");
  simt::Coverage coverage;
  EXPECT_TRUE(coverage.add(one));
  EXPECT_TRUE(coverage.add(two));
  EXPECT_TRUE(coverage.missing() == std::vector<std::string>{"b<1, 2>"});
  std::istringstream broken("executed b<1, 2>\nexec");
  EXPECT_TRUE(!coverage.add(broken));
  EXPECT_TRUE(coverage.missing().empty());
}

// Exit code 1: something is missing; 2: the file cannot be read.
int check(const char* path) {
  std::ifstream file(path);
  simt::Coverage coverage;
  if (!file || !coverage.add(file)) {
    std::fprintf(stderr, "%s: cannot be read as a coverage file\n", path);
    return 2;
  }
  for (const simt::Instantiation* each : simt::instantiations())
    coverage.compiled.insert(each->name());
  // This file's own probes are no kernels.
  std::erase_if(coverage.compiled, [](const std::string& name) {
    return name.starts_with("{anonymous}::") || name.starts_with("(anonymous namespace)::");
  });
  const std::vector<std::string> missing = coverage.missing();
  for (const std::string& name : missing) std::printf("no case executes %s\n", name.c_str());
  std::printf("%zu of %zu instantiations executed\n", coverage.compiled.size() - missing.size(),
              coverage.compiled.size());
  return missing.empty() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--check") return check(argv[2]);
  return lh_test::run_all(argc, argv);
}
