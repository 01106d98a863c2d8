// Global memory as the primitives see it, once something is registered: inside one live
// allocation, or the launch ends with a fault that names it. (A process of its own: the first
// registration turns the checks on for good.)
#include <vector>

#include "simt/launch_probe.h"
#include "simt/memory.h"

namespace {

using namespace longhaul::device;
using namespace simt_probe;
using longhaul::simt::kIllegalAddress;

struct Registered {
  alignas(16) float values[64] = {};
  explicit Registered(const char* what) {
    longhaul::simt::register_allocation(values, sizeof(values), what);
  }
  ~Registered() { longhaul::simt::unregister_allocation(values); }
};

// Runs `touch` in one warp, whose lane 5 gives the address.
Outcome touch(const std::function<void(float*)>& access, float* address) {
  return run(3, 32, 256, [&] {
    if (threadIdx.x == 5) access(address);
  });
}

void load(float* p) { load_stream(p); }
void load_wide(float* p) { load_cached(reinterpret_cast<const float4*>(p)); }
void store(float* p) { store_stream(p, 1.0f); }
void add(float* p) { global_atomic_add(p, 1.0f); }
void copy(float* p) {
  copy_async<16>(dynamic_shared<std::byte>(), p);
  copy_async_commit();
  copy_async_wait<0>();
}
void bulk(float* p) {
  Shared<uint64_t> bar = shared_cast<uint64_t>(dynamic_shared<std::byte>() + 64);
  mbarrier_init(bar, 1);
  fence_mbarrier_init();
  mbarrier_arrive_expect(bar, 32);
  bulk_copy_async(dynamic_shared<std::byte>(), p, 32, bar);
  mbarrier_wait(bar, 0);
}

LH_TEST(accesses_end_at_the_allocation) {
  Registered memory("kv pool"), other("weights");
  const struct {
    void (*access)(float*);
    int floats;
  } cases[] = {{load, 1}, {load_wide, 4}, {store, 1}, {add, 1}, {copy, 4}, {bulk, 8}};
  for (const auto& c : cases) {
    EXPECT_CLEAN(touch(c.access, memory.values));
    EXPECT_CLEAN(touch(c.access, memory.values + 64 - c.floats));
    EXPECT_CLEAN(touch(c.access, other.values));
    EXPECT_FAULT(touch(c.access, memory.values + 64), kIllegalAddress, "thread 5", "out of bounds");
  }
  // Bytes on both sides of the end.
  EXPECT_FAULT(touch(bulk, memory.values + 60), kIllegalAddress,
               "at byte 240 of kv pool (256 bytes)");
  EXPECT_FAULT(touch(load, memory.values + 64), kIllegalAddress, "at byte 256 of ");
}

LH_TEST(what_a_copy_does_not_read_may_lie_anywhere) {
  Registered memory("x");
  EXPECT_CLEAN(run(1, 32, 512, [] {
    copy_async<16>(dynamic_shared<std::byte>() + 16 * threadIdx.x, nullptr, false);
    copy_async_commit();
    copy_async_wait<0>();
    const uint4 zeros = dynamic_shared<uint4>()[threadIdx.x];
    EXPECT_EQ(zeros.x | zeros.y | zeros.z | zeros.w, 0u);
  }));
}

LH_TEST(released_memory_is_out_of_bounds) {
  std::vector<float> plain(16);
  EXPECT_FAULT(touch(load, plain.data()), kIllegalAddress, "out of bounds");
  Registered kept("kept");
  float* stale;
  {
    Registered memory("gone");
    stale = memory.values;
    EXPECT_CLEAN(touch(load, stale));
  }
  EXPECT_FAULT(touch(load, stale), kIllegalAddress, "out of bounds");
  EXPECT_CLEAN(touch(load, kept.values));
}

}  // namespace

LH_TEST_MAIN
