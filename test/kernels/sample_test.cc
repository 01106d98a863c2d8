// The sampling kernels against sample_row() of the CPU, and against sorted softmaxes in double.
//
// When tokens must agree: the reference in double knows the token's interval of the cumulative
// distribution. If the uniform number is farther than kSlack from its ends, and no border of min_p,
// top_k or top_p is within kSlack of letting another token in or out, device, CPU and reference
// agree. Otherwise (one row in a hundred) the device's token must be one whose interval,
// widened by kSlack, holds the number, with borders taken either way.
#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "device_array.h"
#include "sample_cases.h"
#include "sampler/rng.h"
#include "sampler/sampler.h"

using namespace lh_test;
namespace device = longhaul::device;
using longhaul::SamplingParams;
using longhaul::TokenCounts;
using longhaul::TokenLogprob;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
// Of the total weight. f32 distances of up to 87 are off by 1e-7 of themselves and exp by 2e-7.
constexpr double kSlack = 4e-6;

// One row to sample, and what came of it.
struct Row {
  std::vector<float> logits;
  SamplingParams params;
  TokenCounts counts;
  int32_t position = 0;
  int32_t slot = -1;
  int32_t known_token = -1;
  int32_t num_top = 0;
  // Of the device, of the CPU.
  device::SampleResult found = {};
  std::vector<device::SampleTop> found_top;
  TokenLogprob token;
  std::vector<TokenLogprob> top;
  bool finite = false;

  bool wants_logprob() const {
    return known_token >= 0 || num_top > 0 || params.num_logprobs >= 0;
  }
};

struct Launch {
  int32_t spare_columns = 0;     // between rows of logits
  bool all_stages = false;       // also those that no row needs
  std::vector<int32_t> last_tokens = std::vector<int32_t>(8, -7);
};

void run_on_cpu(Row& row) {
  std::vector<float> logits = row.logits;
  longhaul::SampleRow cpu;
  cpu.position = row.position;
  cpu.sample = row.known_token < 0;
  cpu.known_token = row.known_token;
  cpu.params = &row.params;
  cpu.counts = &row.counts;
  row.top.assign(static_cast<size_t>(row.num_top), {});
  cpu.token = &row.token;
  cpu.top = row.top.data();
  cpu.num_top = row.num_top;
  cpu.finite = &row.finite;
  longhaul::sample_row(logits.data(), static_cast<int32_t>(logits.size()), cpu);
}

