// Vocabularies and settings for the sampling kernels. A chunk is 4096 logits.
#pragma once

#include <cstdint>

namespace lh_test {

constexpr int32_t kVocabularies[] = {1, 2, 5, 100, 1000, 4095, 4096, 4097, 5003, 9000, 12288};

// A row's logits: normal with this deviation, and a few that stand out by `peak`.
struct LogitShape {
  float deviation;
  float peak;
};
constexpr LogitShape kLogitShapes[] = {{0.05f, 0}, {1.0f, 0}, {2.5f, 8}, {3.0f, 0}, {9.0f, 0}};

}  // namespace lh_test
