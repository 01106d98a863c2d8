// Cutting a model's layers into KV groups of equal size.
#include "kv/kv_layout.h"

#include <algorithm>
#include <map>

namespace longhaul {

KvGroups plan_kv_groups(const ModelConfig& config) {
  // std::map orders kinds by window, and window 0 (full attention) comes first by itself.
  std::map<int32_t, std::vector<int32_t>> kinds;
  for (int32_t layer = 0; layer < config.num_layers(); ++layer) {
    kinds[config.layers[static_cast<size_t>(layer)].window].push_back(layer);
  }

  KvGroups plan;
  plan.group_of_layer.resize(config.layers.size());
  plan.index_of_layer.resize(config.layers.size());
  if (kinds.empty()) return plan;

  size_t smallest = config.layers.size();
  for (const auto& [window, layers] : kinds) smallest = std::min(smallest, layers.size());
  plan.layers_per_block = static_cast<int32_t>(smallest);

  for (const auto& [window, layers] : kinds) {
    for (size_t begin = 0; begin < layers.size(); begin += smallest) {
      const size_t end = std::min(begin + smallest, layers.size());
      KvGroup group;
      group.window = window;
      for (size_t i = begin; i < end; ++i) {
        const auto layer = static_cast<size_t>(layers[i]);
        plan.group_of_layer[layer] = static_cast<int32_t>(plan.groups.size());
        plan.index_of_layer[layer] = static_cast<int32_t>(i - begin);
        group.layers.push_back(layers[i]);
      }
      plan.groups.push_back(std::move(group));
    }
  }
  return plan;
}

}  // namespace longhaul