// All rows have the vocabulary of the first; `scratch` serves many launches.
void run_on_device(std::vector<Row>& rows, Launch& launch, DeviceArray<uint8_t>& scratch) {
  const auto vocab = static_cast<int64_t>(rows[0].logits.size());
  const int64_t stride = vocab + launch.spare_columns;
  std::vector<float> logits(static_cast<size_t>(stride) * rows.size(), NAN);
  std::vector<device::SampleRowInput> inputs;
  std::vector<device::TokenBias> biases;
  std::vector<int32_t> ids;
  std::vector<device::TokenCount> counts;
  uint32_t stages = launch.all_stages ? device::kSampleAllStages : 0;
  // Rows of logits lie in another order than the rows to sample, with a row of padding before each.
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const size_t place = rows.size() - 1 - i;
    std::copy(row.logits.begin(), row.logits.end(),
              logits.begin() + static_cast<int64_t>(place) * stride);
    device::SampleRowInput padding;
    padding.logits_row = -1;
    inputs.push_back(padding);
    device::SampleRowInput in;
    in.logits_row = static_cast<int32_t>(place);
    in.slot = row.slot;
    in.position = row.position;
    in.known_token = row.known_token;
    in.seed = row.params.seed;
    in.temperature = row.params.temperature;
    in.top_p = row.params.top_p;
    in.min_p = row.params.min_p;
    in.top_k = row.params.top_k;
    in.repetition_penalty = row.params.repetition_penalty;
    in.frequency_penalty = row.params.frequency_penalty;
    in.presence_penalty = row.params.presence_penalty;
    in.num_top = row.num_top;
    in.wants_logprob = row.wants_logprob() ? 1 : 0;
    in.bias_begin = static_cast<int32_t>(biases.size());
    for (const auto& [id, bias] : row.params.logit_bias) biases.push_back({id, bias});
    in.num_biases = static_cast<int32_t>(biases.size()) - in.bias_begin;
    in.ban_begin = static_cast<int32_t>(ids.size());
    if (row.position - row.params.num_prompt_tokens < row.params.min_tokens) {
      ids.insert(ids.end(), row.params.stop_token_ids.begin(), row.params.stop_token_ids.end());
    }
    in.num_bans = static_cast<int32_t>(ids.size()) - in.ban_begin;
    in.prompt_begin = static_cast<int32_t>(ids.size());
    ids.insert(ids.end(), row.counts.prompt.begin(), row.counts.prompt.end());
    in.num_prompt = static_cast<int32_t>(ids.size()) - in.prompt_begin;
    in.output_begin = static_cast<int32_t>(counts.size());
    for (const auto& [id, count] : row.counts.output) counts.push_back({id, count});
    in.num_output = static_cast<int32_t>(counts.size()) - in.output_begin;
    stages |= device::sample_stages(in);
    inputs.push_back(in);
  }

  DeviceArray<float> logits_device(logits);
  DeviceArray<device::SampleRowInput> inputs_device(inputs);
  DeviceArray<device::TokenBias> biases_device(biases);
  DeviceArray<int32_t> ids_device(ids), last_tokens(launch.last_tokens);
  DeviceArray<device::TokenCount> counts_device(counts);
  DeviceArray<device::SampleResult> results(inputs.size());
  DeviceArray<device::SampleTop> top(inputs.size() * device::kSampleTopMax);
  device::SampleParams params;
  params.logits = logits_device.data();
  params.logits_stride = stride;
  params.vocab_size = static_cast<int32_t>(vocab);
  params.rows = inputs_device.data();
  params.num_rows = static_cast<int32_t>(inputs.size());
  params.biases = biases_device.data();
  params.ids = ids_device.data();
  params.counts = counts_device.data();
  params.last_tokens = last_tokens.data();
  params.results = results.data();
  params.top = top.data();
  params.scratch = scratch.data();
  params.stages = stages;
  EXPECT_TRUE(device::sample_scratch_bytes(params.vocab_size, params.num_rows) <=
              static_cast<int64_t>(scratch.size()));
  EXPECT_EQ(device::launch_sample(params, TestDevice::get().stream()), 0);

  const std::vector<device::SampleResult> all_results = results.download();
  const std::vector<device::SampleTop> all_top = top.download();
  const std::vector<float> logits_after = logits_device.download();
  EXPECT_TRUE(std::memcmp(logits_after.data(), logits.data(), logits.size() * sizeof(float)) == 0);
  launch.last_tokens = last_tokens.download();
  for (size_t i = 0; i < inputs.size(); ++i) {
    const device::SampleTop* entries = &all_top[i * device::kSampleTopMax];
    const int32_t num_top = i % 2 == 1 ? rows[i / 2].num_top : 0;
    for (int32_t j = num_top; j < device::kSampleTopMax; ++j) EXPECT_TRUE(is_poison(entries[j]));
    if (i % 2 == 0) {
      EXPECT_TRUE(is_poison(all_results[i]));
      continue;
    }
    rows[i / 2].found = all_results[i];
    rows[i / 2].found_top.assign(entries, entries + num_top);
  }
}

DeviceArray<uint8_t> make_scratch(int32_t vocab, size_t rows) {
  const int64_t bytes = device::sample_scratch_bytes(vocab, static_cast<int32_t>(2 * rows));
  return DeviceArray<uint8_t>(std::vector<uint8_t>(static_cast<size_t>(bytes), 0));
}
void run(std::vector<Row>& rows, Launch launch = {}) {
  DeviceArray<uint8_t> scratch =
      make_scratch(static_cast<int32_t>(rows[0].logits.size()), rows.size());
  run_on_device(rows, launch, scratch);
  for (Row& row : rows) run_on_cpu(row);
}

// ---- the reference

