// The sampler never sorts the vocabulary. Penalties, bias and bans touch few ids, so they are
// sparse edits that are undone afterwards; top_p bins the candidates by distance from the maximum
// and sorts the one bin its border falls into.
#include "sampler/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "sampler/rng.h"

namespace longhaul {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Below this the softmax is an argmax in f32 anyway, and 1 / temperature could overflow.
constexpr float kGreedyTemperature = 1e-5f;
constexpr int kLanes = 16;
// Sums run over 16 f32 lanes inside a chunk and in double over chunks: one order on every machine,
// short enough that f32 lanes (64 terms each) lose nothing that a draw could notice.
constexpr int32_t kChunk = 1024;

struct Candidate {
  float distance = 0;  // (max - logit) / temperature, >= 0
  float weight = 0;    // exp(-distance)
  int32_t id = 0;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.distance != b.distance ? a.distance < b.distance : a.id < b.id;
}

struct Edit {
  int32_t id = 0;
  float original = 0;
};

struct Scratch {
  std::vector<Edit> edits;
  std::vector<float> weights;            // [vocab_size] exp((logit - max) * scale)
  std::vector<double> chunk_sums;
  std::vector<Candidate> candidates;
  std::vector<Candidate> border;         // candidates of the bin top_p's border falls into
  std::vector<std::pair<float, int32_t>> heap;
};

Scratch& scratch() {
  thread_local Scratch instance;
  return instance;
}

// exp(x) for x <= 0 without branches, so that the loop around it becomes vector code and gives the
// same bits on every machine (libm's depends on the CPU). Relative error below 2e-7; 0 below -87.
inline float exp_nonpositive(float x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting rounds to integer
  const float clamped = x > -87.0f ? x : -87.0f;
  const float n = (clamped * kLog2e + kRound) - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  // Minimax polynomial of (exp(r) - 1 - r) / r^2 on [-ln2/2, ln2/2] (Cephes' expf coefficients).
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float fraction = (p * r * r + r) + 1.0f;
  const int32_t exponent = (static_cast<int32_t>(n) + 127) * (1 << 23);
  const float power = fraction * std::bit_cast<float>(exponent);
  return x > -87.0f ? power : 0.0f;
}

struct Extent {
  float max = -kInfinity;
  bool finite = false;  // no NaN, no +infinity, at least one finite logit
};

Extent extent_of(const float* logits, int32_t size) {
  float lane_max[kLanes];
  int32_t lane_nan[kLanes] = {};
  std::fill(lane_max, lane_max + kLanes, -kInfinity);
  int32_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      lane_max[lane] = x > lane_max[lane] ? x : lane_max[lane];
      lane_nan[lane] |= x != x;
    }
  }
  for (; i < size; ++i) {
    const float x = logits[i];
    lane_max[0] = x > lane_max[0] ? x : lane_max[0];
    lane_nan[0] |= x != x;
  }
  Extent extent;
  int32_t any_nan = 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    extent.max = std::max(extent.max, lane_max[lane]);
    any_nan |= lane_nan[lane];
  }
  extent.finite = any_nan == 0 && extent.max > -kInfinity && extent.max < kInfinity;
  return extent;
}

int32_t first_index_of(const float* logits, int32_t size, float value) {
  return static_cast<int32_t>(std::find(logits, logits + size, value) - logits);
}

// weights[i] = exp((logits[i] - max) * scale); returns the sum of logits [begin, end).
double weigh_chunk(const float* logits, int32_t begin, int32_t end, float max, float scale,
                   float* weights) {
  float lanes[kLanes] = {};
  int32_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const float w = exp_nonpositive((logits[i + lane] - max) * scale);
      weights[i + lane] = w;
      lanes[lane] += w;
    }
  }
  for (int lane = 0; i < end; ++i, ++lane) {
    weights[i] = exp_nonpositive((logits[i] - max) * scale);
    lanes[lane] += weights[i];
  }
  double sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

double weigh(const float* logits, int32_t size, float max, float scale, Scratch& s) {
  s.weights.resize(static_cast<size_t>(size));
  s.chunk_sums.clear();
  double total = 0;
  for (int32_t begin = 0; begin < size; begin += kChunk) {
    const int32_t end = std::min(size, begin + kChunk);
    s.chunk_sums.push_back(weigh_chunk(logits, begin, end, max, scale, s.weights.data()));
    total += s.chunk_sums.back();
  }
  return total;
}

