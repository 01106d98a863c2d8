// The sampler against plain definitions: sorted softmaxes in double, counted draws, published
// random numbers.
#include "sampler/sampler.h"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "sampler/rng.h"
#include "test.h"

using namespace longhaul;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Draw {
  TokenLogprob token;
  std::vector<TokenLogprob> top;
  bool finite = false;
};

Draw sample(std::vector<float>& logits, const SamplingParams& params, int32_t position,
            const TokenCounts* counts = nullptr) {
  Draw draw;
  draw.top.resize(static_cast<size_t>(std::max(0, params.num_logprobs)));
  SampleRow row;
  row.position = position;
  row.params = &params;
  row.counts = counts;
  row.token = &draw.token;
  row.top = draw.top.empty() ? nullptr : draw.top.data();
  row.num_top = static_cast<int32_t>(draw.top.size());
  row.finite = &draw.finite;
  const std::vector<float> before = logits;
  sample_row(logits.data(), static_cast<int32_t>(logits.size()), row);
  EXPECT_TRUE(std::memcmp(before.data(), logits.data(), before.size() * sizeof(float)) == 0);
  return draw;
}

std::vector<float> random_logits(int32_t size, uint32_t seed, float deviation = 3.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> logits(static_cast<size_t>(size));
  for (float& x : logits) x = normal(random);
  return logits;
}

// Probabilities after temperature, min_p, top_k and top_p by sorting everything, in double.
std::map<int32_t, double> filtered(const std::vector<float>& logits, const SamplingParams& params) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const double max = logits[static_cast<size_t>(order[0])];
  std::vector<double> p;
  for (const int32_t id : order) {
    p.push_back(std::exp((logits[static_cast<size_t>(id)] - max) / params.temperature));
  }
  size_t kept = p.size();
  if (params.min_p > 0) {
    kept = static_cast<size_t>(std::find_if(p.begin(), p.end(), [&](double x) { return x < params.min_p; }) - p.begin());
  }
  if (params.top_k > 0) kept = std::min(kept, static_cast<size_t>(params.top_k));
  double total = std::accumulate(p.begin(), p.begin() + static_cast<int64_t>(kept), 0.0);
  double sum = 0;
  size_t nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || sum < params.top_p * total)) sum += p[nucleus++];
  std::map<int32_t, double> out;
  for (size_t i = 0; i < nucleus; ++i) out[order[i]] = p[i] / sum;
  return out;
}

// Draws at many positions must stay inside the reference's support and match its frequencies.
void expect_distribution(std::vector<float> logits, SamplingParams params, int draws) {
  const std::map<int32_t, double> expected = filtered(logits, params);
  std::map<int32_t, int> seen;
  for (int i = 0; i < draws; ++i) ++seen[sample(logits, params, i).token.token_id];
  for (const auto& [id, count] : seen) {
    if (!expected.contains(id)) {
      lh_test::fail(__FILE__, __LINE__, "token " + std::to_string(id) + " is outside the support");
    }
  }
  double chi2 = 0;
  int cells = 0;
  for (const auto& [id, p] : expected) {
    const double want = p * draws;
    if (want < 10) continue;
    chi2 += (seen[id] - want) * (seen[id] - want) / want;
    ++cells;
  }
  // Six deviations above the mean: the seeds are fixed, so this either holds or is a bug.
  EXPECT_TRUE(cells > 0);
  EXPECT_TRUE(chi2 < cells + 6 * std::sqrt(2.0 * cells));
}

}  // namespace