// Edits by their definitions, each rounded to f32.
std::vector<float> edited(const Row& row) {
  std::vector<float> x = row.logits;
  const SamplingParams& p = row.params;
  const auto inside = [&](int32_t id) { return id >= 0 && static_cast<size_t>(id) < x.size(); };
  for (const auto& [id, bias] : p.logit_bias) {
    if (inside(id)) x[static_cast<size_t>(id)] += bias;
  }
  if (row.position - p.num_prompt_tokens < p.min_tokens) {
    for (const int32_t id : p.stop_token_ids) {
      if (inside(id)) x[static_cast<size_t>(id)] = -kInf;
    }
  }
  std::vector<int32_t> repeated = row.counts.prompt;
  for (const auto& [id, count] : row.counts.output) repeated.push_back(id);
  std::sort(repeated.begin(), repeated.end());
  repeated.erase(std::unique(repeated.begin(), repeated.end()), repeated.end());
  for (const int32_t id : repeated) {
    if (!inside(id) || p.repetition_penalty == 1.0f) continue;
    float& logit = x[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
  }
  for (const auto& [id, count] : row.counts.output) {
    if (!inside(id)) continue;
    float& logit = x[static_cast<size_t>(id)];
    logit = logit - static_cast<float>(count) * p.frequency_penalty;
    logit = logit - p.presence_penalty;
  }
  return x;
}

struct Verdict {
  bool clear = true;            // no rounding could change the token
  int32_t token = -1;           // then this one
  std::vector<int32_t> others;  // else one of these
};

// The kept tokens of a row for a border that is let in (lenient) or not, in order of likelihood.
std::vector<int32_t> kept_tokens(const std::vector<double>& distance,
                                 const std::vector<int32_t>& order, const SamplingParams& p,
                                 double slack) {
  const double limit = std::min(p.min_p > 0 ? -std::log(double{p.min_p}) : 87.0, 87.0);
  size_t kept = 0;
  while (kept < order.size() &&
         (kept == 0 || distance[static_cast<size_t>(order[kept])] <= limit + slack * 4)) {
    ++kept;
  }
  if (p.top_k > 0) kept = std::min(kept, static_cast<size_t>(p.top_k));
  double total = 0;
  for (size_t i = 0; i < kept; ++i) total += std::exp(-distance[static_cast<size_t>(order[i])]);
  double sum = 0;
  size_t nucleus = 0;
  while (nucleus < kept && (nucleus == 0 || sum < (double{p.top_p} + slack) * total)) {
    sum += std::exp(-distance[static_cast<size_t>(order[nucleus++])]);
  }
  return {order.begin(), order.begin() + static_cast<int64_t>(p.top_p < 1 ? nucleus : kept)};
}

Verdict judge(const Row& row) {
  const SamplingParams& p = row.params;
  const std::vector<float> x = edited(row);
  const float max = *std::max_element(x.begin(), x.end());
  Verdict verdict;
  if (p.temperature < 1e-5f) {
    verdict.token = static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
    return verdict;
  }
  std::vector<double> distance(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    distance[i] = (double{max} - x[i]) / double{p.temperature};
  }
  std::vector<int32_t> order(x.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return distance[static_cast<size_t>(a)] < distance[static_cast<size_t>(b)];
  });

  std::vector<int32_t> wide = kept_tokens(distance, order, p, kSlack);
  const std::vector<int32_t> narrow = kept_tokens(distance, order, p, -kSlack);
  verdict.clear = wide.size() == narrow.size();
  // The first token that is left out may be as likely, as far as f32 can tell, as the last kept.
  const bool cut = p.top_p < 1 || p.min_p > 0 || p.top_k > 0;
  if (cut && wide.size() < order.size()) {
    const double inner = distance[static_cast<size_t>(wide.back())];
    const double outer = distance[static_cast<size_t>(order[wide.size()])];
    if (outer != inner && outer - inner < 1e-5 && outer < 80) {
      verdict.clear = false;
      wide.push_back(order[wide.size()]);
    }
  }
  std::sort(wide.begin(), wide.end());
  double total = 0;
  for (const int32_t id : wide) total += std::exp(-distance[static_cast<size_t>(id)]);
  const double uniform = longhaul::uniform_at(p.seed, row.position);
  const double slack = verdict.clear ? kSlack : 1.0;  // another set moves every border
  double sum = 0;
  for (const int32_t id : wide) {
    const double begin = sum / total;
    sum += std::exp(-distance[static_cast<size_t>(id)]);
    const double end = sum / total;
    if (uniform < begin - slack || uniform > end + slack) continue;
    verdict.others.push_back(id);
    if (uniform >= begin && uniform < end) verdict.token = id;
  }
  if (verdict.clear && verdict.others.size() > 1) verdict.clear = false;
  return verdict;
}

