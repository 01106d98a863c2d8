// What this machine can run and how many threads it should run it with. Features are read with
// CPUID and XGETBV directly: a compiler's feature list lags behind, and neither it nor CPUID can
// see whether the kernel grants this process the AMX tile state.
#include "backend/cpu/isa.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace longhaul::cpu {
namespace {

struct Features {
  bool sse42 = false, avx = false, avx2 = false, fma = false, f16c = false, bmi1 = false,
       bmi2 = false, lzcnt = false, movbe = false, avx_vnni = false;
  bool avx512f = false, avx512bw = false, avx512vl = false, avx512dq = false, avx512cd = false,
       avx512_vnni = false, avx512_bf16 = false, avx512_fp16 = false;
  bool amx_tile = false, amx_int8 = false, amx_bf16 = false;
};

#if defined(__x86_64__)
uint64_t enabled_state() {  // XCR0; only valid when CPUID reports OSXSAVE
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

Features detect() {
  Features f;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
  const auto bit = [](uint32_t word, int index) { return (word >> index & 1) != 0; };
  f.sse42 = bit(c, 20);
  const bool osxsave = bit(c, 27);
  const uint64_t state = osxsave ? enabled_state() : 0;
  const bool os_avx = (state & 0x6) == 0x6;                 // xmm, ymm
  const bool os_avx512 = os_avx && (state & 0xe0) == 0xe0;  // opmask, zmm 0-15, zmm 16-31
  const bool os_amx = (state & 0x60000) == 0x60000;         // tile configuration, tile data
  f.movbe = bit(c, 22);
  f.avx = os_avx && bit(c, 28);
  f.fma = os_avx && bit(c, 12);
  f.f16c = os_avx && bit(c, 29);
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    f.bmi1 = bit(b, 3);
    f.bmi2 = bit(b, 8);
    f.avx2 = os_avx && bit(b, 5);
    f.avx512f = os_avx512 && bit(b, 16);
    f.avx512dq = os_avx512 && bit(b, 17);
    f.avx512cd = os_avx512 && bit(b, 28);
    f.avx512bw = os_avx512 && bit(b, 30);
    f.avx512vl = os_avx512 && bit(b, 31);
    f.avx512_vnni = os_avx512 && bit(c, 11);
    f.avx512_fp16 = os_avx512 && bit(d, 23);
    f.amx_bf16 = os_amx && bit(d, 22);
    f.amx_tile = os_amx && bit(d, 24);
    f.amx_int8 = os_amx && bit(d, 25);
  }
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) {
    f.avx_vnni = os_avx && bit(a, 4);
    f.avx512_bf16 = os_avx512 && bit(a, 5);
  }
  if (__get_cpuid(0x80000001, &a, &b, &c, &d)) f.lzcnt = bit(c, 5);
  return f;
}

// Asks the kernel once for the tile data state (ARCH_REQ_XCOMP_PERM, feature 18). It must come
// before other threads start; refusal (an old kernel, a small alternate signal stack) is no error.
bool request_amx_permission() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#else
Features detect() { return {}; }
bool request_amx_permission() { return false; }
#endif

const Features& features() {
  static const Features f = detect();
  return f;
}

Isa detect_isa() {
  const Features& f = features();
  // Every extension that the flags of the *_avx2.cc and *_avx512.cc files allow the compiler.
  const bool avx2 =
      f.sse42 && f.avx && f.avx2 && f.fma && f.f16c && f.bmi1 && f.bmi2 && f.lzcnt && f.movbe;
  const bool avx512 =
      avx2 && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq && f.avx512cd && f.avx512_vnni;
  const bool amx = avx512 && f.amx_tile && f.amx_int8 && f.amx_bf16;
  if (amx && request_amx_permission()) return Isa::kAmx;
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;
  return Isa::kScalar;
}

std::string read_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// CPUs this process may run on.
std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
#if defined(__linux__)
  // Machines with more than CPU_SETSIZE processors need a larger mask; grow until it fits.
  for (int capacity = CPU_SETSIZE; capacity <= 1 << 16; capacity *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(capacity));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    CPU_ZERO_S(bytes, set);
    if (sched_getaffinity(0, bytes, set) == 0) {
      for (int cpu = 0; cpu < capacity; ++cpu) {
        if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) cpus.push_back(cpu);
      }
      CPU_FREE(set);
      break;
    }
    CPU_FREE(set);
  }
#endif
  return cpus;
}

