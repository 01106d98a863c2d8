// Tiny random models of every family, end to end through the engine and the CUDA backend, against
// the CPU backend: prefill in chunks, batched decode through graphs, reused blocks, aborts,
// sampling, memory, failures. Both engines are given the CPU's tokens, so that a near tie in one
// place does not hide what comes after it.
#include "backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include "cuda_engine.h"
#include "test.h"

using namespace longhaul;
using namespace lh_test;

namespace {

// A conversation of both engines: what is sent to one is sent to the other.
class Pair {
 public:
  Pair(const TinyModel& model, KvDType kv_dtype, double tolerance, const std::string& name,
       uint64_t seed = 1)
      : name_(name), tolerance_(tolerance), cpu_(model, cpu_options(kv_dtype)),
        cuda_(model, options(kv_dtype), seed) {}

  static EngineOptions options(KvDType kv_dtype) {
    EngineOptions options = cuda_options();
    options.kv_dtype = kv_dtype;
    return options;
  }
  // fp8 is kept on devices only: compared with f16, within a tolerance that says so.
  static EngineOptions cpu_options(KvDType kv_dtype) {
    return options(kv_dtype == KvDType::kFp8 ? KvDType::kF16 : kv_dtype);
  }

  Harness& blocks() { return cpu_; }
  CudaEngine& cuda() { return cuda_; }
  double worst() const { return worst_; }

  // Returns the CPU's answer.
  StepAnswer run(const PlanPacket& packet) {
    const StepAnswer expected = cpu_.run(packet), found = cuda_.harness.run(packet);
    EXPECT_EQ(expected.status.message(), std::string());
    EXPECT_EQ(found.status.message(), std::string());
    EXPECT_EQ(found.records.size(), expected.records.size());
    if (found.records.size() != expected.records.size()) return expected;
    for (size_t i = 0; i < found.records.size(); ++i) {
      EXPECT_EQ(found.records[i].status, expected.records[i].status);
      compare(expected.records[i].prompt, found.records[i].prompt, "prompt");
      compare(expected.records[i].sampled, found.records[i].sampled, "output");
    }
    return expected;
  }

 private:
  void compare(const std::vector<ResultToken>& expected, const std::vector<ResultToken>& found,
               const char* what) {
    EXPECT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
      compare(expected[i], found[i], std::string(what) + " " + std::to_string(i));
    }
  }

  void compare(const ResultToken& expected, const ResultToken& found, const std::string& what) {
    double difference = 0;
    if (found.id == expected.id) difference = std::fabs(found.logprob - expected.logprob);
    std::map<int32_t, double> of_id;
    for (const auto& [id, logprob] : expected.top) of_id[id] = logprob;
    for (size_t i = 0; i < std::min(found.top.size(), expected.top.size()); ++i) {
      // The i-th largest, whichever token it is; and the token's own, if the CPU named it.
      const auto& [id, logprob] = found.top[i];
      difference = std::max(difference, double{std::fabs(logprob - expected.top[i].second)});
      if (of_id.count(id)) difference = std::max(difference, std::fabs(logprob - of_id[id]));
    }
    bool good = difference <= tolerance_ && found.top.size() == expected.top.size();
    if (std::isnan(difference)) good = false;
    worst_ = std::max(worst_, difference);
    // Another token only where the CPU's two best were within reach of each other.
    if (found.id != expected.id) {
      good = good && expected.top.size() >= 2 &&
             expected.top[0].second - expected.top[1].second <= 2 * tolerance_;
    }
    if (good) return;
    fail(__FILE__, __LINE__,
         name_ + ", " + what + ": token " + std::to_string(found.id) + " logprob " +
             std::to_string(found.logprob) + ", expected " + std::to_string(expected.id) + " " +
             std::to_string(expected.logprob) + ", off by " + std::to_string(difference));
  }

  std::string name_;
  double tolerance_;
  double worst_ = 0;
  Harness cpu_;
  CudaEngine cuda_;
};

struct Sequence {
  std::vector<int32_t> prompt;
  std::vector<int32_t> tokens;   // drawn
  int32_t id = 0;
};

SamplingParams looking(int32_t num_prompt_tokens) {
  SamplingParams sampling = greedy(num_prompt_tokens);
  sampling.num_logprobs = 5;
  sampling.num_prompt_logprobs = 3;
  return sampling;
}

