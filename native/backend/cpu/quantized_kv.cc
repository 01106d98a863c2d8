#include "backend/cpu/quantized_kv.h"

#include <cmath>
#include <limits>

#include "attention/attention_work.h"

namespace longhaul::cpu {

void store_quantized(KvStore& store, const KvPlace& place, const float* k, const float* v,
                     const RowOps& ops) {
  const KvLayout& layout = store.layout();
  const int32_t head_dim = layout.head_dim;
  std::byte* keys = store.keys(place.block_id, place.layer_in_block, place.kv_head);
  std::byte* values = keys + store.values_offset();
  auto* key_scales = reinterpret_cast<float*>(keys + layout.channel_bytes());
  auto* value_scales = reinterpret_cast<float*>(values + layout.channel_bytes());

  int8_t q8[kSliceTokens];  // head_dim is at most that
  float key_scale = ops.quantize(k, head_dim, q8);
  for (int32_t c = 0; c < head_dim; ++c) {
    keys[key_index(KvDType::kQ8, head_dim, place.token, c)] = static_cast<std::byte>(q8[c] + 128);
  }
  float value_scale = ops.quantize(v, head_dim, q8);
  for (int32_t c = 0; c < head_dim; ++c) {
    values[value_index(KvDType::kQ8, layout.block_size, place.token, c)] =
        static_cast<std::byte>(q8[c]);
  }
  if (std::isnan(value_scale)) {
    key_scale = std::numeric_limits<float>::quiet_NaN();
    value_scale = 0;
  }
  key_scales[place.token] = key_scale;
  value_scales[place.token] = value_scale;
}

}  // namespace longhaul::cpu
