// Philox4x32-10: a counter-based generator (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a pure function of (seed, position), so it does not depend on the
// batch, on chunking or on how often a sequence was preempted.
#pragma once

#include <array>
#include <cstdint>

namespace longhaul {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1) with 53 random bits.
double uniform_at(uint64_t seed, int32_t position);

}  // namespace longhaul