// Adds the sequence's next decode row.
void add_decode(PlanPacket& packet, int32_t slot, const Sequence& one) {
  const auto position = static_cast<int32_t>(one.prompt.size() + one.tokens.size()) - 1;
  packet.row(slot, one.id, position, {one.tokens.back()}, kFlagSample);
}

// Three sequences: one is prefilled in chunks while the others decode, then all decode through the
// graph of their bucket.
void converse(Pair& pair) {
  std::vector<Sequence> sequences(3);
  const int32_t lengths[3] = {5, 33, 70};
  for (int32_t i = 0; i < 3; ++i) {
    sequences[static_cast<size_t>(i)].prompt = make_prompt(lengths[i], static_cast<uint32_t>(7 + i), 131);
    sequences[static_cast<size_t>(i)].id = 10 + i;
  }
  const auto take = [&](const StepAnswer& answer, size_t record, Sequence& one) {
    if (answer.records.size() > record && answer.records[record].sampled.size() == 1) {
      one.tokens.push_back(answer.records[record].sampled[0].id);
    }
  };
  PlanPacket first;
  for (int32_t i = 0; i < 3; ++i) {
    pair.blocks().open(first, i, 10 + i, looking(lengths[i]), lengths[i] + 12);
  }
  const std::vector<int32_t>& longest = sequences[2].prompt;
  first.row(0, 10, 0, sequences[0].prompt, kFlagSample | kFlagPromptLogprobs);
  first.row(1, 11, 0, sequences[1].prompt, kFlagSample | kFlagPromptLogprobs);
  first.row(2, 12, 0, {longest.begin(), longest.begin() + 31}, kFlagPromptLogprobs, longest[31]);
  StepAnswer answer = pair.run(first);
  take(answer, 0, sequences[0]);
  take(answer, 1, sequences[1]);

  // One row, then across two blocks, beside decodes.
  for (const auto& [begin, end] : {std::pair<int32_t, int32_t>{31, 32}, {32, 70}}) {
    PlanPacket packet;
    add_decode(packet, 0, sequences[0]);
    add_decode(packet, 1, sequences[1]);
    const bool last = end == 70;
    packet.row(2, 12, begin, {longest.begin() + begin, longest.begin() + end},
               (last ? kFlagSample : 0) | kFlagPromptLogprobs, last ? -1 : longest[static_cast<size_t>(end)]);
    answer = pair.run(packet);
    for (size_t i = 0; i < (last ? 3 : 2); ++i) take(answer, i, sequences[i]);
  }

  // The step before them was the first of three single rows; then a recording and replays.
  for (int32_t step = 0; step < 5; ++step) {
    PlanPacket packet;
    for (int32_t i = 0; i < 3; ++i) add_decode(packet, i, sequences[static_cast<size_t>(i)]);
    answer = pair.run(packet);
    for (size_t i = 0; i < 3; ++i) take(answer, i, sequences[i]);
  }
  EXPECT_EQ(pair.cuda().backend->num_replays(), int64_t{4});
  EXPECT_EQ(pair.cuda().runtime->num_unprepared(), int64_t{0});
}

void compare(const std::string& name, const ModelConfig& config, const TinyTypes& types,
             KvDType kv_dtype, double tolerance) {
  const TinyModel model = tiny_model(config, types);
  Pair pair(model, kv_dtype, tolerance, name);
  converse(pair);
  std::printf("  %s: largest difference of a log-probability %.4f\n", name.c_str(), pair.worst());
}

}  // namespace

