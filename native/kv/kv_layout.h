// KvGroup and KvLayout: which layers share a block table, and the size of a block.
//
// Layers whose K/V live equally long form a kind (full attention, or one window size). All groups
// draw equal-sized blocks from one pool, so every group covers the same number of layers: the
// smallest kind decides, larger kinds are cut into several groups, the last one padded. Gemma 3
// 270M (15 local, 3 global layers) gives one global and five local groups of 3 layers.
#pragma once

#include <cstdint>
#include <vector>

#include "kv/kv_dtype.h"
#include "model/model_config.h"

namespace longhaul {

struct KvGroup {
  int32_t window = 0;           // tokens kept; 0 = all (full attention)
  std::vector<int32_t> layers;  // model layer indices, at most KvLayout::layers_per_block
};

struct KvLayout {
  KvDType dtype = KvDType::kF16;
  int32_t block_size = 32;      // tokens a block; multiple of 32
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t layers_per_block = 0;
  // Element order inside a block belongs to the backend; sizes do not depend on it.
  int64_t layer_bytes() const { return 2 * head_bytes() * num_kv_heads; }  // K and V
  // One of K, V of one head: its channels, then its scales where the type has any.
  int64_t head_bytes() const { return channel_bytes() + block_size * kv_scale_bytes(dtype); }
  int64_t channel_bytes() const {
    return int64_t{block_size} * head_dim * kv_element_bytes(dtype);
  }
  int64_t block_bytes() const { return layer_bytes() * layers_per_block; }
};

struct KvGroups {
  std::vector<KvGroup> groups;
  int32_t layers_per_block = 0;
  // Where layer i lives: its group and its index inside that group's blocks.
  std::vector<int32_t> group_of_layer;
  std::vector<int32_t> index_of_layer;
};

// Deterministic: full-attention groups first, then windows in ascending order, layers ascending.
KvGroups plan_kv_groups(const ModelConfig& config);

}  // namespace longhaul
