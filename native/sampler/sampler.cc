// The sampler never sorts the vocabulary. Penalties, bias and bans touch few ids, so they are
// sparse edits that are undone afterwards; top_p bins the candidates by distance from the maximum
// and sorts the one bin its border falls into.
#include "sampler/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
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

// One register of any machine with vectors; wider types would be taken apart element by element.
constexpr int kRegisterLanes = 4;
constexpr int kRegisters = kLanes / kRegisterLanes;
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));

Floats load(const float* from) {
  Floats out;
  std::memcpy(&out, from, sizeof(out));
  return out;
}

// exp(x) for x <= 0, with the same bits on every machine (libm's depend on the CPU). Relative error
// below 2e-7; 0 below -87.
Floats exp_nonpositive(Floats x) {
  constexpr float kLog2e = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting rounds to integer
  const Ints inside = x > -87.0f;
  const Floats clamped = inside ? x : Floats{} - 87.0f;
  const Floats n = (clamped * kLog2e + kRound) - kRound;
  const Floats r = (clamped - n * kLn2High) - n * kLn2Low;
  // Minimax polynomial of (exp(r) - 1 - r) / r^2 on [-ln2/2, ln2/2] (Cephes' expf coefficients).
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Floats fraction = (p * r * r + r) + 1.0f;
  const Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return inside ? fraction * std::bit_cast<Floats>(exponent) : Floats{};
}

float exp_nonpositive(float x) { return exp_nonpositive(Floats{x})[0]; }

struct Extent {
  float max = -kInfinity;
  bool finite = false;  // no NaN, no +infinity, at least one finite logit
};

Extent extent_of(const float* logits, int32_t size) {
  Floats max[kRegisters];
  Ints nan[kRegisters] = {};
  std::fill(max, max + kRegisters, Floats{} - kInfinity);
  int32_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    for (int r = 0; r < kRegisters; ++r) {
      const Floats x = load(logits + i + r * kRegisterLanes);
      max[r] = x > max[r] ? x : max[r];
      nan[r] |= x != x;
    }
  }
  Extent extent;
  bool any_nan = false;
  for (; i < size; ++i) {
    extent.max = std::max(extent.max, logits[i]);
    any_nan |= logits[i] != logits[i];
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    const int r = lane / kRegisterLanes, element = lane % kRegisterLanes;
    extent.max = std::max(extent.max, max[r][element]);
    any_nan |= nan[r][element] != 0;
  }
  extent.finite = !any_nan && extent.max > -kInfinity && extent.max < kInfinity;
  return extent;
}

int32_t first_index_of(const float* logits, int32_t size, float value) {
  return static_cast<int32_t>(std::find(logits, logits + size, value) - logits);
}