// Every family with f16 weights, whose products are nearly those of the CPU: what is wrong with a
// family's graph moves log-probabilities by much more.
LH_TEST(families_in_f16) {
  for (const char* family : {"llama", "qwen2", "qwen3", "mistral", "gemma3"}) {
    compare(std::string(family) + ", F16", cuda_config(family), all_of(DType::kF16), KvDType::kF16, 0.01);
  }
}
LH_TEST(heads_of_other_sizes) {
  // Of which 64 channels are rotated; groups of one and of four query heads.
  for (const auto& [head_dim, num_heads] : {std::pair<int32_t, int32_t>{80, 2}, {128, 8}, {256, 4}}) {
    ModelConfig config = cuda_config("llama");
    config.head_dim = head_dim;
    config.num_heads = num_heads;
    config.layers.resize(1);
    compare("llama, heads of " + std::to_string(head_dim), config, all_of(DType::kF16), KvDType::kF16, 0.01);
  }
}
// bf16 rounds activations to 8 bits of mantissa.
LH_TEST(bf16_and_mixed_dense_types) {
  compare("qwen2, BF16, bf16 cache", cuda_config("qwen2"), all_of(DType::kBF16), KvDType::kBF16, 0.06);
  compare("llama, mixed dense", cuda_config("llama"), mixed_type, KvDType::kF16, 0.06);
}
// With quantized weights both backends round activations to 8 bits in blocks of 32; a number near a
// border goes either way, which in rows of 64 channels shows in the second decimal.
LH_TEST(quantized_weights) {
  const std::vector<std::tuple<const char*, DType, KvDType>> cases = {
      {"qwen3", DType::kQ8_0, KvDType::kF16},
      {"mistral", DType::kQ4_1, KvDType::kF16},
      {"qwen2", DType::kQ4_0, KvDType::kBF16},
      {"gemma3", DType::kQ5_0, KvDType::kF16},
      {"llama", DType::kQ5_1, KvDType::kF16}};
  for (const auto& [family, dtype, kv_dtype] : cases) {
    compare(std::string(family) + ", " + dtype_info(dtype).name, cuda_config(family), all_of(dtype),
            kv_dtype, 0.15);
  }
}
LH_TEST(k_types) {
  ModelConfig config = cuda_config("llama", 256);
  config.layers.resize(1);
  const auto types = [](const std::string& name) {
    if (name.ends_with("down_proj") || name.ends_with("v_proj")) return DType::kQ6_K;
    return name.ends_with("o_proj") ? DType::kQ5_K : DType::kQ4_K;
  };
  compare("llama, K types", config, types, KvDType::kF16, 0.15);
}
LH_TEST(a_gate_and_an_up_of_different_formats) {
  const auto types = [](const std::string& name) {
    return name.ends_with("up_proj") ? DType::kQ8_0 : DType::kF16;
  };
  compare("llama, gate F16, up Q8_0", cuda_config("llama"), types, KvDType::kF16, 0.15);
}
LH_TEST(eight_bit_caches) {
  compare("gemma3, F16, q8 cache", cuda_config("gemma3"), all_of(DType::kF16), KvDType::kQ8, 0.1);
  compare("qwen3, Q8_0, q8 cache", cuda_config("qwen3"), all_of(DType::kQ8_0), KvDType::kQ8, 0.15);
  // Three bits of mantissa in keys and values against ten.
  compare("llama, F16, fp8 cache", cuda_config("llama"), all_of(DType::kF16), KvDType::kFp8, 0.3);
}

LH_TEST(prompts_of_more_rows_than_kernels_multiply) {
  // More than kQuantRowsMax rows: quantized weights are expanded for dense products.
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_1, DType::kF16}) {
    const TinyModel model = tiny_model(cuda_config("llama"), all_of(dtype));
    EngineOptions options = cuda_options();
    options.max_num_batched_tokens = 320;
    CudaEngine cuda(model, options);
    Harness cpu(model, options);
    const std::vector<int32_t> prompt = make_prompt(300, 5, 131);
    const Generated expected = generate(cpu, 0, 1, looking(300), prompt, 1, {300});
    const Generated found = generate(cuda.harness, 0, 1, looking(300), prompt, 1, {300});
    EXPECT_EQ(found.prompt.size(), size_t{299});
    double worst = 0;
    for (size_t i = 0; i < std::min(found.prompt.size(), expected.prompt.size()); ++i) {
      EXPECT_EQ(found.prompt[i].id, expected.prompt[i].id);
      worst = std::max(worst, double{std::fabs(found.prompt[i].logprob - expected.prompt[i].logprob)});
    }
    std::printf("  300 rows, %s: %.4f\n", dtype_info(dtype).name, worst);
    EXPECT_TRUE(worst < (dtype == DType::kF16 ? 0.01 : 0.15));
    EXPECT_TRUE(cuda.runtime->num_products() > 0);
    EXPECT_EQ(cuda.runtime->num_unprepared(), int64_t{0});
  }
}