LH_TEST(philox_gives_the_published_answers) {
  // Known-answer vectors of Random123 (kat_vectors, philox4x32 with 10 rounds).
  using Counter = std::array<uint32_t, 4>;
  EXPECT_TRUE((philox4x32({0, 0, 0, 0}, {0, 0}) ==
               Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_TRUE((philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) ==
               Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_TRUE((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
               Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

LH_TEST(uniform_depends_on_seed_and_position_and_fills_the_interval) {
  double sum = 0, low = 1, high = 0;
  for (int32_t i = 0; i < 10000; ++i) {
    const double u = uniform_at(1, i);
    EXPECT_TRUE(u >= 0 && u < 1);
    sum += u;
    low = std::min(low, u);
    high = std::max(high, u);
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
  EXPECT_TRUE(low < 0.01 && high > 0.99);
  EXPECT_EQ(uniform_at(5, 9), uniform_at(5, 9));
  EXPECT_TRUE(uniform_at(5, 9) != uniform_at(6, 9));
  EXPECT_TRUE(uniform_at(5, 9) != uniform_at(uint64_t{5} | uint64_t{1} << 32, 9));
}

LH_TEST(greedy_takes_the_largest_and_the_lowest_id_on_ties) {
  SamplingParams params;
  params.temperature = 0;
  for (const int32_t size : {1, 2, 15, 16, 17, 1000, 1024, 1025, 5003}) {
    std::vector<float> logits = random_logits(size, static_cast<uint32_t>(size));
    const int32_t best = static_cast<int32_t>(
        std::max_element(logits.begin(), logits.end()) - logits.begin());
    EXPECT_EQ(sample(logits, params, 0).token.token_id, best);
    logits.back() = logits[static_cast<size_t>(best)];
    EXPECT_EQ(sample(logits, params, 0).token.token_id, best);
    logits[0] = logits[static_cast<size_t>(best)];
    EXPECT_EQ(sample(logits, params, 0).token.token_id, 0);
  }
}

LH_TEST(logprobs_rank_and_top_are_those_of_the_raw_distribution) {
  SamplingParams params;
  params.temperature = 0.5f;
  params.num_logprobs = 5;
  params.logit_bias = {{3, 50.0f}};  // forces token 3, and must not show in its logprob
  std::vector<float> logits = random_logits(3001, 4);
  logits[10] = logits[20] = 30.0f;
  double sum = 0;
  for (const float x : logits) sum += std::exp(double{x});
  const Draw draw = sample(logits, params, 17);
  EXPECT_EQ(draw.token.token_id, 3);
  EXPECT_NEAR(draw.token.logprob, logits[3] - std::log(sum), 1e-5);
  const auto above = std::count_if(logits.begin(), logits.end(), [&](float x) { return x > logits[3]; });
  EXPECT_EQ(draw.token.rank, static_cast<int32_t>(above) + 1);
  EXPECT_EQ(draw.top[0].token_id, 10);
  EXPECT_EQ(draw.top[1].token_id, 20);
  EXPECT_EQ(draw.top[1].rank, 2);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < draw.top.size(); ++i) {
    EXPECT_EQ(logits[static_cast<size_t>(draw.top[i].token_id)], sorted[i]);
    EXPECT_NEAR(draw.top[i].logprob, sorted[i] - std::log(sum), 1e-5);
  }
}

LH_TEST(top_lists_cope_with_small_vocabularies_and_masked_tokens) {
  SamplingParams params;
  params.temperature = 0;
  params.num_logprobs = 4;
  std::vector<float> logits = {-kInf, 2.0f, -kInf};
  const Draw draw = sample(logits, params, 0);
  EXPECT_EQ(draw.token.token_id, 1);
  EXPECT_NEAR(draw.token.logprob, 0, 1e-7);
  EXPECT_EQ(draw.top[0].token_id, 1);
  EXPECT_EQ(draw.top[1].token_id, 0);
  EXPECT_EQ(draw.top[1].logprob, -kInf);
  EXPECT_EQ(draw.top[2].token_id, 2);
  EXPECT_EQ(draw.top[3].token_id, -1);
}

LH_TEST(known_tokens_get_logprobs_without_a_draw) {
  std::vector<float> logits = {1.0f, 3.0f, 2.0f, 3.0f};
  SamplingParams params;
  TokenLogprob token, top[2];
  bool finite = false;
  SampleRow row;
  row.sample = false;
  row.known_token = 3;
  row.params = &params;
  row.token = &token;
  row.top = top;
  row.num_top = 2;
  row.finite = &finite;
  sample_row(logits.data(), 4, row);
  const double sum = std::exp(1.0) + 2 * std::exp(3.0) + std::exp(2.0);
  EXPECT_TRUE(finite);
  EXPECT_EQ(token.token_id, 3);
  EXPECT_EQ(token.rank, 2);
  EXPECT_NEAR(token.logprob, 3 - std::log(sum), 1e-6);
  EXPECT_EQ(top[0].token_id, 1);
  EXPECT_EQ(top[1].token_id, 3);
}

LH_TEST(penalties_follow_their_definitions) {
  SamplingParams params;
  params.temperature = 0;
  params.repetition_penalty = 2.0f;
  TokenCounts counts;
  counts.prompt = {0, 1};
  counts.output = {{1, 3}, {2, 1}};
  std::vector<float> logits = {4.0f, 6.1f, 2.0f, 3.0f};
  // Halved: 2, 3.05, 1; token 3 (3.0) was not seen. A prompt token counts once although generated.
  EXPECT_EQ(sample(logits, params, 9, &counts).token.token_id, 1);
  logits[1] = 5.9f;
  EXPECT_EQ(sample(logits, params, 9, &counts).token.token_id, 3);
  // Negative logits are multiplied.
  logits = {-1.0f, -1.1f, -1.2f, -1.9f};
  EXPECT_EQ(sample(logits, params, 9, &counts).token.token_id, 3);
  params.repetition_penalty = 1;
  params.frequency_penalty = 1.0f;
  logits = {0.0f, 2.9f, 0.8f, -0.05f};  // 2.9 - 3, 0.8 - 1; prompt tokens are not penalized
  EXPECT_EQ(sample(logits, params, 9, &counts).token.token_id, 0);
  params.frequency_penalty = 0;
  params.presence_penalty = 2.0f;  // once, whatever the count
  EXPECT_EQ(sample(logits, params, 9, &counts).token.token_id, 1);
  EXPECT_EQ(sample(logits, params, 9, nullptr).token.token_id, 1);
}

LH_TEST(min_tokens_bans_stop_tokens_until_enough_were_generated) {
  SamplingParams params;
  params.temperature = 0;
  params.num_prompt_tokens = 10;
  params.min_tokens = 2;
  params.stop_token_ids = {1};
  std::vector<float> logits = {1.0f, 5.0f, 2.0f};
  EXPECT_EQ(sample(logits, params, 10).token.token_id, 2);  // first output token
  EXPECT_EQ(sample(logits, params, 11).token.token_id, 2);
  EXPECT_EQ(sample(logits, params, 12).token.token_id, 1);
}

LH_TEST(rows_without_a_possible_token_are_not_finite) {
  SamplingParams params;
  params.num_logprobs = 2;
  for (const float temperature : {0.0f, 1.0f}) {
    params.temperature = temperature;
    std::vector<float> logits(40, 1.0f);
    logits[37] = std::nanf("");
    EXPECT_TRUE(!sample(logits, params, 0).finite);
    logits.assign(40, -kInf);
    EXPECT_TRUE(!sample(logits, params, 0).finite);
    logits.assign(40, 0.0f);
    logits[3] = kInf;
    EXPECT_TRUE(!sample(logits, params, 0).finite);
    logits.assign(3, 0.0f);
    params.min_tokens = 1;
    params.stop_token_ids = {0, 1, 2};  // everything is banned
    const Draw draw = sample(logits, params, 0);
    EXPECT_TRUE(!draw.finite);
    EXPECT_EQ(draw.token.token_id, -1);
    params.min_tokens = 0;
  }
}

LH_TEST(draws_follow_the_softmax) {
  SamplingParams params;
  params.temperature = 0.8f;
  params.seed = 1;
  expect_distribution(random_logits(50, 1, 1.0f), params, 20000);
  expect_distribution(random_logits(3000, 2, 4.0f), params, 5000);  // several chunks
}

LH_TEST(draws_follow_the_filters) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    const std::vector<float> logits = random_logits(600, seed + 10, 2.0f);
    for (const int32_t top_k : {0, 1, 7, 1000}) {
      for (const float top_p : {1.0f, 0.9f, 0.3f, 1e-6f}) {
        for (const float min_p : {0.0f, 0.05f, 1.0f}) {
          SamplingParams params;
          params.temperature = seed % 2 == 0 ? 1.0f : 1.7f;
          params.seed = seed;
          params.top_k = top_k;
          params.top_p = top_p;
          params.min_p = min_p;
          expect_distribution(logits, params, 1000);
        }
      }
    }
  }
}

LH_TEST(filters_keep_the_lowest_ids_on_ties) {
  std::vector<float> logits(64, 1.0f);
  SamplingParams params;
  params.top_k = 3;
  for (int32_t i = 0; i < 200; ++i) EXPECT_TRUE(sample(logits, params, i).token.token_id < 3);
  params.top_k = 0;
  params.top_p = 0.25f;
  for (int32_t i = 0; i < 200; ++i) EXPECT_TRUE(sample(logits, params, i).token.token_id < 16);
}

LH_TEST(the_same_seed_and_position_give_the_same_token) {
  std::vector<float> logits = random_logits(5000, 3, 1.0f);
  SamplingParams params;
  params.seed = 99;
  std::vector<int32_t> first, again, other;
  for (int32_t i = 0; i < 50; ++i) first.push_back(sample(logits, params, i).token.token_id);
  for (int32_t i = 49; i >= 0; --i) again.insert(again.begin(), sample(logits, params, i).token.token_id);
  params.seed = 100;
  for (int32_t i = 0; i < 50; ++i) other.push_back(sample(logits, params, i).token.token_id);
  EXPECT_TRUE(first == again);
  EXPECT_TRUE(first != other);
}

LH_TEST(extreme_values_stay_in_order) {
  SamplingParams params;
  params.seed = 3;
  std::vector<float> logits = {-3e38f, 3e38f, 0.0f};
  for (const float temperature : {1e-6f, 1e-4f, 1.0f, 1e30f}) {
    params.temperature = temperature;
    for (const float top_p : {1.0f, 0.5f}) {
      params.top_p = top_p;
      const Draw draw = sample(logits, params, 0);
      EXPECT_TRUE(draw.finite);
      EXPECT_TRUE(draw.token.token_id >= 0 && draw.token.token_id < 3);
      if (temperature <= 1.0f) EXPECT_EQ(draw.token.token_id, 1);
    }
  }
}

LH_TEST_MAIN