// weights[i] = exp((logits[i] - max) * scale); returns the sum over [begin, end).
double weigh_chunk(const float* logits, int32_t begin, int32_t end, float max, float scale,
                   float* weights) {
  Floats lanes[kRegisters] = {};
  int32_t i = begin;
  for (; i + kLanes <= end; i += kLanes) {
    for (int r = 0; r < kRegisters; ++r) {
      const int32_t at = i + r * kRegisterLanes;
      const Floats w = exp_nonpositive((load(logits + at) - max) * scale);
      std::memcpy(weights + at, &w, sizeof(w));
      lanes[r] += w;
    }
  }
  double sum = 0;
  for (; i < end; ++i) {
    weights[i] = exp_nonpositive((logits[i] - max) * scale);
    sum += weights[i];
  }
  for (const Floats& part : lanes) {
    for (int element = 0; element < kRegisterLanes; ++element) sum += part[element];
  }
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

// The `count` largest logits of at least `floor`, descending, ties by id, into s.heap: a heap whose
// root is the one to beat.
void select_largest(const float* logits, int32_t size, size_t count, float floor, Scratch& s) {
  const auto better = [](const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  s.heap.clear();
  for (int32_t i = 0; i < size && count > 0; ++i) {
    if (s.heap.size() == count) {
      if (!(logits[i] > s.heap.front().first)) continue;  // an equal one has a higher id
      std::pop_heap(s.heap.begin(), s.heap.end(), better);
      s.heap.pop_back();
    } else if (logits[i] < floor) {
      continue;
    }
    s.heap.push_back({logits[i], i});
    std::push_heap(s.heap.begin(), s.heap.end(), better);
  }
  std::sort_heap(s.heap.begin(), s.heap.end(), better);
}

void fill_top(const float* logits, int32_t size, double log_sum, SampleRow& row, Scratch& s) {
  select_largest(logits, size, static_cast<size_t>(row.num_top), -kInfinity, s);
  for (int32_t i = 0; i < row.num_top; ++i) {
    TokenLogprob& entry = row.top[i];
    entry = {-1, -kInfinity, 0};
    if (static_cast<size_t>(i) >= s.heap.size()) continue;
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

// Keeps the smallest set of most likely candidates whose weights reach `wanted`.
void keep_nucleus(std::vector<Candidate>& candidates, double wanted, Scratch& s) {
  constexpr int kBins = 1024;
  constexpr float kBinsPerUnit = 11.5f;  // exp_nonpositive is 0 beyond 87 = 1000 / 11.5
  const auto bin_of = [&](const Candidate& c) {
    return std::min(kBins - 1, static_cast<int>(std::min(c.distance, 100.0f) * kBinsPerUnit));
  };
  double bins[kBins] = {};
  for (const Candidate& c : candidates) bins[bin_of(c)] += c.weight;
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

// Most requests with a top_k ask for a few dozen; a heap of more costs more than a selection.
constexpr int32_t kHeapTopK = 256;

// Candidates within min_p and top_k, in id order. The most likely token is always one: its distance
// is 0. What weighs nothing is none, but for it.
void collect_candidates(const float* logits, int32_t size, float max,
                        const SamplingParams& params, Scratch& s) {
  const float scale = 1.0f / params.temperature;
  const float distance_max = params.min_p > 0 ? -std::log(params.min_p) : 87.0f;
  const float limit = std::max(0.0f, std::min(distance_max, 87.0f));
  std::vector<Candidate>& candidates = s.candidates;
  candidates.clear();
  const auto consider = [&](float logit, int32_t id) {
    const float distance = (max - logit) * scale;
    if (distance <= limit) candidates.push_back({distance, 0, id});
  };
  const auto by_id = [](const Candidate& a, const Candidate& b) { return a.id < b.id; };
  if (params.top_k > 0 && params.top_k <= kHeapTopK) {
    // A floor a little below the limit spares the heap most of the vocabulary.
    const float floor = max - limit * params.temperature * 1.001f;
    select_largest(logits, size, static_cast<size_t>(params.top_k), floor, s);
    for (const auto& [logit, id] : s.heap) consider(logit, id);
    std::sort(candidates.begin(), candidates.end(), by_id);
  } else {
    for (int32_t i = 0; i < size; ++i) consider(logits[i], i);
    if (params.top_k > 0 && static_cast<size_t>(params.top_k) < candidates.size()) {
      const auto end = candidates.begin() + params.top_k;
      std::nth_element(candidates.begin(), end - 1, candidates.end(), more_likely);
      candidates.erase(end, candidates.end());
      std::sort(candidates.begin(), candidates.end(), by_id);
    }
  }
  for (Candidate& c : candidates) c.weight = exp_nonpositive(-c.distance);
}

// top_p alone. Tokens lighter than (1 - top_p) / size of the total weigh less than 1 - top_p
// together, so the nucleus is complete without them: only the others become candidates.
void collect_nucleus(const float* logits, int32_t size, float max, const SamplingParams& params,
                     Scratch& s) {
  const float scale = 1.0f / params.temperature;
  const double total = weigh(logits, size, max, scale, s);
  const float least = static_cast<float>((1.0 - params.top_p) * total / size * 0.999);
  s.candidates.clear();
  for (int32_t i = 0; i < size; ++i) {
    const float weight = s.weights[static_cast<size_t>(i)];
    if (weight >= least && weight > 0) {
      s.candidates.push_back({(max - logits[i]) * scale, weight, i});
    }
  }
  keep_nucleus(s.candidates, params.top_p * total, s);
}

// min_p, top_k and top_p, then a draw over what is left in id order.
int32_t draw_from_filtered(const float* logits, int32_t size, float max,
                           const SamplingParams& params, double uniform, Scratch& s) {
  if (params.min_p > 0 || params.top_k > 0) {
    collect_candidates(logits, size, max, params, s);
    if (params.top_p < 1.0f) {
      keep_nucleus(s.candidates, params.top_p * total_weight(s.candidates), s);
    }
  } else {
    collect_nucleus(logits, size, max, params, s);
  }
  double left = uniform * total_weight(s.candidates);
  for (const Candidate& c : s.candidates) {
    if (left < c.weight) return c.id;
    left -= c.weight;
  }
  return s.candidates.back().id;
}

int32_t choose(const float* logits, int32_t size, const SampleRow& row, Scratch& s) {
  const SamplingParams& params = *row.params;
  const Extent extent = extent_of(logits, size);
  if (!extent.finite) return -1;
  if (params.temperature < kGreedyTemperature) return first_index_of(logits, size, extent.max);
  const double uniform = uniform_at(params.seed, row.position);
  const bool filtered = params.min_p > 0 || params.top_p < 1.0f ||
                        (params.top_k > 0 && params.top_k < size);
  if (filtered) return draw_from_filtered(logits, size, extent.max, params, uniform, s);
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