// The k largest logits, descending, ties by id; a heap of k whose root is the one to beat.
void fill_top(const float* logits, int32_t size, double log_sum, SampleRow& row, Scratch& s) {
  const auto better = [](const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const size_t count = static_cast<size_t>(std::min(row.num_top, size));
  s.heap.clear();
  for (int32_t i = 0; i < size && count > 0; ++i) {
    if (s.heap.size() == count) {
      if (!(logits[i] > s.heap.front().first)) continue;  // an equal one has a higher id
      std::pop_heap(s.heap.begin(), s.heap.end(), better);
      s.heap.pop_back();
    }
    s.heap.push_back({logits[i], i});
    std::push_heap(s.heap.begin(), s.heap.end(), better);
  }
  std::sort_heap(s.heap.begin(), s.heap.end(), better);
  for (int32_t i = 0; i < row.num_top; ++i) {
    TokenLogprob& entry = row.top[i];
    entry = {-1, -kInfinity, 0};
    if (static_cast<size_t>(i) >= count) continue;
    const auto [logit, id] = s.heap[static_cast<size_t>(i)];
    entry = {id, static_cast<float>(logit - log_sum), i + 1};
  }
}

int32_t rank_of(const float* logits, int32_t size, int32_t id) {
  const float value = logits[id];
  int32_t before = 0;
  for (int32_t i = 0; i < size; ++i) before += logits[i] > value;
  for (int32_t i = 0; i < id; ++i) before += logits[i] == value;
  return before + 1;
}

void edit(float* logits, int32_t id, float value, Scratch& s) {
  s.edits.push_back({id, logits[id]});
  logits[id] = value;
}

void apply_penalties(float* logits, int32_t size, const SamplingParams& params,
                     const TokenCounts& counts, Scratch& s) {
  const auto repeat = [&](float x) {
    return x > 0 ? x / params.repetition_penalty : x * params.repetition_penalty;
  };
  const auto inside = [&](int32_t id) { return id >= 0 && id < size; };
  // Prompt ids that were not generated too; those are handled with the output below.
  if (params.repetition_penalty != 1.0f) {
    size_t next = 0;
    for (const int32_t id : counts.prompt) {
      while (next < counts.output.size() && counts.output[next].first < id) ++next;
      const bool generated = next < counts.output.size() && counts.output[next].first == id;
      if (!generated && inside(id)) edit(logits, id, repeat(logits[id]), s);
    }
  }
  for (const auto& [id, count] : counts.output) {
    if (!inside(id)) continue;
    float x = params.repetition_penalty != 1.0f ? repeat(logits[id]) : logits[id];
    x -= static_cast<float>(count) * params.frequency_penalty;
    x -= params.presence_penalty;
    edit(logits, id, x, s);
  }
}

void apply_edits(float* logits, int32_t size, const SampleRow& row, Scratch& s) {
  const SamplingParams& params = *row.params;
  for (const auto& [id, bias] : params.logit_bias) {
    if (id >= 0 && id < size) edit(logits, id, logits[id] + bias, s);
  }
  if (row.position - params.num_prompt_tokens < params.min_tokens) {
    for (const int32_t id : params.stop_token_ids) {
      if (id >= 0 && id < size) edit(logits, id, -kInfinity, s);
    }
  }
  if (row.counts != nullptr) apply_penalties(logits, size, params, *row.counts, s);
}

// Newest first: an id may have been edited more than once.
void undo_edits(float* logits, Scratch& s) {
  for (auto e = s.edits.rbegin(); e != s.edits.rend(); ++e) logits[e->id] = e->original;
  s.edits.clear();
}

// The whole distribution: chunk sums first, then the elements of one chunk.
int32_t draw_from_all(const float* logits, int32_t size, float max, float scale, double uniform,
                      Scratch& s) {
  double left = uniform * weigh(logits, size, max, scale, s);
  size_t chunk = 0;
  while (chunk + 1 < s.chunk_sums.size() && left >= s.chunk_sums[chunk]) {
    left -= s.chunk_sums[chunk++];
  }
  int32_t last = -1;  // rounding may leave a remainder: the last possible token takes it
  for (size_t i = chunk * kChunk; i < s.weights.size(); ++i) {
    const double w = s.weights[i];
    if (w <= 0) continue;
    last = static_cast<int32_t>(i);
    if (left < w) return last;
    left -= w;
    if (i + 1 >= (chunk + 1) * static_cast<size_t>(kChunk)) break;
  }
  return last >= 0 ? last : first_index_of(logits, size, max);
}

double total_weight(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& c : candidates) sum += c.weight;
  return sum;
}

