// Sizes and scratch of the sampling kernels (sample.h); shared by the launcher and device code.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sample.h"

namespace longhaul::device {

struct SampleConfig {
  static constexpr int kThreads = 256;
  static constexpr int kWarps = kThreads / 32;
  // Vectors of four logits a thread: a chunk is 4096 logits, 16 KiB. One row of 128K logits is then
  // 32 blocks, enough to read it in about one round trip to memory; 64 rows are 15 blocks a
  // multiprocessor.
  static constexpr int kVectors = 4;
  static constexpr int kElements = 4 * kVectors;
  static constexpr int kChunk = kThreads * kElements;
  // Bins of distance from the largest logit, as the CPU's: exp(-87) is the smallest weight that
  // counts, and 1000 / 11.5 = 87.
  static constexpr int kBins = 1024;
  static constexpr float kBinsPerUnit = 11.5f;
  static constexpr float kDistanceMax = 87.0f;
  // Candidates kept of a row. Real rows have tens at a border; one with more is read again instead.
  static constexpr int kListMax = 2048;
  // As many are ranked by comparing each with each: a thread one.
  static constexpr int kRanked = kThreads;
  // Weights are integers in units of 2^-44 of the largest: sums of 2^18 stay below 2^62, and a
  // weight's f32 is exact from 2^-20 on. What is lost below cannot be seen in 2^44 draws.
  static constexpr float kWeightUnit = 0x1p44f;
  // Chunk sums are searched with the code for bins.
  static constexpr int kChunksMax = kBins;
};

// What a chunk's block leaves for the block that arrives last.
struct SampleChunk {
  uint64_t raw_best;   // of the largest logit: its order_key, and the complement of its id
  uint64_t best;       // the same after edits
  uint64_t weight;     // stage weigh: of candidates; collect: of those before the border
  float raw_sum;       // of exp(logit - the chunk's largest), when wanted
};

// A row between stages.
struct SampleState {
  uint32_t arrived[4];       // blocks of each stage that are done; zero between launches
  uint32_t num_listed;       // found at the border; may exceed kListMax
  uint32_t num_top_listed;
  uint32_t num_before;       // tokens before the chosen one
  int32_t draws;             // 1: a token is still to be drawn
  int32_t tops;              // 1: the top list is still to be made
  int32_t collects;          // 1: the draw needs stage collect
  int32_t token;             // chosen or known; -1 as yet or never
  float raw_max;
  float max;                 // after edits
  int32_t first_bin;         // candidates of [first_bin, last_bin] are listed; those before stay
  int32_t last_bin;
  int32_t top_last_bin;
  int32_t top_k_left;        // of top_k, after bins before first_bin; 0: top_k does not bind
  double log_sum;            // log of the sum of exp(logit), raw
  uint64_t total;            // weight of all candidates
  uint64_t weight_before;    // of bins before first_bin
};

// One row's scratch: state, histograms, lists, chunks.
struct SampleLayout {
  static constexpr int64_t kState = 0;
  static constexpr int64_t kLow = 256;
  static constexpr int64_t kHigh = kLow + 4 * SampleConfig::kBins;
  static constexpr int64_t kCounts = kHigh + 4 * SampleConfig::kBins;
  static constexpr int64_t kTopCounts = kCounts + 4 * SampleConfig::kBins;
  static constexpr int64_t kList = kTopCounts + 4 * SampleConfig::kBins;
  static constexpr int64_t kTopList = kList + 8 * SampleConfig::kListMax;
  static constexpr int64_t kChunks = kTopList + 8 * SampleConfig::kListMax;
};
static_assert(sizeof(SampleState) <= SampleLayout::kLow);

// Parameter of the kernels.
struct SampleLaunch {
  SampleParams params;
  int64_t row_bytes = 0;     // of scratch
  int32_t num_chunks = 0;    // of a row
  bool vectors = false;      // rows of logits are 16-byte aligned
};

// Dynamic shared memory of a block, in bytes from its start.
struct SampleSharedLayout {
  static constexpr int kPartials = 0;                                    // uint64_t [kWarps]
  static constexpr int kAnswer = kPartials + 8 * SampleConfig::kWarps;   // uint64_t [2]
  static constexpr int kGenerated = kAnswer + 16;                        // bits [kChunk]
  static constexpr int kBanned = kGenerated + SampleConfig::kChunk / 8;  // bits [kChunk]
  static constexpr int kStaged = kBanned + SampleConfig::kChunk / 8;     // float [kChunk]
  static constexpr int kScanBytes = kStaged + 4 * SampleConfig::kChunk;  // stages scan and rank
  static constexpr int kLow = kScanBytes;                                // uint32_t [kBins]
  static constexpr int kHigh = kLow + 4 * SampleConfig::kBins;
  static constexpr int kCounts = kHigh + 4 * SampleConfig::kBins;
  static constexpr int kTopCounts = kCounts + 4 * SampleConfig::kBins;
  static constexpr int kItems = kTopCounts;                              // uint64_t [kRanked]
  static constexpr int kItemWeights = kItems + 8 * SampleConfig::kRanked;
  static constexpr int kBytes = kTopCounts + 4 * SampleConfig::kBins;
};
static_assert(SampleSharedLayout::kItemWeights + 8 * SampleConfig::kRanked <=
              SampleSharedLayout::kBytes);

}  // namespace longhaul::device
