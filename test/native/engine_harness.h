// Runs an engine step by step from a test: blocks handed out by hand, results waited for, and a
// backend in between that can fail, count or call back at any op.
#pragma once

#include <future>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "engine_core.h"
#include "plan_packet.h"
#include "test.h"
#include "tiny_model.h"

namespace lh_test {

// Passes everything on to the CPU backend; `before` sees each op's name first and may fail it.
class SpyBackend final : public longhaul::Backend {
 public:
  using Before = std::function<longhaul::Status(const char* op)>;
  SpyBackend(std::unique_ptr<Backend> inner, std::shared_ptr<Before> before)
      : inner_(std::move(inner)), before_(std::move(before)) {}

  longhaul::BackendInfo info() const override { return inner_->info(); }
  longhaul::Result<int64_t> prepare(const longhaul::ModelNeeds& needs) override {
    return inner_->prepare(needs);
  }
  longhaul::Result<longhaul::DeviceTensor> allocate(int64_t rows, int64_t cols) override {
    return inner_->allocate(rows, cols);
  }
  longhaul::Result<std::unique_ptr<longhaul::Matrix>> make_matrix(
      std::span<const longhaul::TensorView> parts, longhaul::MatrixUse use) override {
    return inner_->make_matrix(parts, use);
  }
  longhaul::Result<std::unique_ptr<longhaul::Vector>> make_vector(
      std::span<const longhaul::TensorView> parts, float offset) override {
    return inner_->make_vector(parts, offset);
  }
  longhaul::Result<std::unique_ptr<longhaul::RopeTable>> make_rope(
      const longhaul::RopeConfig& config, int32_t max_position) override {
    return inner_->make_rope(config, max_position);
  }
  longhaul::Status create_kv_pool(const longhaul::KvLayout& layout, int32_t num_blocks,
                                  int32_t num_slots, int32_t num_heads,
                                  int32_t max_partials) override {
    return inner_->create_kv_pool(layout, num_blocks, num_slots, num_heads, max_partials);
  }
  longhaul::Result<bool> begin_forward(const longhaul::StepInputs& inputs) override {
    return inner_->begin_forward(inputs);
  }
  longhaul::Status end_forward() override { return inner_->end_forward(); }
  longhaul::Status embed(const longhaul::EmbedParams& p) override {
    LH_TRY(call("embed"));
    return inner_->embed(p);
  }
  longhaul::Status qkv(const longhaul::QkvParams& p) override {
    LH_TRY(call("qkv"));
    return inner_->qkv(p);
  }
  longhaul::Status attention(const longhaul::AttentionParams& p) override {
    LH_TRY(call("attention"));
    return inner_->attention(p);
  }
  longhaul::Status project_add(const longhaul::ProjectAddParams& p) override {
    LH_TRY(call("project_add"));
    return inner_->project_add(p);
  }
  longhaul::Status gated_up(const longhaul::GatedUpParams& p) override {
    LH_TRY(call("gated_up"));
    return inner_->gated_up(p);
  }
  longhaul::Status logits(const longhaul::LogitsParams& p) override {
    LH_TRY(call("logits"));
    return inner_->logits(p);
  }
  longhaul::Status sample(const longhaul::SampleParams& p) override {
    LH_TRY(call("sample"));
    return inner_->sample(p);
  }
  longhaul::Status copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) override {
    LH_TRY(call("copy_blocks"));
    return inner_->copy_blocks(from_to);
  }
  longhaul::Status compact_rows(longhaul::DeviceTensor* x, std::span<const int32_t> keep) override {
    LH_TRY(call("compact_rows"));
    return inner_->compact_rows(x, keep);
  }
  longhaul::Result<longhaul::StepTicket> end_step() override {
    LH_TRY(call("end_step"));
    return inner_->end_step();
  }
  longhaul::Result<bool> is_step_done(longhaul::StepTicket ticket) override {
    return inner_->is_step_done(ticket);
  }
  longhaul::Status wait_step(longhaul::StepTicket ticket) override {
    LH_TRY(call("wait_step"));
    return inner_->wait_step(ticket);
  }
  longhaul::Status read_block(int32_t block_id, std::span<std::byte> out) override {
    return inner_->read_block(block_id, out);
  }

 private:
  longhaul::Status call(const char* op) {
    return *before_ ? (*before_)(op) : longhaul::Status();
  }
  std::unique_ptr<Backend> inner_;
  std::shared_ptr<Before> before_;
};

inline longhaul::EngineOptions tiny_options() {
  longhaul::EngineOptions options;
  options.threads = 1;
  options.kv_memory_bytes = 8 << 20;
  options.kv_dtype = longhaul::KvDType::kF16;
  options.max_num_seqs = 8;
  options.max_num_batched_tokens = 600;
  return options;
}

struct StepAnswer {
  longhaul::Status status;
  std::vector<int32_t> words;
  std::vector<ResultRecord> records;
};

class Harness {
 public:
  explicit Harness(const TinyModel& model, longhaul::EngineOptions options = tiny_options())
      : before_(std::make_shared<SpyBackend::Before>()), block_size_(options.block_size) {
    longhaul::CpuBackendOptions cpu;
    cpu.threads = options.threads;
    cpu.isa_limit = options.isa_limit;
    auto backend = longhaul::make_cpu_backend(cpu);
    EXPECT_EQ(backend.status().message(), std::string());
    start(model, options, std::make_unique<SpyBackend>(std::move(backend.value()), before_));
  }
  // Over a backend of the test's own; before_each_op() does nothing then.
  Harness(const TinyModel& model, longhaul::EngineOptions options,
          std::unique_ptr<longhaul::Backend> backend)
      : block_size_(options.block_size) {
    start(model, options, std::move(backend));
  }