// Keeps the smallest set of most likely candidates whose weight reaches top_p of the total.
void keep_top_p(std::vector<Candidate>& candidates, float top_p, Scratch& s) {
  constexpr int kBins = 1024;
  constexpr float kBinsPerUnit = 11.5f;  // exp_nonpositive is 0 beyond 87 = 1000 / 11.5
  const auto bin_of = [&](const Candidate& c) {
    return std::min(kBins - 1, static_cast<int>(std::min(c.distance, 100.0f) * kBinsPerUnit));
  };
  double bins[kBins] = {};
  for (const Candidate& c : candidates) bins[bin_of(c)] += c.weight;
  double total = 0;
  for (const double bin : bins) total += bin;
  const double wanted = static_cast<double>(top_p) * total;
  int border = 0;
  double before = 0;
  while (border + 1 < kBins && before + bins[border] < wanted) before += bins[border++];

  s.border.clear();
  for (const Candidate& c : candidates) {
    if (bin_of(c) == border) s.border.push_back(c);
  }
  std::sort(s.border.begin(), s.border.end(), more_likely);
  size_t kept = 0;
  double reached = before;
  while (kept < s.border.size() && (reached < wanted || (border == 0 && kept == 0))) {
    reached += s.border[kept++].weight;
  }
  const bool none = kept == 0;
  const Candidate last = none ? Candidate{} : s.border[kept - 1];
  std::erase_if(candidates, [&](const Candidate& c) {
    const int bin = bin_of(c);
    return bin > border || (bin == border && (none || more_likely(last, c)));
  });
}

// min_p, top_k and top_p, then a draw over what is left in id order.
int32_t draw_from_filtered(const float* logits, int32_t size, float max, const SampleRow& row,
                           double uniform, Scratch& s) {
  const SamplingParams& params = *row.params;
  const float scale = 1.0f / params.temperature;
  const float distance_max = params.min_p > 0 ? -std::log(params.min_p) : 87.0f;
  std::vector<Candidate>& candidates = s.candidates;
  candidates.clear();
  // Candidates in id order. The most likely token always stays: its distance is 0. What weighs
  // nothing is kept out, but for it.
  const float limit = std::max(0.0f, std::min(distance_max, 87.0f));
  for (int32_t i = 0; i < size; ++i) {
    const float distance = (max - logits[i]) * scale;
    if (distance <= limit) candidates.push_back({distance, exp_nonpositive(-distance), i});
  }
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates.size()) {
    const auto end = candidates.begin() + params.top_k;
    std::nth_element(candidates.begin(), end - 1, candidates.end(), more_likely);
    candidates.erase(end, candidates.end());
    std::sort(candidates.begin(), candidates.end(),
              [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  }
  if (params.top_p < 1.0f) keep_top_p(candidates, params.top_p, s);
  double left = uniform * total_weight(candidates);
  for (const Candidate& c : candidates) {
    if (left < c.weight) return c.id;
    left -= c.weight;
  }
  return candidates.back().id;
}

int32_t choose(const float* logits, int32_t size, const SampleRow& row, Scratch& s) {
  const SamplingParams& params = *row.params;
  const Extent extent = extent_of(logits, size);
  if (!extent.finite) return -1;
  if (params.temperature < kGreedyTemperature) return first_index_of(logits, size, extent.max);
  const double uniform = uniform_at(params.seed, row.position);
  const bool filtered = params.min_p > 0 || params.top_p < 1.0f ||
                        (params.top_k > 0 && params.top_k < size);
  if (filtered) return draw_from_filtered(logits, size, extent.max, row, uniform, s);
  return draw_from_all(logits, size, extent.max, 1.0f / params.temperature, uniform, s);
}

void fail_row(SampleRow& row) {
  *row.finite = false;
  *row.token = {-1, 0, 0};
  for (int32_t i = 0; i < row.num_top; ++i) row.top[i] = {-1, 0, 0};
}

}  // namespace

void sample_row(float* logits, int32_t vocab_size, SampleRow& row) {
  Scratch& s = scratch();
  s.edits.clear();
  *row.token = {-1, 0, 0};
  const bool logprobs = !row.sample || row.num_top > 0 || row.params->num_logprobs >= 0;
  const Extent raw = extent_of(logits, vocab_size);
  if (!raw.finite) return fail_row(row);
  *row.finite = true;

  double log_sum = 0;
  if (logprobs) {
    log_sum = raw.max + std::log(weigh(logits, vocab_size, raw.max, 1.0f, s));
    fill_top(logits, vocab_size, log_sum, row, s);
  }
  int32_t id = row.known_token;
  if (row.sample) {
    apply_edits(logits, vocab_size, row, s);
    id = choose(logits, vocab_size, row, s);
    undo_edits(logits, s);
  }
  if (id < 0 || id >= vocab_size) return fail_row(row);
  row.token->token_id = id;
  if (!logprobs) return;
  row.token->logprob = static_cast<float>(logits[id] - log_sum);
  row.token->rank = rank_of(logits, vocab_size, id);
}

}  // namespace longhaul
