// What this machine could do at best: the denominators of a benchmark's shares.
#pragma once

#include "backend/cpu/isa.h"
#include "backend/cpu/thread_pool.h"

namespace longhaul::cpu {

struct MachineLimits {
  double read_bytes_per_second = 0;
  // Multiplies and adds, counted as two, of the instruction that a product of this level would use
  // if nothing else had to be done: AMX tiles of bf16, 512-bit VPDPBUSD, or AVX2's byte products.
  // 0 for the scalar level, whose limit says nothing. The tiles of matmul_amx.cc hold int8, but 32
  // columns of them, whose rate is that of bf16; attention could use bf16.
  double operations_per_second = 0;
  // The same of tiles full of int8, 64 columns, about twice that; 0 below the AMX level.
  double int8_tile_operations_per_second = 0;
};

struct LimitOptions {
  size_t buffer_bytes = size_t{256} << 20;  // well beyond the last-level cache
  double seconds = 0.15;                    // of each of three rounds; the best one counts
};

// Runs on all workers of the pool for about six times options.seconds, nine times with AMX.
MachineLimits measure_limits(ThreadPool& pool, Isa isa, const LimitOptions& options);

}  // namespace longhaul::cpu
