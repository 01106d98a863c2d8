// The oracle: every operation of the contract in matmul.h, spelled out. Portable C++; the loops
// over lanes are left to the compiler's vectorizer.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend/cpu/matmul_kernels.h"
#include "backend/cpu/vector_math.h"

namespace longhaul::cpu {
namespace {

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof(value));
  return value;
}

// 1 / rms of a row: squares summed in 16 lanes, lanes added as a binary tree.
float inverse_rms(const float* x, int cols, float eps) {
  float lanes[16] = {};
  for (int k = 0; k < cols; ++k) lanes[k % 16] = fused(x[k], x[k], lanes[k % 16]);
  for (int width = 8; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return 1.0f / std::sqrt(lanes[0] / static_cast<float>(cols) + eps);
}

void quantize_block(const float* x, int block, ActivationChunk& out) {
  // As integers, magnitudes of floats order like the floats, with infinities and NaN on top.
  uint32_t max_bits = 0;
  for (int i = 0; i < kBlockCols; ++i) {
    max_bits = std::max(max_bits, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  }
  const float max = std::bit_cast<float>(max_bits);
  const bool finite = max_bits < 0x7f800000u;
  const bool zero = max < kQuantTiny;
  const float inverse = !finite || zero ? 0.0f : 127.0f / max;
  float d = max / 127.0f;
  if (zero) d = 0.0f;
  if (!finite) d = std::numeric_limits<float>::quiet_NaN();
  int8_t* quants = out.quants + block * kBlockCols;
  int32_t sums[2] = {0, 0};
  for (int i = 0; i < kBlockCols; ++i) {
    const float scaled = finite ? x[i] * inverse : 0.0f;
    const float rounded = (scaled + kRoundMagic) - kRoundMagic;
    quants[i] = static_cast<int8_t>(rounded);
    sums[i / 16] += quants[i];
  }
  out.d[block] = d;
  out.s[block] = d * static_cast<float>(sums[0] + sums[1]);
  out.half_sums[2 * block] = sums[0];
  out.half_sums[2 * block + 1] = sums[1];
}

void prepare(const float* x, int cols, const float* norm, float eps, float* floats,
             ActivationChunk* chunks, int64_t chunk_stride) {
  const float scale = norm != nullptr ? inverse_rms(x, cols, eps) : 1.0f;
  const auto value = [&](int k) { return norm != nullptr ? x[k] * scale * norm[k] : x[k]; };
  if (floats != nullptr) {
    for (int k = 0; k < cols; ++k) floats[k] = value(k);
    if (cols % 2 != 0) floats[cols] = 0.0f;
  }
  if (chunks == nullptr) return;
  for (int k = 0; k < cols; k += kBlockCols) {
    float block[kBlockCols];
    for (int i = 0; i < kBlockCols; ++i) block[i] = value(k + i);
    quantize_block(block, k % kChunkCols / kBlockCols, chunks[k / kChunkCols * chunk_stride]);
  }
}

// One 64-byte slice of unsigned quants.
void take_slice(const PackFormat& format, const uint8_t* low, const uint8_t* high, int slice,
                uint8_t* out) {
  for (int i = 0; i < 64; ++i) {
    if (format.bits == 8) {
      out[i] = low[64 * slice + i];
      continue;
    }
    int q = low[slice / 2 * 64 + i] >> (slice % 2 * 4) & 15;
    if (format.bits == 5) q |= (high[i] >> slice & 1) << 4;
    if (format.bits == 6) q |= (high[slice / 4 * 64 + i] >> (slice % 4 * 2) & 3) << 4;
    out[i] = static_cast<uint8_t>(q);
  }
}

void expand(DType dtype, const std::byte* group, const GroupLayout& layout, int64_t chunk,
            int blocks, int half, ExpandedChunk* out) {
  const PackFormat& format = pack_format(dtype);
  const auto* base = reinterpret_cast<const uint8_t*>(group);
  for (int b = 0; b < blocks; ++b) {
    const int64_t block = chunk * kChunkBlocks + b;
    for (int slice = 0; slice < 8; ++slice) {
      take_slice(format, base + block * format.low_block_bytes,
                 base + layout.high + block * format.high_block_bytes, slice,
                 out->quants[8 * b + slice][half]);
    }
    const int64_t unit = format.super_blocks ? chunk : block;
    const uint8_t* s = base + layout.scales + unit * format.scale_block_bytes;
    for (int lane = 0; lane < kGroupRows; ++lane) {
      const int column = half * kGroupRows + lane;
      const float d = f16_to_f32(load16(s + 2 * lane));
      if (format.mode == ScaleMode::kHalves) {
        for (int h = 2 * b; h < 2 * b + 2; ++h) {
          const auto sub = static_cast<int8_t>(s[32 + 16 * h + lane]);
          out->scales[h][column] = d * static_cast<float>(sub);
        }
        continue;
      }
      const float m = format.mode == ScaleMode::kMin ? f16_to_f32(load16(s + 32 + 2 * lane)) : 0;
      if (format.super_blocks) {
        out->scales[b][column] = d * static_cast<float>(s[64 + 16 * b + lane]);
        out->mins[b][column] = m * -static_cast<float>(s[192 + 16 * b + lane]);
      } else {
        out->scales[b][column] = d;
        out->mins[b][column] = m;
      }
    }
  }
}

// sums[lane] = sum over slices of quants[4 lane + i] * q[4 slice + i], minus the offset's part.
void dot_slices(const ExpandedChunk& weights, int first_slice, int slices, const int8_t* quants,
                int32_t start, int32_t* sums) {
  for (int lane = 0; lane < kStripRows; ++lane) sums[lane] = start;
  for (int slice = first_slice; slice < first_slice + slices; ++slice) {
    const uint8_t* w = weights.quants[slice][0];
    const int8_t* q = quants + 4 * slice;
    for (int lane = 0; lane < kStripRows; ++lane) {
      int32_t sum = 0;
      for (int i = 0; i < 4; ++i) sum += w[4 * lane + i] * q[i];
      sums[lane] += sum;
    }
  }
}

void multiply(const ExpandedChunk& weights, int blocks, ScaleMode mode, int offset,
              const ActivationChunk* rows, int tokens, float* acc) {
  const int parts = mode == ScaleMode::kHalves ? 2 : 1;
  for (int t = 0; t < tokens; ++t) {
    const ActivationChunk& row = rows[t];
    float* out = acc + t * kStripRows;
    for (int b = 0; b < blocks; ++b) {
      const float d = row.d[b], s = row.s[b];
      for (int part = 0; part < parts; ++part) {
        const int32_t row_sum = parts == 2 ? row.half_sums[2 * b + part]
                                           : row.half_sums[2 * b] + row.half_sums[2 * b + 1];
        const int slices = 8 / parts;
        int32_t sums[kStripRows];
        dot_slices(weights, 8 * b + slices * part, slices, row.quants, -offset * row_sum, sums);
        const float* scales = weights.scales[parts * b + part];
        for (int lane = 0; lane < kStripRows; ++lane) {
          out[lane] = fused(static_cast<float>(sums[lane]), scales[lane] * d, out[lane]);
        }
      }
      if (mode != ScaleMode::kMin) continue;
      for (int lane = 0; lane < kStripRows; ++lane) {
        out[lane] = fused(weights.mins[b][lane], s, out[lane]);
      }
    }
  }
}

// Column k of a group's 16 rows.
void take_floats(DType dtype, const uint8_t* group, int64_t k, float* out) {
  for (int lane = 0; lane < kGroupRows; ++lane) {
    if (dtype == DType::kF32) {
      std::memcpy(&out[lane], group + (k * kGroupRows + lane) * 4, 4);
    } else if (dtype == DType::kF16) {
      out[lane] = f16_to_f32(load16(group + (k * kGroupRows + lane) * 2));
    } else {
      out[lane] = bf16_to_f32(load16(group + (k / 2 * 32 + 2 * lane + k % 2) * 2));
    }
  }
}

// Up to kFloatTokens rows at a time, so that a weight is converted once for all of them.
constexpr int kFloatTokens = 8;

void multiply_floats(const Strip& strip, int64_t cols, const float* rows, int64_t row_stride,
                     int tokens, float* acc) {
  const int64_t padded = (cols + 1) / 2 * 2;
  for (int first = 0; first < tokens; first += kFloatTokens) {
    const int count = std::min(kFloatTokens, tokens - first);
    for (int half = 0; half < 2; ++half) {
      const auto* group = reinterpret_cast<const uint8_t*>(strip.groups[half]);
      float chains[kFloatTokens][2][kGroupRows] = {};
      for (int64_t k = 0; k < padded; ++k) {
        float w[kGroupRows];
        take_floats(strip.dtype, group, k, w);
        for (int t = 0; t < count; ++t) {
          const float x = rows[(first + t) * row_stride + k];
          float* chain = chains[t][k % 2];
          for (int lane = 0; lane < kGroupRows; ++lane)
            chain[lane] = fused(w[lane], x, chain[lane]);
        }
      }
      for (int t = 0; t < count; ++t) {
        float* out = acc + (first + t) * kStripRows + half * kGroupRows;
        for (int lane = 0; lane < kGroupRows; ++lane) {
          out[lane] = chains[t][0][lane] + chains[t][1][lane];
        }
      }
    }
  }
}

void finish(const Strip& strip, const float* acc, int tokens, const OutputParams& out) {
  for (int t = 0; t < tokens; ++t) {
    const float* a = acc + t * kStripRows;
    float* y = out.y + t * out.y_stride;
    if (out.kind == OutputKind::kSiluMul || out.kind == OutputKind::kGeluMul) {
      for (int lane = 0; lane < strip.num_rows[0]; ++lane) {
        const float gate =
            out.kind == OutputKind::kSiluMul ? silu_scalar(a[lane]) : gelu_scalar(a[lane]);
        y[strip.first_row[0] + lane] = gate * a[kGroupRows + lane];
      }
      continue;
    }
    for (int half = 0; half < 2; ++half) {
      float* column = y + strip.first_row[half];
      const float* value = a + half * kGroupRows;
      for (int lane = 0; lane < strip.num_rows[half]; ++lane) {
        if (out.kind == OutputKind::kStore) column[lane] = value[lane];
        if (out.kind == OutputKind::kAdd) column[lane] += value[lane];
        if (out.kind == OutputKind::kSoftcap) {
          column[lane] = out.softcap * tanh_scalar(value[lane] / out.softcap);
        }
      }
    }
  }
}

}  // namespace

const MatmulKernels& scalar_matmul_kernels() {
  static constexpr MatmulKernels kKernels = {prepare, expand,          multiply,
                                             nullptr, multiply_floats, finish};
  return kKernels;
}

}  // namespace longhaul::cpu