double quota_of(const std::string& directory) {
  // cgroup v2: "max 100000" or "150000 100000".
  {
    std::istringstream line(read_line(directory + "/cpu.max"));
    double quota = 0, period = 0;
    if (line >> quota >> period && quota > 0 && period > 0) return quota / period;
  }
  // cgroup v1: quota -1 means none.
  std::istringstream quota_line(read_line(directory + "/cpu.cfs_quota_us"));
  std::istringstream period_line(read_line(directory + "/cpu.cfs_period_us"));
  double quota = 0, period = 0;
  if (quota_line >> quota && period_line >> period && quota > 0 && period > 0) {
    return quota / period;
  }
  return 0;
}

// The tightest quota of `path` and its parents below `mount`.
double tightest_quota(const std::string& mount, std::string path) {
  double tightest = 0;
  for (;;) {
    const double quota = quota_of(mount + path);
    if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
    if (path.empty() || path == "/") return tightest;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "unknown";
}

Isa machine_isa() {
  static const Isa isa = detect_isa();
  return isa;
}

Result<Isa> choose_isa(std::string_view limit) {
  const Isa machine = machine_isa();
  if (limit.empty()) return machine;
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (limit == isa_name(isa)) return std::min(isa, machine);
  }
  return error(ErrorCode::kInvalidRequest,
               "instruction set limit: expected scalar, avx2, avx512 or amx, received \"%.*s\"",
               static_cast<int>(std::min<size_t>(limit.size(), 64)), limit.data());
}

std::vector<std::string> cpu_features() {
  const Features& f = features();
  const std::pair<bool, const char*> all[] = {
      {f.sse42, "sse4_2"},
      {f.avx, "avx"},
      {f.avx2, "avx2"},
      {f.fma, "fma"},
      {f.f16c, "f16c"},
      {f.bmi2, "bmi2"},
      {f.avx_vnni, "avx_vnni"},
      {f.avx512f, "avx512f"},
      {f.avx512bw, "avx512bw"},
      {f.avx512vl, "avx512vl"},
      {f.avx512dq, "avx512dq"},
      {f.avx512_vnni, "avx512_vnni"},
      {f.avx512_bf16, "avx512_bf16"},
      {f.avx512_fp16, "avx512_fp16"},
      {f.amx_tile, "amx_tile"},
      {f.amx_int8, "amx_int8"},
      {f.amx_bf16, "amx_bf16"},
  };
  std::vector<std::string> names;
  for (const auto& [present, name] : all) {
    if (present) names.emplace_back(name);
  }
  return names;
}

std::string cpu_model_name() {
#if defined(__x86_64__)
  uint32_t words[12] = {};
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(0x80000000, &a, &b, &c, &d) && a >= 0x80000004) {
    for (uint32_t i = 0; i < 3; ++i) {
      __get_cpuid(0x80000002 + i, &words[4 * i], &words[4 * i + 1], &words[4 * i + 2],
                  &words[4 * i + 3]);
    }
    char text[sizeof(words) + 1] = {};
    std::memcpy(text, words, sizeof(words));
    std::string name(text);
    const size_t begin = name.find_first_not_of(' ');
    const size_t end = name.find_last_not_of(' ');
    if (begin != std::string::npos) return name.substr(begin, end - begin + 1);
  }
  return "x86-64";
#elif defined(__aarch64__)
  return "arm64";
#else
  return "unknown";
#endif
}

double cgroup_cpu_quota(const std::string& root, const std::string& self_cgroup) {
  std::ifstream file(self_cgroup);
  double tightest = 0;
  const auto take = [&](double quota) {
    if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
  };
  // Lines are "id:controllers:path"; v2 has no controllers. Inside a container the path may name
  // a directory of the host, so the mount's own root counts too (tightest_quota ends there).
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    std::string controllers(",");
    controllers.append(line, first + 1, second - first - 1).append(",");
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") take(tightest_quota(root, path));
    if (controllers.find(",cpu,") != std::string::npos) {
      take(tightest_quota(root + "/cpu", path));
      take(tightest_quota(root + "/cpu,cpuacct", path));
    }
  }
  return tightest;
}

int default_threads() {
  const std::vector<int> cpus = allowed_cpus();
  int count = static_cast<int>(cpus.size());
  if (count == 0) count = static_cast<int>(std::thread::hardware_concurrency());
  // Hyper-threads of one core share its vector units: one worker per (package, core).
  std::set<std::pair<std::string, std::string>> cores;
  bool known = !cpus.empty();
  for (const int cpu : cpus) {
    const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::string core = read_line(topology + "core_id");
    if (core.empty()) known = false;
    cores.emplace(read_line(topology + "physical_package_id"), core);
  }
  if (known) count = std::min(count, static_cast<int>(cores.size()));
  const double quota = cgroup_cpu_quota("/sys/fs/cgroup", "/proc/self/cgroup");
  if (quota > 0) count = std::min(count, static_cast<int>(std::ceil(quota)));
  return std::max(count, 1);
}

}  // namespace longhaul::cpu
