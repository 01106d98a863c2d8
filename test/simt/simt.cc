#include "simt/simt.h"

#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "simt/fault.h"
#include "simt/machine.h"
#include "simt/shared.h"

// Defined where the emulator is part of the backend's plug-in, nowhere else.
extern "C" __attribute__((weak)) const void* longhaul_backend_plugin();

namespace longhaul::simt {
namespace {

constexpr uint32_t kThreadsMax = 1024;
constexpr uint32_t kSharedBytesMax = 227 * 1024;  // sm_90, dynamic
constexpr uint32_t kGridMaxYZ = 65535;

std::mutex mutex;  // guards the two below
// A server over the emulator is after speed, a kernel's test after the kernel's mistakes.
Options chosen = longhaul_backend_plugin ? Options{0, false} : Options{};
std::string last_fault;

thread_local int launch_fault = 0;

void call_function(const void* body) { (*static_cast<const std::function<void()>*>(body))(); }

int bad_shape(const std::string& name, const std::string& what) {
  set_fault(kInvalidConfiguration, "kernel " + name + ": " + what);
  return kInvalidConfiguration;
}

}  // namespace

std::string place(std::source_location site) {
  const char* const slash = std::strrchr(site.file_name(), '/');
  return std::string(slash ? slash + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

void set_fault(int code, std::string message) {
  launch_fault = code;
  const std::lock_guard lock(mutex);
  last_fault = std::move(message);
}

int fault_code() { return launch_fault; }
void clear_fault_code() { launch_fault = 0; }

std::string take_fault() {
  const std::lock_guard lock(mutex);
  return std::exchange(last_fault, std::string());
}

Options options() {
  Options result;
  {
    const std::lock_guard lock(mutex);
    result = chosen;
  }
  if (const char* seed = std::getenv("LONGHAUL_SIMT_SEED"))
    result.seed = std::strtoull(seed, nullptr, 10);
  if (const char* checks = std::getenv("LONGHAUL_SIMT_CHECKS")) result.checks = checks[0] != '0';
  return result;
}

void set_options(const Options& wanted) {
  const std::lock_guard lock(mutex);
  chosen = wanted;
}

int run_grid(dim3 grid, uint32_t threads, uint32_t shared_bytes, const std::function<void()>& body,
             const std::string& name) {
  if (current) return bad_shape(name, "launched from inside a kernel");
  clear_fault_code();
  if (threads == 0 || threads > kThreadsMax || threads % kWarpLanes != 0) {
    return bad_shape(name, std::to_string(threads) + " threads a block");
  }
  if (shared_bytes > kSharedBytesMax) {
    return bad_shape(name, std::to_string(shared_bytes) + " bytes of shared memory");
  }
  if (grid.x > 0x7fffffffu || grid.y > kGridMaxYZ || grid.z > kGridMaxYZ) {
    return bad_shape(name, "grid too large");
  }
  const uint64_t num_blocks = uint64_t{grid.x} * grid.y * grid.z;
  if (num_blocks == 0) return 0;

  // On the heap: thread-local data of a shared object that uses initial-exec must stay small.
  static thread_local const auto owner = std::make_unique<Block>();
  Block& block = *owner;
  const Options how = options();
  Random random(how.seed);
  Random* const chance = how.seed != 0 ? &random : nullptr;
  checks_on = how.checks;
  Block::Launch launch;
  launch.kernel = name.c_str();
  launch.grid = grid;
  launch.threads = threads;
  launch.shared_bytes = shared_bytes;
  launch.checks = how.checks;
  launch.call = call_function;
  launch.body = &body;

  // A GPU promises nothing about the order of blocks.
  std::vector<uint32_t> order(num_blocks);
  std::iota(order.begin(), order.end(), 0u);
  for (uint64_t i = num_blocks; chance && i > 1; --i) {
    std::swap(order[i - 1], order[random.below(static_cast<uint32_t>(i))]);
  }
  for (const uint32_t id : order) {
    const uint3 index{id % grid.x, id / grid.x % grid.y, id / grid.x / grid.y};
    if (!block.run(launch, index, chance)) return fault_code();
  }
  return 0;
}

}  // namespace longhaul::simt