void expect_logprob(float found, float want) {
  if (std::isinf(want)) {
    EXPECT_EQ(found, want);
  } else {
    EXPECT_NEAR(found, want, 1e-6 * (8 + std::fabs(want)));
  }
}

// What is checked of every row that succeeds. Returns whether its token was beyond rounding.
bool expect_right(const Row& row) {
  const int before = failures();
  EXPECT_EQ(row.found.finite != 0, row.finite);
  bool clear = true;
  if (row.known_token >= 0) {
    EXPECT_EQ(row.found.token_id, row.token.token_id);
  } else if (row.finite) {
    const Verdict verdict = judge(row);
    clear = verdict.clear;
    if (clear) {
      EXPECT_EQ(row.found.token_id, verdict.token);
      EXPECT_EQ(row.found.token_id, row.token.token_id);
    } else {
      EXPECT_TRUE(std::find(verdict.others.begin(), verdict.others.end(), row.found.token_id) !=
                  verdict.others.end());
    }
  } else {
    EXPECT_EQ(row.found.token_id, -1);
  }
  if (clear) {
    EXPECT_EQ(row.found.rank, row.token.rank);
    expect_logprob(row.found.logprob, row.token.logprob);
  }
  for (size_t i = 0; i < row.top.size(); ++i) {
    EXPECT_EQ(row.found_top[i].token_id, row.top[i].token_id);
    EXPECT_EQ(row.found_top[i].rank, row.top[i].rank);
    expect_logprob(row.found_top[i].logprob, row.top[i].logprob);
  }
  if (failures() != before) {
    const SamplingParams& p = row.params;
    std::printf("  vocabulary %zu, temperature %g, top_k %d, top_p %g, min_p %g, seed %llu, "
                "position %d\n",
                row.logits.size(), p.temperature, p.top_k, p.top_p, p.min_p,
                static_cast<unsigned long long>(p.seed), row.position);
  }
  return clear;
}

// ---- making rows

std::vector<float> random_logits(int32_t size, const LogitShape& shape, std::mt19937& random) {
  std::normal_distribution<float> normal(0, shape.deviation);
  std::vector<float> logits(static_cast<size_t>(size));
  for (float& x : logits) x = normal(random);
  for (int i = 0; shape.peak > 0 && i < 5; ++i) {
    logits[random() % logits.size()] += shape.peak;
  }
  return logits;
}

SamplingParams random_params(int32_t vocab, std::mt19937& random) {
  const auto pick = [&](std::initializer_list<float> values) {
    return values.begin()[random() % values.size()];
  };
  SamplingParams p;
  p.temperature = pick({0.2f, 0.7f, 1.0f, 1.0f, 1.5f, 5.0f});
  p.seed = uint64_t{random()} << 32 | random();
  switch (random() % 6) {
    case 0: break;
    case 1: p.top_p = pick({0.01f, 0.5f, 0.9f, 0.95f, 0.999f}); break;
    case 2: p.top_k = static_cast<int32_t>(1 + random() % 60); break;
    case 3: p.top_k = static_cast<int32_t>(1 + random() % static_cast<uint32_t>(2 * vocab)); break;
    case 4:
      p.top_k = static_cast<int32_t>(1 + random() % 200);
      p.top_p = pick({0.3f, 0.8f, 0.95f});
      break;
    case 5:
      p.min_p = pick({0.001f, 0.05f, 0.3f, 1.0f});
      if (random() % 2) p.top_p = 0.9f;
      if (random() % 2) p.top_k = 40;
      break;
  }
  return p;
}

