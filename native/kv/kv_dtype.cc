#include "kv/kv_dtype.h"

namespace longhaul {

const char* kv_dtype_name(KvDType dtype) {
  switch (dtype) {
    case KvDType::kF16: return "f16";
    case KvDType::kBF16: return "bf16";
    case KvDType::kQ8: return "q8";
    case KvDType::kFp8: return "fp8";
  }
  return "unknown";
}

std::optional<KvDType> kv_dtype_from_name(std::string_view name) {
  for (const KvDType dtype : {KvDType::kF16, KvDType::kBF16, KvDType::kQ8, KvDType::kFp8}) {
    if (name == kv_dtype_name(dtype)) return dtype;
  }
  return std::nullopt;
}

}  // namespace longhaul
