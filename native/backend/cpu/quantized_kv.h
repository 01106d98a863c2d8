// Writing keys and values into a q8 store (its layout and rounding: kv_store.h).
#pragma once

#include <cstdint>

#include "backend/cpu/kv_store.h"
#include "backend/cpu/small_ops.h"

namespace longhaul::cpu {

struct KvPlace {
  int32_t block_id, layer_in_block, kv_head, token;  // token inside the block
};

// One token of one head. `k` [head_dim] is rotated already, `v` [head_dim] as computed.
void store_quantized(KvStore& store, const KvPlace& place, const float* k, const float* v,
                     const RowOps& ops);

}  // namespace longhaul::cpu