void add_edits(Row& row, std::mt19937& random) {
  const auto vocab = static_cast<int32_t>(row.logits.size());
  const auto id = [&] { return static_cast<int32_t>(random() % static_cast<uint32_t>(vocab)); };
  SamplingParams& p = row.params;
  std::vector<int32_t> used;
  const auto fresh = [&] {
    int32_t next = id();
    if (std::find(used.begin(), used.end(), next) != used.end()) next = vocab + 5;  // ignored
    used.push_back(next);
    return next;
  };
  if (random() % 2) {
    for (int i = 0; i < 6; ++i) p.logit_bias.push_back({fresh(), static_cast<float>(i) - 3.5f});
    if (used[0] < vocab) p.logit_bias[0].second = -100.0f;
  }
  if (random() % 2) {
    p.min_tokens = 4;
    row.position = static_cast<int32_t>(random() % 8);
    for (int i = 0; i < 5; ++i) p.stop_token_ids.push_back(id());
    p.stop_token_ids.push_back(-1);
    p.stop_token_ids.push_back(vocab);
  }
  p.repetition_penalty = random() % 3 == 0 ? 1.0f : 1.3f;
  p.frequency_penalty = random() % 2 ? 0.37f : 0.0f;
  p.presence_penalty = random() % 2 ? -0.6f : 0.0f;
  const auto distinct = [&](int count) {
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(id());
    ids.push_back(0);
    ids.push_back(vocab - 1);
    ids.push_back(vocab + 3);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    return ids;
  };
  row.counts.prompt = distinct(300);
  for (const int32_t token : distinct(40)) {
    row.counts.output.push_back({token, static_cast<int32_t>(1 + random() % 5)});
  }
}

}  // namespace

LH_TEST(tokens_are_those_of_the_cpu) {
  std::mt19937 random(11);
  int rows_checked = 0, unclear = 0;
  for (const int32_t vocab : kVocabularies) {
    DeviceArray<uint8_t> scratch = make_scratch(vocab, 24);
    const int rounds = vocab < 4000 ? 13 : 4;
    for (int round = 0; round < rounds; ++round) {
      std::vector<Row> rows(24);
      for (Row& row : rows) {
        row.logits = random_logits(vocab, kLogitShapes[random() % std::size(kLogitShapes)], random);
        row.params = random_params(vocab, random);
        row.position = static_cast<int32_t>(random() % 1000000);
        if (random() % 4 == 0) add_edits(row, random);
        if (random() % 4 == 0) {
          row.num_top = static_cast<int32_t>(1 + random() % device::kSampleTopMax);
        } else if (random() % 4 == 0) {
          row.params.num_logprobs = 0;
        }
        if (random() % 8 == 0) row.params.temperature = 0;
        if (random() % 12 == 0) {
          row.known_token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
        }
      }
      Launch launch;
      launch.spare_columns = round % 4;
      launch.all_stages = round % 2 == 1;
      run_on_device(rows, launch, scratch);
      for (Row& row : rows) {
        run_on_cpu(row);
        ++rows_checked;
        unclear += expect_right(row) ? 0 : 1;
      }
    }
  }
  EXPECT_TRUE(rows_checked > 2000);
  EXPECT_TRUE(unclear * 40 < rows_checked);
}

LH_TEST(ties_go_to_the_lowest_ids) {
  // Rows of few different values, so that every border falls among equals; on the largest rows more
  // of them than any list holds.
  std::mt19937 random(5);
  for (const int32_t vocab : {7, 300, 5000, 9000}) {
    for (const int kinds : {1, 2, 5}) {
      std::vector<Row> rows(10);
      for (size_t i = 0; i < rows.size(); ++i) {
        Row& row = rows[i];
        row.logits.resize(static_cast<size_t>(vocab));
        for (float& x : row.logits) x = static_cast<float>(random() % static_cast<uint32_t>(kinds));
        row.params.seed = i;
        row.position = static_cast<int32_t>(i) * 17;
        switch (i) {
          case 0: row.params.temperature = 0; break;
          case 1: row.params.top_k = 1; break;
          case 2: row.params.top_k = vocab / 2 + 1; break;
          case 3: row.params.top_p = 0.25f; break;
          case 4: row.params.top_p = 0.9f; break;
          case 5: row.params.min_p = 0.5f; break;
          case 6:
            row.params.top_k = vocab / 3 + 1;
            row.params.top_p = 0.5f;
            break;
          case 7: row.params.top_k = std::max(1, vocab - 1); break;
          case 8: break;
          case 9:
            row.params.top_p = 0.4f;
            add_edits(row, random);
            break;
        }
        if (i % 3 == 0) row.num_top = i == 0 ? 32 : 9;
      }
      run(rows);
      for (const Row& row : rows) expect_right(row);
    }
  }
}