  longhaul::Engine& engine() { return *engine_; }
  void destroy() { engine_.reset(); }
  // Seen by the engine thread: change it only between steps.
  void before_each_op(SpyBackend::Before before) { *before_ = std::move(before); }
  int32_t num_groups() const { return num_groups_; }
  int32_t block_size() const { return block_size_; }

  std::future<StepAnswer> submit(const PlanPacket& packet) {
    auto promise = std::make_shared<std::promise<StepAnswer>>();
    engine_->submit(packet.words(), [promise](const longhaul::Status& status, std::vector<int32_t> words) {
      promise->set_value({status, words, read_result(words)});
    });
    return promise->get_future();
  }
  StepAnswer run(const PlanPacket& packet) { return submit(packet).get(); }

  // A fresh id for every call; block ids are never reused unless a test does so.
  std::vector<int32_t> new_blocks(int32_t num_tokens) {
    std::vector<int32_t> ids;
    for (int32_t t = 0; t < num_tokens; t += block_size_) ids.push_back(next_block_++);
    return ids;
  }
  // Opens a sequence with blocks for `num_tokens` in every group.
  void open(PlanPacket& packet, int32_t slot, int32_t sequence_id,
            const longhaul::SamplingParams& sampling, int32_t num_tokens,
            const std::vector<int32_t>& history = {}) {
    packet.open(slot, sequence_id, sampling, history);
    for (int32_t group = 0; group < num_groups_; ++group) {
      packet.append(slot, group, new_blocks(num_tokens));
    }
  }

 private:
  void start(const TinyModel& model, const longhaul::EngineOptions& options,
             std::unique_ptr<longhaul::Backend> backend) {
    auto engine =
        longhaul::create_engine(model.config, model.weights, nullptr, options, std::move(backend));
    EXPECT_EQ(engine.status().message(), std::string());
    if (engine.ok()) engine_ = std::move(engine.value());
    num_groups_ = engine_ ? static_cast<int32_t>(engine_->info().group_windows.size()) : 0;
  }

  std::shared_ptr<SpyBackend::Before> before_;
  std::unique_ptr<longhaul::Engine> engine_;
  int32_t block_size_ = 32;
  int32_t num_groups_ = 0;
  int32_t next_block_ = 0;
};

// What a sequence produced: drawn tokens with log-probabilities, and those of its prompt.
struct Generated {
  std::vector<ResultToken> tokens;
  std::vector<ResultToken> prompt;
};

// Same ids and the same bits of every log-probability.
inline bool same_bits(const std::vector<ResultToken>& a, const std::vector<ResultToken>& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].id != b[i].id || a[i].rank != b[i].rank || a[i].top != b[i].top) return false;
    if (std::bit_cast<int32_t>(a[i].logprob) != std::bit_cast<int32_t>(b[i].logprob)) return false;
  }
  return true;
}

inline std::vector<int32_t> make_prompt(int32_t length, uint32_t seed, int32_t vocab_size) {
  std::vector<int32_t> prompt;
  for (int32_t i = 0; i < length; ++i) {
    seed = seed * 1664525 + 1013904223;
    prompt.push_back(static_cast<int32_t>((seed >> 8) % static_cast<uint32_t>(vocab_size)));
  }
  return prompt;
}

inline longhaul::SamplingParams greedy(int32_t num_prompt_tokens) {
  longhaul::SamplingParams sampling;
  sampling.temperature = 0;
  sampling.num_logprobs = 2;
  sampling.num_prompt_logprobs = 2;
  sampling.num_prompt_tokens = num_prompt_tokens;
  return sampling;
}

// Prefills in chunks of the given sizes (the last one repeats), then decodes until `count` tokens
// were drawn. The sequence is alone in its steps.
inline Generated generate(Harness& harness, int32_t slot, int32_t sequence_id,
                          const longhaul::SamplingParams& sampling,
                          const std::vector<int32_t>& prompt, int32_t count,
                          std::vector<int32_t> chunks, bool prompt_logprobs = true) {
  Generated out;
  const int32_t length = static_cast<int32_t>(prompt.size());
  size_t chunk = 0;
  for (int32_t start = 0; start < length;) {
    PlanPacket packet;
    if (start == 0) harness.open(packet, slot, sequence_id, sampling, length + count);
    const int32_t end = std::min(length, start + chunks[std::min(chunk++, chunks.size() - 1)]);
    const bool last = end == length;
    packet.row(slot, sequence_id, start, {prompt.begin() + start, prompt.begin() + end},
               (last ? longhaul::kFlagSample : 0) | (prompt_logprobs ? longhaul::kFlagPromptLogprobs : 0),
               last ? -1 : prompt[static_cast<size_t>(end)]);
    const StepAnswer answer = harness.run(packet);
    EXPECT_EQ(answer.status.message(), std::string());
    if (answer.records.size() != 1) return out;
    const ResultRecord& record = answer.records[0];
    EXPECT_EQ(record.status, static_cast<int32_t>(longhaul::kRecordOk));
    out.prompt.insert(out.prompt.end(), record.prompt.begin(), record.prompt.end());
    out.tokens.insert(out.tokens.end(), record.sampled.begin(), record.sampled.end());
    start = end;
  }
  while (static_cast<int32_t>(out.tokens.size()) < count) {
    PlanPacket packet;
    packet.row(slot, sequence_id, length + static_cast<int32_t>(out.tokens.size()) - 1,
               {out.tokens.back().id}, longhaul::kFlagSample);
    const StepAnswer answer = harness.run(packet);
    EXPECT_EQ(answer.status.message(), std::string());
    if (answer.records.size() != 1 || answer.records[0].sampled.size() != 1) return out;
    out.tokens.push_back(answer.records[0].sampled[0]);
  }
  return out;
}

}  // namespace lh_test
