// The AMX instructions that the kernels use. Written as assembly rather than by intrinsics: GCC's
// _tile_loadd() does not tell the compiler that it reads memory, so that operands written just
// before may not be there yet, and _tile_loadconfig() claims to read 8 of its 64 bytes.
//
// Tile registers are named by number, as template arguments; no compiler allocates or saves them.
// They belong to the thread: whoever uses them calls configure_tiles() first and release_tiles()
// when done (a system that switches threads saves 8 KB more while tiles are in use). Only where
// machine_isa() is Isa::kAmx, which includes the permission of the kernel.
#pragma once

#if defined(__x86_64__)

#include <cstdint>

namespace longhaul::cpu {

constexpr int kTileRows = 16;      // of palette 1
constexpr int kTileRowBytes = 64;  // of palette 1
constexpr int kTileCount = 8;

// Operand of LDTILECFG. Tiles with 0 rows cannot be used.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// About 200 cycles.
__attribute__((always_inline)) inline void configure_tiles(const TileConfig& config) {
  __asm__ volatile("ldtilecfg %0" ::"m"(config));
}

__attribute__((always_inline)) inline void release_tiles() { __asm__ volatile("tilerelease"); }

template <int kTile>
__attribute__((always_inline)) inline void zero_tile() {
  static_assert(kTile >= 0 && kTile < kTileCount);
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
}

// Rows `stride` bytes apart, as many and as long as the tile is configured for.
template <int kTile>
__attribute__((always_inline)) inline void load_tile(const void* rows, int64_t stride) {
  static_assert(kTile >= 0 && kTile < kTileCount);
  __asm__ volatile("tileloadd (%0,%1), %%tmm%c2" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
__attribute__((always_inline)) inline void store_tile(void* rows, int64_t stride) {
  static_assert(kTile >= 0 && kTile < kTileCount);
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1)" ::"r"(rows), "r"(stride), "i"(kTile) : "memory");
}

// sums[m][n] += sum over k, i of left[m][4 k + i] * right[k][4 n + i]; s8 operands, s32 sums that
// wrap, never saturate.
template <int kSums, int kLeft, int kRight>
__attribute__((always_inline)) inline void multiply_tiles_s8() {
  static_assert(kSums >= 0 && kSums < kTileCount);
  static_assert(kLeft >= 0 && kLeft < kTileCount && kRight >= 0 && kRight < kTileCount);
  static_assert(kSums != kLeft && kSums != kRight && kLeft != kRight);  // else it faults
  // AT&T order: the second source comes first.
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
}

// The same of signed by unsigned bytes, and of unsigned by signed ones.
template <int kSums, int kLeft, int kRight>
__attribute__((always_inline)) inline void multiply_tiles_s8_u8() {
  static_assert(kSums >= 0 && kSums < kTileCount);
  static_assert(kLeft >= 0 && kLeft < kTileCount && kRight >= 0 && kRight < kTileCount);
  static_assert(kSums != kLeft && kSums != kRight && kLeft != kRight);
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
}
template <int kSums, int kLeft, int kRight>
__attribute__((always_inline)) inline void multiply_tiles_u8_s8() {
  static_assert(kSums >= 0 && kSums < kTileCount);
  static_assert(kLeft >= 0 && kLeft < kTileCount && kRight >= 0 && kRight < kTileCount);
  static_assert(kSums != kLeft && kSums != kRight && kLeft != kRight);
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
}

// The same over pairs: sums[m][n] += left[m][2 k + i] * right[k][2 n + i]; bf16 operands, f32 sums.
// Even and odd products form two chains of fused operations, denormals count as zero.
template <int kSums, int kLeft, int kRight>
__attribute__((always_inline)) inline void multiply_tiles_bf16() {
  static_assert(kSums >= 0 && kSums < kTileCount);
  static_assert(kLeft >= 0 && kLeft < kTileCount && kRight >= 0 && kRight < kTileCount);
  static_assert(kSums != kLeft && kSums != kRight && kLeft != kRight);
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kLeft), "i"(kRight));
}

}  // namespace longhaul::cpu

#endif  // __x86_64__