LH_TEST(greedy_takes_minus_zero_and_zero_as_equal) {
  std::vector<Row> rows(2);
  rows[0].logits = {-1, -0.0f, 0.0f, -3};
  rows[1].logits = {-1, 0.0f, -0.0f, -3};
  for (Row& row : rows) {
    row.params.temperature = 0;
    row.num_top = 3;
  }
  run(rows);
  for (const Row& row : rows) {
    EXPECT_EQ(row.found.token_id, 1);
    expect_right(row);
  }
}

LH_TEST(rows_without_a_token_say_so) {
  const int32_t vocab = 5003;
  std::mt19937 random(2);
  std::vector<Row> rows(12);
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = rows[i];
    row.logits = random_logits(vocab, {2.0f, 0}, random);
    row.params.top_p = 0.9f;
    row.slot = i < 8 ? static_cast<int32_t>(i) : -1;
    row.num_top = i % 2 == 0 ? 3 : 0;
  }
  rows[0].logits[4100] = NAN;
  rows[1].logits[0] = INFINITY;
  std::fill(rows[2].logits.begin(), rows[2].logits.end(), -kInf);
  rows[3].params.logit_bias = {{77, INFINITY}};
  rows[4].params.logit_bias = {{5002, NAN}};
  rows[5].known_token = vocab;  // beyond the vocabulary
  rows[6].params.logit_bias = {{1, 4.0f}};  // nothing wrong with this one
  // Everything but what is banned is -infinity already.
  std::fill(rows[7].logits.begin(), rows[7].logits.end(), -kInf);
  rows[7].logits[3] = rows[7].logits[4500] = 1;
  rows[7].params.min_tokens = 1;
  rows[7].params.stop_token_ids = {3, 4500};
  rows[8].logits[5] = NAN;  // banned, but it spoils the raw row
  rows[8].params.min_tokens = 1;
  rows[8].params.stop_token_ids = {5};
  rows[9].logits[9] = NAN;
  rows[9].known_token = 4;
  rows[10].logits[3000] = NAN;
  rows[10].params.temperature = 0;
  rows[11].params.temperature = 0;
  DeviceArray<uint8_t> scratch = make_scratch(vocab, rows.size());
  Launch launch;
  run_on_device(rows, launch, scratch);
  for (Row& row : rows) {
    run_on_cpu(row);
    expect_right(row);
  }
  for (const size_t i : {0, 1, 2, 3, 4, 5, 7, 8, 9, 10}) {
    EXPECT_EQ(rows[i].found.finite, 0);
    EXPECT_EQ(rows[i].found.token_id, -1);
  }
  // A row without a token leaves 0, a row that only looks up leaves nothing.
  const std::vector<int32_t> expected = {0, 0, 0, 0, 0, -7, rows[6].found.token_id, 0};
  EXPECT_TRUE(launch.last_tokens == expected);
  EXPECT_TRUE(rows[6].found.token_id >= 0);
}

LH_TEST(top_lists_hold_the_most_likely_raw_tokens) {
  std::mt19937 random(8);
  for (const int32_t vocab : {1, 3, 31, 32, 33, 4097, 9000}) {
    std::vector<Row> rows;
    for (const int32_t num_top : {1, 2, 5, 20, 31, 32}) {
      for (const float deviation : {0.0f, 0.001f, 3.0f, 40.0f}) {
        Row row;
        row.logits = random_logits(vocab, {std::max(deviation, 1e-9f), 0}, random);
        if (deviation == 0) std::fill(row.logits.begin(), row.logits.end(), 2.5f);
        if (vocab > 3 && num_top == 20) {  // fewer finite ones than asked for
          std::fill(row.logits.begin() + 3, row.logits.end(), -kInf);
        }
        row.num_top = num_top;
        row.known_token = static_cast<int32_t>(random() % static_cast<uint32_t>(vocab));
        rows.push_back(row);
      }
    }
    run(rows);
    for (const Row& row : rows) expect_right(row);
  }
}