LH_TEST(blocks_of_a_prefix_serve_two_sequences) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  for (const KvDType kv_dtype : {KvDType::kF16, KvDType::kQ8}) {
    Pair pair(model, kv_dtype, kv_dtype == KvDType::kF16 ? 0.01 : 0.1, "shared prefix");
    std::vector<int32_t> first = make_prompt(80, 3, 131), second = first;
    for (size_t i = 64; i < second.size(); ++i) second[i] = (second[i] + 1) % 131;
    PlanPacket prefill;
    prefill.open(0, 1, looking(80)).append(0, 0, {5, 1, 7}).row(0, 1, 0, first, kFlagSample);
    pair.run(prefill);
    // Blocks 5 and 1 hold the 64 tokens both begin with; the second goes on in block 2.
    PlanPacket cached;
    cached.open(1, 2, looking(80)).append(1, 0, {5, 1, 2});
    cached.row(1, 2, 64, {second.begin() + 64, second.end()}, kFlagSample);
    const int32_t token = pair.run(cached).records.at(0).sampled.at(0).id;
    // Both in one decode step, reading the same blocks.
    PlanPacket both;
    both.row(0, 1, 80, {3}, kFlagSample).row(1, 2, 80, {token}, kFlagSample);
    pair.run(both);
  }
}

LH_TEST(copied_blocks_are_the_same_blocks) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  Pair pair(model, KvDType::kF16, 0.01, "copied blocks");
  PlanPacket prefill;
  prefill.open(0, 1, looking(70)).append(0, 0, {0, 1, 2});
  prefill.row(0, 1, 0, make_prompt(70, 4, 131), kFlagSample);
  pair.run(prefill);
  PlanPacket move;
  move.replace_range(0, 0, 0, {20, 21}).copy(0, 20).copy(1, 22).copy(22, 21);
  pair.run(move);
  PlanPacket other;  // overwrites the old ones
  other.open(1, 2, looking(64)).append(1, 0, {0, 1});
  other.row(1, 2, 0, make_prompt(64, 99, 131), kFlagSample);
  pair.run(other);
  pair.run(PlanPacket().row(0, 1, 70, {9}, kFlagSample));

  // More pairs than one upload names are copied one by one, in the same order.
  cuda::CudaBackend& backend = *pair.cuda().backend;
  std::vector<std::pair<int32_t, int32_t>> chain;
  for (int32_t i = 0; i < cuda::kCopyPairsMax; ++i) chain.emplace_back(30, 30);
  for (int32_t i = 20; i < 25; ++i) chain.emplace_back(i, i + 1);
  const auto bytes = static_cast<size_t>(pair.cuda().harness.engine().info().block_bytes);
  std::vector<std::byte> first(bytes), last(bytes);
  EXPECT_TRUE(backend.copy_blocks(chain).ok());
  EXPECT_TRUE(backend.read_block(20, first).ok());
  EXPECT_TRUE(backend.read_block(25, last).ok());
  EXPECT_TRUE(first == last);
  EXPECT_TRUE(std::set<std::byte>(first.begin(), first.end()).size() > 100);  // keys and values
  EXPECT_TRUE(backend.copy_blocks(std::vector<std::pair<int32_t, int32_t>>{{0, 1 << 20}}).code() ==
              ErrorCode::kInvalidRequest);
  EXPECT_TRUE(backend.read_block(-1, first).code() == ErrorCode::kInvalidRequest);
}

LH_TEST(aborted_rows_hurt_nobody) {
  const TinyModel model = tiny_model(cuda_config("mistral"), all_of(DType::kF16));
  CudaEngine cuda(model);
  Harness& harness = cuda.harness;
  const std::vector<int32_t> a = make_prompt(20, 1, 131), b = make_prompt(45, 2, 131);
  const Generated alone = generate(harness, 0, 1, looking(45), b, 4, {96}, false);
  PlanPacket packet;
  packet.close(0);
  harness.open(packet, 1, 11, looking(20), 40);
  harness.open(packet, 2, 12, looking(45), 60);
  packet.row(1, 11, 0, a, kFlagSample).row(2, 12, 0, b, kFlagSample);
  StepAnswer answer = harness.run(packet);
  std::vector<ResultToken> tokens = answer.records.at(1).sampled;
  harness.engine().abort(1, 11);
  for (int32_t i = 0; i < 3; ++i) {
    answer = harness.run(PlanPacket()
                             .row(1, 11, 20 + i, {kTokenFromSlot}, kFlagSample)
                             .row(2, 12, 45 + i, {kTokenFromSlot}, kFlagSample));
    EXPECT_EQ(answer.records.at(0).status, static_cast<int32_t>(kRecordAborted));
    EXPECT_EQ(answer.words[kResultNumTokens], 1);
    tokens.push_back(answer.records.at(1).sampled.at(0));
  }
  EXPECT_EQ(tokens.size(), alone.tokens.size());
  for (size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_NEAR(tokens[i].logprob, alone.tokens[i].logprob, 0.01);
  }
}

