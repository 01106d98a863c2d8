// plan_kv_groups and KvLayout: exact groups for the shapes of real families.
#include "kv/kv_layout.h"

#include "test.h"

namespace longhaul {
namespace {

ModelConfig config_of(const std::vector<int32_t>& windows) {
  ModelConfig config;
  for (const int32_t window : windows) config.layers.push_back({window, 0});
  return config;
}

// `period - 1` local layers, then a global one, over and over.
std::vector<int32_t> every(int32_t period, int32_t num_layers, int32_t window) {
  std::vector<int32_t> windows;
  for (int32_t i = 0; i < num_layers; ++i) windows.push_back((i + 1) % period == 0 ? 0 : window);
  return windows;
}

// Every layer is in exactly the place the two maps name, and nowhere else.
void expect_consistent(const KvGroups& plan, const ModelConfig& config) {
  size_t placed = 0;
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    const KvGroup& group = plan.groups[g];
    EXPECT_TRUE(!group.layers.empty());
    EXPECT_TRUE(group.layers.size() <= static_cast<size_t>(plan.layers_per_block));
    for (size_t i = 0; i < group.layers.size(); ++i) {
      const auto layer = static_cast<size_t>(group.layers[i]);
      EXPECT_EQ(plan.group_of_layer[layer], static_cast<int32_t>(g));
      EXPECT_EQ(plan.index_of_layer[layer], static_cast<int32_t>(i));
      EXPECT_EQ(config.layers[layer].window, group.window);
      ++placed;
    }
  }
  EXPECT_EQ(placed, config.layers.size());
}

using Layers = std::vector<int32_t>;

}  // namespace

LH_TEST(full_attention_is_one_group) {
  const ModelConfig config = config_of(std::vector<int32_t>(30, 0));
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(plan.layers_per_block, 30);
  EXPECT_EQ(plan.groups[0].window, 0);
  EXPECT_EQ(plan.index_of_layer[29], 29);
  expect_consistent(plan, config);
}

LH_TEST(one_window_everywhere_is_one_group) {
  const ModelConfig config = config_of(std::vector<int32_t>(32, 4096));
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.groups.size(), 1u);
  EXPECT_EQ(plan.layers_per_block, 32);
  EXPECT_EQ(plan.groups[0].window, 4096);
  expect_consistent(plan, config);
}

LH_TEST(gemma3_270m_is_one_global_and_five_local_groups) {
  const ModelConfig config = config_of(every(6, 18, 512));
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.layers_per_block, 3);
  EXPECT_EQ(plan.groups.size(), 6u);
  EXPECT_TRUE((plan.groups[0].layers == Layers{5, 11, 17}));
  EXPECT_EQ(plan.groups[0].window, 0);
  EXPECT_TRUE((plan.groups[1].layers == Layers{0, 1, 2}));
  EXPECT_TRUE((plan.groups[2].layers == Layers{3, 4, 6}));
  EXPECT_TRUE((plan.groups[3].layers == Layers{7, 8, 9}));
  EXPECT_TRUE((plan.groups[4].layers == Layers{10, 12, 13}));
  EXPECT_TRUE((plan.groups[5].layers == Layers{14, 15, 16}));
  for (size_t g = 1; g < 6; ++g) EXPECT_EQ(plan.groups[g].window, 512);
  expect_consistent(plan, config);
}

LH_TEST(last_group_of_a_larger_kind_is_padded) {
  const ModelConfig config = config_of(every(6, 26, 1024));  // Gemma 3 1B: 22 local, 4 global
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.layers_per_block, 4);
  EXPECT_EQ(plan.groups.size(), 7u);
  EXPECT_TRUE((plan.groups[0].layers == Layers{5, 11, 17, 23}));
  EXPECT_TRUE((plan.groups[1].layers == Layers{0, 1, 2, 3}));
  EXPECT_TRUE((plan.groups[6].layers == Layers{24, 25}));
  expect_consistent(plan, config);
}

LH_TEST(kinds_come_full_first_then_by_window) {
  const ModelConfig config = config_of({4096, 128, 0, 128, 4096, 0});
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.layers_per_block, 2);
  EXPECT_EQ(plan.groups.size(), 3u);
  EXPECT_TRUE((plan.groups[0].layers == Layers{2, 5}));
  EXPECT_TRUE((plan.groups[1].layers == Layers{1, 3}));
  EXPECT_EQ(plan.groups[1].window, 128);
  EXPECT_TRUE((plan.groups[2].layers == Layers{0, 4}));
  EXPECT_EQ(plan.groups[2].window, 4096);
  expect_consistent(plan, config);
}

LH_TEST(smallest_kind_may_be_windowed) {
  const ModelConfig config = config_of({0, 0, 256, 0, 0, 0});
  const KvGroups plan = plan_kv_groups(config);
  EXPECT_EQ(plan.layers_per_block, 1);
  EXPECT_EQ(plan.groups.size(), 6u);
  EXPECT_EQ(plan.groups[5].window, 256);
  EXPECT_EQ(plan.group_of_layer[2], 5);
  expect_consistent(plan, config);
}

LH_TEST(no_layers_no_groups) {
  const KvGroups plan = plan_kv_groups(ModelConfig{});
  EXPECT_EQ(plan.groups.size(), 0u);
  EXPECT_EQ(plan.layers_per_block, 0);
}

LH_TEST(block_bytes_count_keys_and_values_of_all_layers) {
  KvLayout layout;
  layout.block_size = 32;
  layout.num_kv_heads = 3;
  layout.head_dim = 64;
  layout.layers_per_block = 30;
  EXPECT_EQ(layout.head_bytes(), 32 * 64 * 2);
  EXPECT_EQ(layout.layer_bytes(), 2 * 3 * 32 * 64 * 2);
  EXPECT_EQ(layout.block_bytes(), 30 * 2 * 3 * 32 * 64 * 2);
}

}  // namespace longhaul

LH_TEST_MAIN