LH_TEST(results_do_not_depend_on_the_batch) {
  // The same rows one by one, all together and twice; scratch is used again and again.
  const int32_t vocab = 9000;
  std::mt19937 random(21);
  std::vector<Row> rows(12);
  for (Row& row : rows) {
    row.logits = random_logits(vocab, {3.0f, 0}, random);
    row.params = random_params(vocab, random);
    row.num_top = static_cast<int32_t>(random() % 4);
    row.params.num_logprobs = 0;
    if (random() % 2) add_edits(row, random);
  }
  DeviceArray<uint8_t> scratch = make_scratch(vocab, rows.size());
  Launch launch;
  run_on_device(rows, launch, scratch);
  const auto same = [](const Row& a, const Row& b) {
    EXPECT_TRUE(std::memcmp(&a.found, &b.found, sizeof(a.found)) == 0);
    EXPECT_EQ(a.found_top.size(), b.found_top.size());
    EXPECT_TRUE(std::memcmp(a.found_top.data(), b.found_top.data(),
                            a.found_top.size() * sizeof(device::SampleTop)) == 0);
  };
  std::vector<Row> again = rows;
  run_on_device(again, launch, scratch);
  for (size_t i = 0; i < rows.size(); ++i) {
    same(rows[i], again[i]);
    std::vector<Row> alone = {rows[i]};
    run_on_device(alone, launch, scratch);
    same(rows[i], alone[0]);
  }
}

LH_TEST(last_tokens_feed_the_next_step) {
  const int32_t vocab = 200;
  std::mt19937 random(4);
  std::vector<Row> rows(4);
  for (Row& row : rows) row.logits = random_logits(vocab, {3.0f, 0}, random);
  rows[0].slot = 5;
  rows[0].params.temperature = 0;
  rows[1].slot = 2;                 // drawn
  rows[2].slot = 3;
  rows[2].known_token = 9;          // looked up: the slot keeps its token
  rows[3].slot = -1;                // nobody asked
  DeviceArray<uint8_t> scratch = make_scratch(vocab, rows.size());
  Launch launch;
  run_on_device(rows, launch, scratch);
  const std::vector<int32_t> expected = {-7, -7, rows[1].found.token_id, -7,
                                         -7, rows[0].found.token_id, -7, -7};
  EXPECT_TRUE(launch.last_tokens == expected);
}

LH_TEST(a_large_vocabulary_is_sampled) {
  const int32_t vocab = 128256;
  std::mt19937 random(31);
  std::vector<Row> rows(4);
  for (Row& row : rows) row.logits = random_logits(vocab, {2.5f, 12}, random);
  rows[0].params.temperature = 0;
  rows[1].params.top_p = 0.95f;
  rows[1].num_top = 20;
  rows[2].params.top_k = 50;
  rows[2].params.temperature = 0.8f;
  rows[2].params.top_p = 0.9f;
  rows[3].params.seed = 12345;
  rows[3].position = 77;
  run(rows);
  for (const Row& row : rows) expect_right(row);
}

LH_TEST(shapes_without_a_kernel_are_refused) {
  device::SampleParams params;
  params.num_rows = 1;
  params.vocab_size = 0;
  EXPECT_EQ(device::launch_sample(params, TestDevice::get().stream()), device::kInvalidLaunch);
  params.vocab_size = 1025 * 4096;
  EXPECT_EQ(device::launch_sample(params, TestDevice::get().stream()), device::kInvalidLaunch);
  params.num_rows = 0;
  EXPECT_EQ(device::launch_sample(params, TestDevice::get().stream()), 0);
}

LH_TEST_MAIN