namespace {

// Plans of two sequences, each row's token taken from its slot; `ahead`: all submitted at once.
std::vector<StepAnswer> draw(CudaEngine& cuda, int32_t count, bool ahead) {
  SamplingParams warm = looking(40);
  warm.temperature = 0.8f;
  warm.top_p = 0.9f;
  warm.seed = 5;
  std::vector<std::future<StepAnswer>> futures;
  std::vector<StepAnswer> answers;
  for (int32_t step = 0; step < count; ++step) {
    PlanPacket packet(step);
    if (step == 0) {
      cuda.harness.open(packet, 0, 1, looking(21), 21 + count);
      cuda.harness.open(packet, 1, 2, warm, 40 + count);
      packet.row(0, 1, 0, make_prompt(21, 1, 131), kFlagSample);
      packet.row(1, 2, 0, make_prompt(40, 2, 131), kFlagSample);
    } else {
      packet.row(0, 1, 20 + step, {kTokenFromSlot}, kFlagSample);
      packet.row(1, 2, 39 + step, {kTokenFromSlot}, kFlagSample);
    }
    futures.push_back(cuda.harness.submit(packet));
    if (!ahead) futures.back().wait();
  }
  for (auto& future : futures) answers.push_back(future.get());
  return answers;
}

bool same_answers(const std::vector<StepAnswer>& a, const std::vector<StepAnswer>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i].status.ok() || !b[i].status.ok() || a[i].records.size() != b[i].records.size()) return false;
    for (size_t r = 0; r < a[i].records.size(); ++r) {
      if (!same_bits(a[i].records[r].sampled, b[i].records[r].sampled)) return false;
    }
  }
  return true;
}

}  // namespace

LH_TEST(steps_ahead_and_the_order_of_streams_change_no_bit) {
  const TinyModel model = tiny_model(cuda_config("gemma3"), all_of(DType::kQ8_0));
  CudaEngine plain(model);
  const std::vector<StepAnswer> expected = draw(plain, 8, false);
  EXPECT_EQ(expected.back().records.size(), size_t{2});
  for (const uint64_t seed : {0, 2, 3}) {
    CudaEngine ahead(model, cuda_options(), seed);
    EXPECT_TRUE(same_answers(expected, draw(ahead, 8, true)));
    EXPECT_EQ(ahead.backend->num_replays(), int64_t{5});
  }
}

LH_TEST(a_step_allocates_nothing_and_waits_for_nothing) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  CudaEngine cuda(model);
  const int64_t allocations = cuda.runtime->num_allocations(), waits = cuda.runtime->num_waits();
  EXPECT_TRUE(same_answers(draw(cuda, 6, true), draw(cuda, 0, true)) == false);
  EXPECT_EQ(cuda.runtime->num_allocations(), allocations);
  EXPECT_EQ(cuda.runtime->num_waits(), waits + 6);  // one for each result
}

LH_TEST(penalties_and_draws_are_those_of_the_host_sampler) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  std::vector<std::vector<int32_t>> tokens;
  // More top tokens than the kernel keeps send a row to the host's sampler.
  for (const int32_t num_logprobs : {2, 40}) {
    CudaEngine cuda(model);
    SamplingParams sampling = looking(20);
    sampling.num_logprobs = num_logprobs;
    sampling.temperature = 0.9f;
    sampling.top_k = 30;
    sampling.seed = 99;
    sampling.repetition_penalty = 1.3f;
    sampling.frequency_penalty = 0.5f;
    sampling.presence_penalty = 0.2f;
    sampling.logit_bias = {{9, 1.0f}, {4, -2.0f}, {9, 0.5f}};
    sampling.min_tokens = 4;
    sampling.stop_token_ids = {1, 2, 3};
    const std::vector<int32_t> prompt = make_prompt(20, 1, 131);
    std::vector<int32_t> drawn;
    for (int32_t i = 0; i < 8; ++i) {
      PlanPacket packet;
      if (i == 0) {
        cuda.harness.open(packet, 0, 1, sampling, 32, prompt);
        packet.row(0, 1, 0, prompt, kFlagSample);
      } else {
        packet.row(0, 1, 19 + i, {kTokenFromSlot}, kFlagSample);
      }
      const StepAnswer answer = cuda.harness.run(packet);
      EXPECT_EQ(answer.status.message(), std::string());
      const ResultToken token = answer.records.at(0).sampled.at(0);
      EXPECT_EQ(token.top.size(), static_cast<size_t>(num_logprobs));
      EXPECT_TRUE(i >= 4 || token.id > 3 || token.id == 0);
      drawn.push_back(token.id);
    }
    tokens.push_back(drawn);
  }
  EXPECT_TRUE(tokens[0] == tokens[1]);
}

