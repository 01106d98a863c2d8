// Limits never raise the level, unknown names are refused, and CPU quotas of both cgroup versions
// are found at every level of the hierarchy.
#include "backend/cpu/isa.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "test.h"

using namespace longhaul;
using namespace longhaul::cpu;
namespace fs = std::filesystem;

LH_TEST(limits) {
  const Isa machine = machine_isa();
  EXPECT_TRUE(choose_isa("").value() == machine);
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    const Result<Isa> chosen = choose_isa(isa_name(isa));
    EXPECT_TRUE(chosen.ok());
    EXPECT_TRUE(chosen.value() == std::min(isa, machine));
  }
  for (const char* name : {"AVX2", "avx", "scalar ", "none"}) {
    const Result<Isa> chosen = choose_isa(name);
    EXPECT_TRUE(!chosen.ok());
    EXPECT_TRUE(chosen.status().code() == ErrorCode::kInvalidRequest);
    EXPECT_TRUE(chosen.status().message().find(name) != std::string::npos);
  }
}

LH_TEST(features_explain_the_level) {
  const std::vector<std::string> names = cpu_features();
  const auto has = [&](const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const Isa machine = machine_isa();
  if (machine >= Isa::kAvx2) EXPECT_TRUE(has("avx2") && has("fma") && has("f16c"));
  if (machine >= Isa::kAvx512) EXPECT_TRUE(has("avx512f") && has("avx512_vnni"));
  if (machine >= Isa::kAmx) EXPECT_TRUE(has("amx_tile") && has("amx_int8"));
  if (!has("avx512_vnni")) EXPECT_TRUE(machine < Isa::kAvx512);
  EXPECT_TRUE(!cpu_model_name().empty());
  EXPECT_TRUE(default_threads() >= 1);
}

namespace {
struct TempTree {
  fs::path root;
  TempTree() {
    std::string pattern = (fs::temp_directory_path() / "isa_test_XXXXXX").string();
    root = mkdtemp(pattern.data());
  }
  ~TempTree() { fs::remove_all(root); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
  double quota() { return cgroup_cpu_quota(root.string(), (root / "self").string()); }
};
}  // namespace

LH_TEST(cgroup_v2) {
  TempTree tree;
  tree.write("self", "0::/pod/box\n");
  EXPECT_EQ(tree.quota(), 0.0);
  tree.write("pod/box/cpu.max", "max 100000\n");
  EXPECT_EQ(tree.quota(), 0.0);
  tree.write("pod/cpu.max", "350000 100000\n");
  EXPECT_EQ(tree.quota(), 3.5);
  tree.write("pod/box/cpu.max", "50000 100000\n");
  EXPECT_EQ(tree.quota(), 0.5);
  // Inside a container the path may be unknown; the mount's root still counts.
  TempTree container;
  container.write("self", "0::/../../host/path\n");
  container.write("cpu.max", "200000 100000\n");
  EXPECT_EQ(container.quota(), 2.0);
}

LH_TEST(cgroup_v1) {
  TempTree tree;
  tree.write("self", "3:cpuset:/x\n2:cpu,cpuacct:/pod\n1:memory:/pod\ngarbage\n");
  tree.write("cpu/pod/cpu.cfs_quota_us", "-1\n");
  tree.write("cpu/pod/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(tree.quota(), 0.0);
  tree.write("cpu/pod/cpu.cfs_quota_us", "150000\n");
  EXPECT_EQ(tree.quota(), 1.5);
}

LH_TEST_MAIN
