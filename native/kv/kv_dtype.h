// KvDType: how keys and values are kept in the cache. Plain declarations: included by files that
// are compiled for one instruction set.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace longhaul {

enum class KvDType : int32_t {
  kF16,
  kBF16,
  kQ8,   // signed 8 bit with one f32 scale per token and head, for K and for V
  kFp8,  // OCP FP8 E4M3 with the same scales; on CUDA devices only
};

// "f16", "bf16", "q8", "fp8": the values of --kv-dtype.
const char* kv_dtype_name(KvDType dtype);
std::optional<KvDType> kv_dtype_from_name(std::string_view name);

// Bytes of one channel of one token.
constexpr int64_t kv_element_bytes(KvDType dtype) {
  return dtype == KvDType::kQ8 || dtype == KvDType::kFp8 ? 1 : 2;
}
// Bytes that K or V of one token and head has beside its channels.
constexpr int64_t kv_scale_bytes(KvDType dtype) { return kv_element_bytes(dtype) == 1 ? 4 : 0; }

}  // namespace longhaul