LH_TEST(nan_ends_one_sequence_on_the_device) {
  TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  TensorView embedding = *model.weights.find("token_embedding");
  std::memset(const_cast<std::byte*>(embedding.data) + 3 * embedding.cols * 2, 0xff,
              static_cast<size_t>(embedding.cols) * 2);
  model.config.tied_embeddings = false;
  std::vector<float> head(static_cast<size_t>(embedding.rows * embedding.cols), 0.01f);
  model.weights.add({"lm_head", DType::kF32, embedding.rows, embedding.cols,
                     reinterpret_cast<const std::byte*>(head.data())});
  CudaEngine cuda(model);
  PlanPacket packet;
  cuda.harness.open(packet, 0, 1, looking(4), 32);
  cuda.harness.open(packet, 1, 2, looking(4), 32);
  packet.row(0, 1, 0, {1, 2, 3, 4}, kFlagSample).row(1, 2, 0, {1, 2, 4, 4}, kFlagSample);
  std::vector<std::future<StepAnswer>> futures;
  futures.push_back(cuda.harness.submit(packet));
  for (int32_t i = 0; i < 3; ++i) {
    futures.push_back(cuda.harness.submit(PlanPacket()
                                              .row(0, 1, 4 + i, {kTokenFromSlot}, kFlagSample)
                                              .row(1, 2, 4 + i, {kTokenFromSlot}, kFlagSample)));
  }
  for (auto& future : futures) {
    const StepAnswer answer = future.get();
    EXPECT_EQ(answer.status.message(), std::string());
    EXPECT_EQ(answer.records.at(0).status, static_cast<int32_t>(kRecordNotFinite));
    EXPECT_EQ(answer.records.at(1).status, static_cast<int32_t>(kRecordOk));
  }
}

LH_TEST(kept_rows_move_up) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  CudaEngine cuda(model);
  cuda::CudaBackend& backend = *cuda.backend;
  // Rows of the pool's own memory are as good as any: a tensor of four rows.
  auto host = cuda.runtime->allocate_pinned(4 * 64 * 4, "rows");
  auto memory = cuda.runtime->allocate(4 * 64 * 4, "rows");
  auto stream = cuda.runtime->create_stream();
  auto* const rows = static_cast<float*>(host.value());
  for (int32_t i = 0; i < 4 * 64; ++i) rows[i] = static_cast<float>(i);
  EXPECT_TRUE(cuda.runtime->copy_to_device(memory.value(), rows, 4 * 64 * 4, stream.value()).ok());
  EXPECT_TRUE(cuda.runtime->synchronize(stream.value()).ok());
  DeviceTensor tensor;
  tensor.data = memory.value();
  tensor.rows = 4;
  tensor.cols = 64;
  EXPECT_TRUE(backend.compact_rows(&tensor, std::vector<int32_t>{0, 2, 3}).ok());
  auto ticket = backend.end_step();
  EXPECT_TRUE(ticket.ok() && backend.wait_step(ticket.value()).ok());
  EXPECT_TRUE(cuda.runtime->copy_to_host(rows, memory.value(), 3 * 64 * 4, stream.value()).ok());
  EXPECT_TRUE(cuda.runtime->synchronize(stream.value()).ok());
  for (const auto& [to, from] : {std::pair<int, int>{0, 0}, {1, 2}, {2, 3}}) {
    EXPECT_EQ(rows[to * 64], static_cast<float>(from * 64));
    EXPECT_EQ(rows[to * 64 + 63], static_cast<float>(from * 64 + 63));
  }
  cuda.runtime->release(host.value());
}

