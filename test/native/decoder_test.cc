// Every family against an independent forward pass in double precision.
#include "model/decoder.h"

#include "engine_harness.h"
#include "reference_decoder.h"
#include "test.h"

using namespace longhaul;
using namespace lh_test;

namespace {

// f32 arithmetic over a few hundred terms, logits of a few units.
constexpr double kTolerance = 2e-3;
// With keys, values and queries rounded to 8 bits, which the reference does not do.
constexpr double kToleranceQ8 = 0.1;

void expect_token(const ResultToken& token, const Row& expected, double tolerance,
                  const char* what, size_t index) {
  const double logprob = expected[static_cast<size_t>(token.id)];
  bool good = std::fabs(token.logprob - logprob) < tolerance;
  // A top list is right when its values are the largest ones, whichever of two near-equals leads.
  Row sorted = expected;
  std::sort(sorted.rbegin(), sorted.rend());
  for (size_t i = 0; i < token.top.size(); ++i) {
    good = good && std::fabs(token.top[i].second - sorted[i]) < tolerance;
    good = good && std::fabs(expected[static_cast<size_t>(token.top[i].first)] - sorted[i]) < tolerance;
  }
  if (!good) {
    lh_test::fail(__FILE__, __LINE__,
                  std::string(what) + " " + std::to_string(index) + ": token " + std::to_string(token.id) +
                      " logprob " + std::to_string(token.logprob) + ", expected " + std::to_string(logprob));
  }
}

void compare_with_reference(const std::string& family, KvDType kv_dtype, const char* isa) {
  const TinyModel model = tiny_model(family);
  EngineOptions options = tiny_options();
  options.kv_dtype = kv_dtype;
  options.isa_limit = isa;
  Harness harness(model, options);
  const std::vector<int32_t> prompt = make_prompt(101, 7, model.config.vocab_size);
  const Generated out = generate(harness, 0, 1, greedy(101), prompt, 12, {600});
  EXPECT_EQ(out.prompt.size(), prompt.size() - 1);
  EXPECT_EQ(out.tokens.size(), size_t{12});
  if (out.tokens.size() != 12) return;

  std::vector<int32_t> all = prompt;
  for (const ResultToken& token : out.tokens) all.push_back(token.id);
  const double tolerance = kv_dtype == KvDType::kQ8 ? kToleranceQ8 : kTolerance;
  const Rows expected = ReferenceDecoder(model.config, model.weights, kv_dtype).logprobs(all);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    EXPECT_EQ(out.prompt[i].id, prompt[i + 1]);
    expect_token(out.prompt[i], expected[i], tolerance, (family + " prompt").c_str(), i);
  }
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    const Row& row = expected[prompt.size() - 1 + i];
    expect_token(out.tokens[i], row, tolerance, (family + " output").c_str(), i);
    const double best = *std::max_element(row.begin(), row.end());
    EXPECT_NEAR(row[static_cast<size_t>(out.tokens[i].id)], best, tolerance);
    EXPECT_EQ(out.tokens[i].rank, 1);
  }
}

}  // namespace

LH_TEST(llama_is_the_reference) { compare_with_reference("llama", KvDType::kF16, ""); }
LH_TEST(qwen2_is_the_reference) { compare_with_reference("qwen2", KvDType::kF16, ""); }
LH_TEST(qwen3_is_the_reference) { compare_with_reference("qwen3", KvDType::kF16, ""); }
LH_TEST(mistral_is_the_reference) { compare_with_reference("mistral", KvDType::kF16, ""); }
LH_TEST(gemma3_is_the_reference) { compare_with_reference("gemma3", KvDType::kF16, ""); }
LH_TEST(q8_cache_is_near_the_reference) {
  compare_with_reference("llama", KvDType::kQ8, "");
  compare_with_reference("gemma3", KvDType::kQ8, "");
}
LH_TEST(bf16_cache_is_the_reference) { compare_with_reference("llama", KvDType::kBF16, ""); }
LH_TEST(the_scalar_path_is_the_reference) { compare_with_reference("gemma3", KvDType::kF16, "scalar"); }

LH_TEST(missing_and_misshapen_tensors_are_refused_by_name) {
  const auto message_of = [](const ModelConfig& config, const WeightSet& weights) {
    auto backend = make_cpu_backend({.threads = 1, .isa_limit = ""});
    auto engine = create_engine(config, weights, nullptr, tiny_options(), std::move(backend.value()));
    EXPECT_TRUE(!engine.ok());
    EXPECT_TRUE(engine.status().code() == ErrorCode::kModelFormat);
    return engine.status().message();
  };
  const TinyModel model = tiny_model("qwen2");
  ModelConfig config = model.config;
  config.qk_norm = true;
  EXPECT_EQ(message_of(config, model.weights),
            std::string("tensor layers.0.q_norm: expected [1, 16], found none"));
  config = model.config;
  config.intermediate_size = 128;
  EXPECT_EQ(message_of(config, model.weights),
            std::string("tensor layers.0.gate_proj: expected [128, 64], found [96, 64]"));
  config = model.config;
  config.layers[1].rope_index = 1;
  EXPECT_EQ(message_of(config, model.weights),
            std::string("model config: layers[1].rope_index: expected 0 to 0, found 1"));
}

LH_TEST_MAIN
