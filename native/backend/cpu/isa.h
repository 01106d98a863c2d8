// Instruction-set levels of the CPU backend, chosen once at run time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace longhaul::cpu {

enum class Isa : int {
  kScalar = 0,  // portable C++, the oracle
  kAvx2 = 1,    // AVX2 + FMA + F16C + BMI2
  kAvx512 = 2,  // AVX-512 F/BW/VL/DQ + VNNI
  kAmx = 3,     // kAvx512 + AMX tile/int8/bf16 with kernel permission
};

const char* isa_name(Isa isa);
// The best level of this machine, capped by `limit` ("" = no cap). kInvalidRequest for an unknown
// name; a limit above the machine's level is simply the machine's level.
Result<Isa> choose_isa(std::string_view limit);
Isa machine_isa();
// "avx2", "avx512_vnni", ... as the doctor command prints them.
std::vector<std::string> cpu_features();
std::string cpu_model_name();
// Physical cores within affinity mask and cgroup quota, at least 1.
int default_threads();

// CPUs that cgroups (v1 or v2) allow, from the tightest quota between this process's group and
// the root; fractional, 0 = no quota. `root` is the cgroup mount, `self_cgroup` the file
// /proc/self/cgroup; parameters so that tests can build their own.
double cgroup_cpu_quota(const std::string& root, const std::string& self_cgroup);

}  // namespace longhaul::cpu