LH_TEST(what_a_device_cannot_run_is_refused_by_name) {
  const auto refusal = [](ModelConfig config) {
    const TinyModel model = tiny_model(config, all_of(DType::kF16));
    auto backend = cuda::make_cuda_backend_on(test_runtime(), {});
    auto engine = create_engine(model.config, model.weights, nullptr, cuda_options(),
                                std::move(backend.value()));
    EXPECT_TRUE(!engine.ok() && engine.status().code() == ErrorCode::kUnsupported);
    return engine.status().message();
  };
  ModelConfig config = tiny_config("llama");
  EXPECT_TRUE(refusal(config).find("head_dim: expected one of 64, 80, 96, 128, 256, found 16") !=
              std::string::npos);
  config = cuda_config("llama");
  config.num_heads = 34;
  EXPECT_TRUE(refusal(config).find("query heads a K/V head: expected at most 16, found 17") !=
              std::string::npos);
}

#ifdef LONGHAUL_SIMT

namespace {

Result<std::unique_ptr<Engine>> engine_with(const TinyModel& model, const EngineOptions& options,
                                            int64_t memory_bytes) {
  auto backend = cuda::make_cuda_backend_on(test_runtime(1, memory_bytes), {});
  return create_engine(model.config, model.weights, nullptr, options, std::move(backend.value()));
}

// "... needs A bytes (..), but B are free: C are missing": those three numbers.
std::vector<int64_t> numbers_of(const std::string& message) {
  long long needed = 0, weights = 0, scratch = 0, cache = 0, free_bytes = 0, missing = 0;
  const int found = std::sscanf(message.c_str(),
                                "emulated: the model needs %lld bytes (weights %lld, scratch and "
                                "reserve %lld, K/V cache %lld), but %lld are free: %lld are missing",
                                &needed, &weights, &scratch, &cache, &free_bytes, &missing);
  EXPECT_EQ(found, 6);
  EXPECT_EQ(weights + scratch + cache, needed);
  return {needed, free_bytes, missing};
}

}  // namespace

LH_TEST(a_model_that_does_not_fit_says_how_much_is_missing) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  EngineOptions options = cuda_options();
  options.kv_memory_bytes = int64_t{8} << 30;
  auto engine = engine_with(model, options, kTestDeviceBytes);
  EXPECT_TRUE(!engine.ok() && engine.status().code() == ErrorCode::kOutOfMemory);
  std::vector<int64_t> numbers = numbers_of(engine.status().message());
  EXPECT_EQ(numbers[1], kTestDeviceBytes);
  EXPECT_EQ(numbers[2], numbers[0] - numbers[1]);
  // A device of exactly that many bytes more takes it; one with a block less does not.
  options.kv_memory_bytes = 32767;
  engine = engine_with(model, options, kTestDeviceBytes);
  EXPECT_EQ(engine.status().message(),
            std::string("KV memory of 32767 bytes holds 0 blocks of 32768 bytes; one sequence needs at "
                        "least 1 blocks (32768 bytes)"));
  options = cuda_options();
  engine = engine_with(model, options, int64_t{1} << 20);
  EXPECT_TRUE(!engine.ok());
  numbers = numbers_of(engine.status().message());
  // The reserve is a part of the device, so that a larger one needs more: 16/15 of what is missing.
  const int64_t enough = (int64_t{1} << 20) + (numbers[2] + 14) / 15 * 16;
  engine = engine_with(model, options, enough);
  EXPECT_EQ(engine.status().message(), std::string());
  EXPECT_TRUE(!engine_with(model, options, enough - 8192).ok());
}

LH_TEST(the_cache_takes_what_is_left_or_what_suits_the_host) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  EngineOptions options = cuda_options();
  options.kv_memory_bytes = 0;
  options.kv_memory_default_bytes = 100 * 32768;
  auto engine = engine_with(model, options, kTestDeviceBytes);
  EXPECT_EQ(engine.status().message(), std::string());
  EXPECT_EQ(engine.value()->info().block_bytes, int64_t{32768});
  EXPECT_EQ(engine.value()->info().num_blocks, 100);
  EXPECT_EQ(engine.value()->info().device, std::string("emulated"));
  EXPECT_EQ(engine.value()->info().backend, std::string("cuda-emulated"));
  options.kv_memory_default_bytes = int64_t{1} << 40;
  engine = engine_with(model, options, kTestDeviceBytes);
  EXPECT_EQ(engine.status().message(), std::string());
  EXPECT_EQ(engine.value()->info().num_blocks, (64 << 20) / 32768);
}

#endif  // LONGHAUL_SIMT

LH_TEST(a_gpu_gives_the_cache_what_is_left) {
  ModelNeeds needs;
  needs.group_windows = {0, 40};
  needs.layout.num_kv_heads = 2;
  needs.layout.head_dim = 64;
  needs.layout.layers_per_block = 4;   // 64 KiB a block
  needs.kv_memory_default_bytes = 1 << 20;
  cuda::DeviceProperties device;
  device.name = "a GPU";
  device.memory_bytes = int64_t{80} << 30;
  cuda::MemoryPlan plan;
  plan.weight_bytes = int64_t{10} << 30;
  plan.scratch_bytes = int64_t{1} << 30;
  const int64_t reserve = int64_t{512} << 20, block = 65536;
  const int64_t free_bytes = (int64_t{60} << 30) + 12345;
  EXPECT_TRUE(cuda::plan_pool(needs, device, free_bytes, false, &plan).ok());
  EXPECT_EQ(plan.pool_bytes, (int64_t{49} << 30) - reserve);
  // At least a block of each group has to fit.
  const int64_t used = (int64_t{11} << 30) + reserve;
  EXPECT_TRUE(cuda::plan_pool(needs, device, used + 2 * block, false, &plan).ok());
  EXPECT_EQ(plan.pool_bytes, 2 * block);
  const Status status = cuda::plan_pool(needs, device, used + 2 * block - 1, false, &plan);
  EXPECT_TRUE(status.code() == ErrorCode::kOutOfMemory);
  EXPECT_TRUE(status.message().find("1 are missing") != std::string::npos);
}

#ifdef LONGHAUL_SIMT

LH_TEST(failures_of_the_device_end_every_stream) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  using simt::Call;
  for (const Call call : {Call::kCopy, Call::kLaunch, Call::kRun, Call::kDense, Call::kRecord, Call::kWait,
                          Call::kSynchronize, Call::kGraphLaunch, Call::kCapture}) {
    for (const int64_t nth : {1, 5}) {
      CudaEngine cuda(model);
      const std::vector<StepAnswer> before = draw(cuda, 2, true);
      EXPECT_TRUE(before[0].status.ok() && before[1].status.ok());
      // A capture comes once for a bucket; the second decode step is the one that is recorded.
      cuda.device().fail_call(call, call == Call::kCapture ? 1 : nth);
      std::vector<std::future<StepAnswer>> futures;
      for (int32_t step = 2; step < 12; ++step) {
        PlanPacket packet(step);
        packet.row(0, 1, 20 + step - (step > 8 ? 7 : 0), {kTokenFromSlot}, kFlagSample);
        packet.row(1, 2, 39 + step - (step > 8 ? 7 : 0), {kTokenFromSlot}, kFlagSample);
        if (call == Call::kDense) {   // needs more than eight rows
          packet = PlanPacket(step);
          packet.row(0, 1, 0, make_prompt(21, 1, 131), kFlagSample);
        }
        futures.push_back(cuda.harness.submit(packet));
      }
      bool failed = false;
      for (auto& future : futures) {
        const StepAnswer answer = future.get();
        if (answer.status.ok() && !failed) continue;
        failed = true;
        if (answer.status.code() != ErrorCode::kDevice || !answer.words.empty()) {
          fail(__FILE__, __LINE__, "call " + std::to_string(static_cast<int>(call)) + ", " +
                                       std::to_string(nth) + ": " + answer.status.message());
        }
      }
      EXPECT_TRUE(failed);
      EXPECT_TRUE(cuda.harness.run(PlanPacket()).status.code() == ErrorCode::kDevice);
    }
  }
}

LH_TEST(memory_that_is_not_there_ends_the_start) {
  const TinyModel model = tiny_model(cuda_config("llama"), all_of(DType::kF16));
  for (const simt::Call call : {simt::Call::kAllocate, simt::Call::kAllocatePinned}) {
    for (int64_t nth = 1; nth < 40; ++nth) {
      auto runtime = test_runtime();
      simt::emulated(*runtime).fail_call(call, nth);
      auto backend = cuda::make_cuda_backend_on(std::move(runtime), {});
      auto engine = create_engine(model.config, model.weights, nullptr, cuda_options(),
                                  std::move(backend.value()));
      if (engine.ok()) {
        EXPECT_TRUE(nth > 2);
        break;
      }
      EXPECT_TRUE(engine.status().code() == ErrorCode::kOutOfMemory);
    }
  }
}

#endif  // LONGHAUL_SIMT

LH_TEST_MAIN
