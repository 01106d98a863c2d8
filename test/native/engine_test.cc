// The engine on tiny random models: outputs do not depend on how work was cut and batched, aborts
// and wrong plans hurt nobody else, failures are final and answered.
#include "engine.h"

#include <atomic>
#include <map>

#include "engine_harness.h"
#include "test.h"

using namespace longhaul;
using namespace lh_test;

namespace {

const char* const kFamilies[] = {"llama", "mistral", "gemma3"};
constexpr int32_t kCount = 6;  // tokens drawn

Generated alone(const TinyModel& model, const std::vector<int32_t>& prompt,
                const SamplingParams& sampling, std::vector<int32_t> chunks = {600},
                EngineOptions options = tiny_options()) {
  Harness harness(model, options);
  return generate(harness, 0, 1, sampling, prompt, kCount, std::move(chunks));
}

SamplingParams warm(int32_t num_prompt_tokens, uint64_t seed) {
  SamplingParams sampling = greedy(num_prompt_tokens);
  sampling.temperature = 0.9f;
  sampling.top_p = 0.95f;
  sampling.seed = seed;
  return sampling;
}

struct Client {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  Generated out;
};

std::vector<Client> three_clients(const TinyModel& model) {
  std::vector<Client> clients;
  for (const int32_t length : {5, 77, 33}) {
    Client one;
    one.prompt = make_prompt(length, static_cast<uint32_t>(length), model.config.vocab_size);
    one.sampling = length == 77 ? warm(length, 5) : greedy(length);
    clients.push_back(one);
  }
  return clients;
}

// Runs all clients together: one prefill step for all, then decode steps for all.
void run_together(Harness& harness, std::vector<Client>& clients) {
  for (int32_t step = 0; step < kCount; ++step) {
    PlanPacket packet(step);
    for (size_t i = 0; i < clients.size(); ++i) {
      Client& one = clients[i];
      const int32_t slot = static_cast<int32_t>(i), length = static_cast<int32_t>(one.prompt.size());
      if (step == 0) {
        harness.open(packet, slot, 10 + slot, one.sampling, length + kCount);
        packet.row(slot, 10 + slot, 0, one.prompt, kFlagSample | kFlagPromptLogprobs);
      } else {
        packet.row(slot, 10 + slot, length + step - 1, {one.out.tokens.back().id}, kFlagSample);
      }
    }
    const StepAnswer answer = harness.run(packet);
    EXPECT_EQ(answer.status.message(), std::string());
    for (size_t i = 0; i < answer.records.size(); ++i) {
      const ResultRecord& record = answer.records[i];
      EXPECT_EQ(record.sequence_id, 10 + static_cast<int32_t>(i));
      clients[i].out.tokens.insert(clients[i].out.tokens.end(), record.sampled.begin(), record.sampled.end());
      clients[i].out.prompt.insert(clients[i].out.prompt.end(), record.prompt.begin(), record.prompt.end());
    }
  }
}

}  // namespace

LH_TEST(chunks_change_no_bit) {
  for (const char* family : kFamilies) {
    for (const KvDType kv_dtype : {KvDType::kF16, KvDType::kQ8}) {
      EngineOptions options = tiny_options();
      options.kv_dtype = kv_dtype;
      const TinyModel model = tiny_model(family);
      const std::vector<int32_t> prompt = make_prompt(130, 3, model.config.vocab_size);
      const Generated whole = alone(model, prompt, greedy(130), {600}, options);
      EXPECT_EQ(whole.tokens.size(), size_t{kCount});
      EXPECT_EQ(whole.prompt.size(), size_t{129});
      for (const std::vector<int32_t>& chunks :
           std::vector<std::vector<int32_t>>{{1}, {31, 1, 33}, {64}, {129, 1}, {7}}) {
        const Generated cut = alone(model, prompt, greedy(130), chunks, options);
        EXPECT_TRUE(same_bits(whole.tokens, cut.tokens));
        EXPECT_TRUE(same_bits(whole.prompt, cut.prompt));
      }
    }
  }
}

LH_TEST(company_changes_no_bit) {
  for (const char* family : kFamilies) {
    const TinyModel model = tiny_model(family);
    std::vector<Client> clients = three_clients(model);
    Harness harness(model);
    run_together(harness, clients);
    for (const Client& one : clients) {
      const Generated expected = alone(model, one.prompt, one.sampling);
      EXPECT_TRUE(same_bits(expected.tokens, one.out.tokens));
      EXPECT_TRUE(same_bits(expected.prompt, one.out.prompt));
    }
  }
}

LH_TEST(threads_and_instruction_sets_change_no_bit) {
  const TinyModel model = tiny_model("gemma3");
  const std::vector<int32_t> prompt = make_prompt(90, 3, model.config.vocab_size);
  for (const KvDType kv_dtype : {KvDType::kF16, KvDType::kQ8}) {
    EngineOptions options = tiny_options();
    options.kv_dtype = kv_dtype;
    const auto tokens = [&] { return alone(model, prompt, greedy(90), {600}, options).tokens; };
    const std::vector<ResultToken> expected = tokens();
    options.threads = 2;
    EXPECT_TRUE(same_bits(expected, tokens()));
    options.isa_limit = "scalar";
    EXPECT_TRUE(same_bits(expected, tokens()));
  }
}

LH_TEST(shared_prefix_blocks_serve_two_sequences) {
  const TinyModel model = tiny_model("llama");
  std::vector<int32_t> first = make_prompt(80, 3, model.config.vocab_size);
  std::vector<int32_t> second = first;
  for (size_t i = 64; i < second.size(); ++i) second[i] = (second[i] + 1) % model.config.vocab_size;
  Harness harness(model);
  PlanPacket prefill;
  prefill.open(0, 1, greedy(80)).append(0, 0, {0, 1, 2}).row(0, 1, 0, first, kFlagSample);
  EXPECT_TRUE(harness.run(prefill).status.ok());
  // Blocks 0 and 1 hold the 64 tokens both begin with.
  PlanPacket cached;
  cached.open(1, 2, greedy(80)).append(1, 0, {0, 1, 9}).row(1, 2, 64, {second.begin() + 64, second.end()}, kFlagSample);
  const StepAnswer answer = harness.run(cached);
  const Generated cold = alone(model, second, greedy(80));
  EXPECT_TRUE(answer.records.size() == 1 &&
              same_bits(answer.records[0].sampled, {cold.tokens.begin(), cold.tokens.begin() + 1}));
}

LH_TEST(moved_blocks_are_the_same_blocks) {
  const TinyModel model = tiny_model("llama");
  const std::vector<int32_t> prompt = make_prompt(80, 4, model.config.vocab_size);
  const Generated expected = alone(model, prompt, greedy(80));
  Harness harness(model);
  PlanPacket prefill;
  prefill.open(0, 1, greedy(80)).append(0, 0, {0, 1, 2}).row(0, 1, 0, prompt, kFlagSample);
  const StepAnswer first = harness.run(prefill);
  EXPECT_TRUE(first.status.ok());
  // Blocks 0 and 1 move to 40 and 41; another sequence then overwrites the old ones.
  PlanPacket move;
  move.replace_range(0, 0, 0, {40, 41}).copy(0, 40).copy(1, 41);
  EXPECT_TRUE(harness.run(move).status.ok());
  PlanPacket other;
  other.open(1, 2, greedy(64)).append(1, 0, {0, 1});
  other.row(1, 2, 0, make_prompt(64, 99, model.config.vocab_size), kFlagSample);
  EXPECT_TRUE(harness.run(other).status.ok());
  PlanPacket decode;
  decode.row(0, 1, 80, {expected.tokens[0].id}, kFlagSample);
  const StepAnswer answer = harness.run(decode);
  EXPECT_TRUE(answer.records.size() == 1 &&
              same_bits(answer.records[0].sampled, {expected.tokens.begin() + 1, expected.tokens.begin() + 2}));
}

LH_TEST(blocks_behind_a_window_can_be_dropped_and_reused) {
  const TinyModel model = tiny_model("gemma3");  // window 40
  const std::vector<int32_t> prompt = make_prompt(130, 4, model.config.vocab_size);
  const Generated expected = alone(model, prompt, greedy(130));
  Harness harness(model);
  std::vector<std::vector<int32_t>> tables;
  PlanPacket prefill;
  prefill.open(0, 1, greedy(130));
  for (int32_t group = 0; group < harness.num_groups(); ++group) {
    tables.push_back(harness.new_blocks(130 + kCount));
    prefill.append(0, group, tables.back());
  }
  prefill.row(0, 1, 0, prompt, kFlagSample);
  StepAnswer answer = harness.run(prefill);
  std::vector<ResultToken> tokens = answer.records.at(0).sampled;
  // Position 130 sees 91 and later: entries 0 and 1 (tokens 0..63) of windowed groups can go. They
  // go to another sequence, which fills them with other keys.
  PlanPacket drop;
  drop.open(1, 2, greedy(64));
  for (int32_t group = 0; group < harness.num_groups(); ++group) {
    const std::vector<int32_t>& table = tables[static_cast<size_t>(group)];
    if (harness.engine().info().group_windows[static_cast<size_t>(group)] == 0) {
      drop.append(1, group, harness.new_blocks(64));
    } else {
      drop.drop_prefix(0, group, 2);
      drop.append(1, group, {table[0], table[1]});
    }
  }
  drop.row(1, 2, 0, make_prompt(64, 98, model.config.vocab_size), kFlagSample);
  EXPECT_TRUE(harness.run(drop).status.ok());
  for (int32_t i = 1; i < kCount; ++i) {
    answer = harness.run(PlanPacket().row(0, 1, 129 + i, {tokens.back().id}, kFlagSample));
    EXPECT_EQ(answer.status.message(), std::string());
    tokens.push_back(answer.records.at(0).sampled.at(0));
  }
  EXPECT_TRUE(same_bits(expected.tokens, tokens));
}

LH_TEST(a_decode_step_can_take_its_token_from_the_slot) {
  const TinyModel model = tiny_model("llama");
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams sampling = warm(20, 77);
    sampling.temperature = temperature;
    sampling.frequency_penalty = 1.5f;  // counts must be up to date in the engine too
    sampling.repetition_penalty = 1.2f;
    const std::vector<int32_t> prompt = make_prompt(20, 1, model.config.vocab_size);
    Harness harness(model), overlapped(model);
    std::vector<std::future<StepAnswer>> steps;
    std::vector<ResultToken> plain;
    for (int32_t i = 0; i < kCount; ++i) {
      PlanPacket packet, next;
      if (i == 0) {
        harness.open(packet, 3, 1, sampling, 20 + kCount, prompt);
        overlapped.open(next, 3, 1, sampling, 20 + kCount, prompt);
        packet.row(3, 1, 0, prompt, kFlagSample);
        next.row(3, 1, 0, prompt, kFlagSample);
      } else {
        packet.row(3, 1, 19 + i, {plain.back().id}, kFlagSample);
        next.row(3, 1, 19 + i, {kTokenFromSlot}, kFlagSample);
      }
      plain.push_back(harness.run(packet).records.at(0).sampled.at(0));
      steps.push_back(overlapped.submit(next));  // before the earlier ones are known
    }
    std::vector<ResultToken> tokens;
    for (auto& step : steps) tokens.push_back(step.get().records.at(0).sampled.at(0));
    EXPECT_TRUE(same_bits(plain, tokens));
  }
}

LH_TEST(a_presence_penalty_makes_every_token_new) {
  const TinyModel model = tiny_model("llama");
  SamplingParams sampling = greedy(4);
  sampling.presence_penalty = 1000;
  Harness harness(model);
  const std::vector<int32_t> prompt = {1, 2, 3, 4};
  PlanPacket packet;
  // After preemption a sequence is opened again with what it had produced: token 5.
  harness.open(packet, 0, 1, sampling, 64, {1, 2, 3, 4, 5});
  packet.row(0, 1, 0, {1, 2, 3, 4, 5}, kFlagSample);
  std::map<int32_t, int> seen = {{5, 1}};
  StepAnswer answer = harness.run(packet);
  for (int32_t i = 0; i < 40; ++i) {
    const int32_t id = answer.records.at(0).sampled.at(0).id;
    EXPECT_EQ(++seen[id], 1);
    answer = harness.run(PlanPacket().row(0, 1, 5 + i, {kTokenFromSlot}, kFlagSample));
  }
}

LH_TEST(prompt_logprobs_of_more_rows_than_a_slab) {
  const TinyModel model = tiny_model("llama");
  const std::vector<int32_t> prompt = make_prompt(590, 8, model.config.vocab_size);
  Harness harness(model);
  const Generated whole = generate(harness, 0, 1, greedy(590), prompt, 2, {600});
  const Generated cut = generate(harness, 1, 2, greedy(590), prompt, 2, {100});
  EXPECT_EQ(whole.prompt.size(), size_t{589});
  EXPECT_TRUE(same_bits(whole.prompt, cut.prompt));
  EXPECT_TRUE(same_bits(whole.tokens, cut.tokens));
}

LH_TEST(a_row_can_be_asked_for_a_known_token_and_a_draw) {
  const TinyModel model = tiny_model("llama");
  const std::vector<int32_t> prompt = {5, 6, 7};
  Harness harness(model);
  PlanPacket packet;
  SamplingParams sampling = greedy(3);
  sampling.logit_bias = {{9, 1000.0f}};
  harness.open(packet, 0, 1, sampling, 32);
  packet.row(0, 1, 0, prompt, kFlagSample | kFlagPromptLogprobs, 8);
  const StepAnswer answer = harness.run(packet);
  const ResultRecord& record = answer.records.at(0);
  EXPECT_EQ(record.sampled.at(0).id, 9);
  EXPECT_EQ(record.prompt.size(), size_t{3});
  EXPECT_EQ(record.prompt.at(2).id, 8);
  EXPECT_TRUE(record.prompt.at(2).top == record.sampled.at(0).top);  // the same raw distribution
}

LH_TEST(aborted_rows_leave_a_running_step) {
  for (const char* family : kFamilies) {
    const TinyModel model = tiny_model(family);
    for (const char* where : {"copy_blocks", "embed", "qkv", "attention", "project_add", "gated_up", "logits"}) {
      std::vector<Client> clients = three_clients(model);
      Harness harness(model);
      // The last client has computed a few tokens before, so that its rows' positions are not those
      // of the rows they take the place of.
      constexpr int32_t kBefore = 3;
      PlanPacket before, packet;
      packet.copy(200, 201);  // of no one's blocks: an op before the batch is embedded
      const Client& last = clients[2];
      harness.open(before, 2, 12, last.sampling, static_cast<int32_t>(last.prompt.size()) + kCount);
      before.row(2, 12, 0, {last.prompt.begin(), last.prompt.begin() + kBefore});
      EXPECT_TRUE(harness.run(before).status.ok());
      std::atomic<int> calls{0};
      harness.before_each_op([&](const char* op) -> Status {
        if (std::string(op) == where && ++calls == 1) harness.engine().abort(1, 11);
        return {};
      });
      for (int32_t i = 0; i < 2; ++i) {
        const Client& one = clients[static_cast<size_t>(i)];
        harness.open(packet, i, 10 + i, one.sampling, static_cast<int32_t>(one.prompt.size()) + kCount);
        packet.row(i, 10 + i, 0, one.prompt, kFlagSample | kFlagPromptLogprobs);
      }
      packet.row(2, 12, kBefore, {last.prompt.begin() + kBefore, last.prompt.end()},
                 kFlagSample | kFlagPromptLogprobs);
      const StepAnswer answer = harness.run(packet);
      EXPECT_EQ(answer.status.message(), std::string());
      EXPECT_EQ(answer.records.size(), size_t{3});
      if (answer.records.size() != 3) continue;
      for (const size_t i : {size_t{0}, size_t{2}}) {
        const Generated expected = alone(model, clients[i].prompt, clients[i].sampling);
        EXPECT_EQ(answer.records[i].status, static_cast<int32_t>(kRecordOk));
        EXPECT_TRUE(same_bits(answer.records[i].sampled, {expected.tokens[0]}));
        EXPECT_TRUE(same_bits(answer.records[i].prompt,
                              {expected.prompt.begin() + (i == 2 ? kBefore : 0), expected.prompt.end()}));
      }
      const bool late = std::string(where) == "logits";  // all rows were on their way already
      EXPECT_EQ(answer.records[1].status, static_cast<int32_t>(late ? kRecordOk : kRecordAborted));
      EXPECT_EQ(answer.words[kResultNumTokens], late ? 112 : 35);
      // Aborted stays aborted until the slot is closed; the others go on.
      const StepAnswer next = harness.run(PlanPacket()
                                              .row(0, 10, 5, {kTokenFromSlot}, kFlagSample)
                                              .row(1, 11, 77, {kTokenFromSlot}, kFlagSample));
      EXPECT_EQ(next.status.message(), std::string());
      EXPECT_EQ(next.records.at(0).status, static_cast<int32_t>(kRecordOk));
      EXPECT_EQ(next.records.at(1).status, static_cast<int32_t>(kRecordAborted));
    }
  }
}

LH_TEST(a_step_whose_rows_are_all_aborted_stops) {
  const TinyModel model = tiny_model("gemma3");
  Harness harness(model);
  std::atomic<int> attention_calls{0}, logits_calls{0};
  harness.before_each_op([&](const char* op) -> Status {
    if (std::string(op) == "logits") ++logits_calls;
    if (std::string(op) == "attention" && ++attention_calls == 1) {
      harness.engine().abort(0, 1);
      harness.engine().abort(1, 2);
    }
    return {};
  });
  PlanPacket packet;
  harness.open(packet, 0, 1, greedy(8), 32);
  harness.open(packet, 1, 2, greedy(8), 32);
  packet.row(0, 1, 0, make_prompt(8, 1, 100), kFlagSample).row(1, 2, 0, make_prompt(8, 2, 100), kFlagSample);
  const StepAnswer answer = harness.run(packet);
  EXPECT_TRUE(answer.status.ok());
  for (const ResultRecord& record : answer.records) {
    EXPECT_EQ(record.status, static_cast<int32_t>(kRecordAborted));
  }
  EXPECT_EQ(answer.words[kResultNumTokens], 0);
  EXPECT_EQ(attention_calls.load(), 1);  // of four layers
  EXPECT_EQ(logits_calls.load(), 0);
}

LH_TEST(aborts_name_a_sequence_not_a_slot) {
  const TinyModel model = tiny_model("llama");
  Harness harness(model);
  harness.engine().abort(0, 7);  // before it is opened
  PlanPacket packet;
  harness.open(packet, 0, 7, greedy(4), 32);
  packet.row(0, 7, 0, {1, 2, 3, 4}, kFlagSample);
  EXPECT_EQ(harness.run(packet).records.at(0).status, static_cast<int32_t>(kRecordAborted));
  PlanPacket next;
  next.close(0);
  harness.open(next, 0, 8, greedy(4), 32);
  next.row(0, 8, 0, {1, 2, 3, 4}, kFlagSample);
  harness.engine().abort(0, 6);  // long gone
  EXPECT_EQ(harness.run(next).records.at(0).status, static_cast<int32_t>(kRecordOk));
  // The mark of 7 went with its slot: the id may come again.
  PlanPacket again;
  again.close(0);
  harness.open(again, 0, 7, greedy(4), 32);
  again.row(0, 7, 0, {1, 2, 3, 4}, kFlagSample);
  EXPECT_EQ(harness.run(again).records.at(0).status, static_cast<int32_t>(kRecordOk));
}

LH_TEST(wrong_plans_fail_alone) {
  const TinyModel model = tiny_model("mistral");
  const std::vector<int32_t> prompt = make_prompt(50, 2, model.config.vocab_size);
  const Generated expected = alone(model, prompt, greedy(50));
  Harness harness(model);
  const auto refused = [&](const PlanPacket& packet, const char* what) {
    const StepAnswer answer = harness.run(packet);
    EXPECT_TRUE(answer.status.code() == ErrorCode::kInvalidRequest);
    EXPECT_TRUE(answer.words.empty());
    if (answer.status.message().find(what) == std::string::npos) {
      lh_test::fail(__FILE__, __LINE__, "expected \"" + std::string(what) + "\" in: " + answer.status.message());
    }
  };
  refused(PlanPacket().row(0, 1, 0, {1}), "expected sequence -1");
  refused(PlanPacket().close(0), "not open");
  PlanPacket first;
  harness.open(first, 0, 1, greedy(50), 50 + kCount);
  first.row(0, 1, 0, prompt, kFlagSample);
  std::vector<ResultToken> tokens = harness.run(first).records.at(0).sampled;
  refused(PlanPacket().open(0, 2, greedy(4)), "holds sequence 1");
  refused(PlanPacket().row(0, 2, 50, {1}), "expected sequence 1");
  refused(PlanPacket().row(0, 1, 64, {1}), "covers 64");
  refused(PlanPacket().row(0, 1, 63, {1, 2}), "covers 64");
  // Changes before the fault are taken back: the table still has its first block afterwards.
  refused(PlanPacket().drop_prefix(0, 0, 1).close(1).row(0, 1, 50, {1}), "not open");
  refused(PlanPacket().replace_range(0, 0, 0, {55}).row(0, 1, 64, {1}), "covers 64");
  refused(PlanPacket().open(1, 3, greedy(4)).append(1, 0, {60}).row(1, 3, 0, {kTokenFromSlot}), "has not sampled");
  refused(PlanPacket().drop_prefix(0, 0, 1).row(0, 1, 50, {1}), "visible");
  refused(PlanPacket().close(0).row(0, 1, 50, {1}), "expected sequence -1");
  StepAnswer raw;
  {
    std::promise<StepAnswer> promise;
    harness.engine().submit({1, 2, 3}, [&](const Status& status, std::vector<int32_t> words) {
      promise.set_value({status, words, {}});
    });
    raw = promise.get_future().get();
  }
  EXPECT_TRUE(raw.status.code() == ErrorCode::kInvalidRequest);
  for (int32_t i = 1; i < kCount; ++i) {
    const StepAnswer answer = harness.run(PlanPacket().row(0, 1, 49 + i, {tokens.back().id}, kFlagSample));
    EXPECT_EQ(answer.status.message(), std::string());
    tokens.push_back(answer.records.at(0).sampled.at(0));
  }
  EXPECT_TRUE(same_bits(expected.tokens, tokens));
}

LH_TEST(nan_ends_one_sequence) {
  TinyModel model = tiny_model("llama");
  // Token 3's embedding row is NaN: only sequences that read it are hit.
  TensorView embedding = *model.weights.find("token_embedding");
  std::byte* row = const_cast<std::byte*>(embedding.data) + 3 * row_bytes(embedding.dtype, embedding.cols);
  std::memset(row, 0xff, static_cast<size_t>(row_bytes(embedding.dtype, embedding.cols)));
  model.config.tied_embeddings = false;
  std::vector<float> head(static_cast<size_t>(embedding.rows * embedding.cols), 0.01f);
  model.weights.add({"lm_head", DType::kF32, embedding.rows, embedding.cols,
                     reinterpret_cast<const std::byte*>(head.data())});
  Harness harness(model);
  PlanPacket packet;
  harness.open(packet, 0, 1, greedy(4), 32);
  harness.open(packet, 1, 2, greedy(4), 32);
  packet.row(0, 1, 0, {1, 2, 3, 4}, kFlagSample).row(1, 2, 0, {1, 2, 4, 4}, kFlagSample);
  const StepAnswer answer = harness.run(packet);
  EXPECT_EQ(answer.status.message(), std::string());
  EXPECT_EQ(answer.records.at(0).status, static_cast<int32_t>(kRecordNotFinite));
  EXPECT_EQ(answer.records.at(0).sampled.size(), size_t{0});
  EXPECT_EQ(answer.records.at(1).status, static_cast<int32_t>(kRecordOk));
  // A step that was already queued asks for the token that never came.
  const StepAnswer next = harness.run(PlanPacket()
                                          .row(0, 1, 4, {kTokenFromSlot}, kFlagSample)
                                          .row(1, 2, 4, {kTokenFromSlot}, kFlagSample));
  EXPECT_EQ(next.records.at(0).status, static_cast<int32_t>(kRecordNotFinite));
  EXPECT_EQ(next.records.at(1).status, static_cast<int32_t>(kRecordOk));
}

LH_TEST(device_failures_are_final) {
  const TinyModel model = tiny_model("llama");
  for (const bool throws : {false, true}) {
    Harness harness(model);
    PlanPacket packet;
    harness.open(packet, 0, 1, greedy(4), 32);
    packet.row(0, 1, 0, {1, 2, 3, 4}, kFlagSample);
    harness.before_each_op([&](const char* op) -> Status {
      if (std::string(op) != "gated_up") return {};
      if (throws) throw std::runtime_error("bus on fire");
      return error(ErrorCode::kDevice, "bus on fire");
    });
    const StepAnswer failed = harness.run(packet);
    harness.before_each_op(nullptr);
    const StepAnswer later = harness.run(PlanPacket());
    for (const StepAnswer* answer : {&failed, &later}) {
      EXPECT_TRUE(answer->status.code() == (throws ? ErrorCode::kInternal : ErrorCode::kDevice));
      EXPECT_TRUE(answer->status.message().find("bus on fire") != std::string::npos);
      EXPECT_TRUE(answer->words.empty());
    }
  }
}

LH_TEST(every_plan_is_answered_once_when_the_engine_goes) {
  const TinyModel model = tiny_model("llama");
  Harness harness(model);
  std::promise<void> running, release;
  std::shared_future<void> released = release.get_future().share();
  std::atomic<bool> first{true};
  harness.before_each_op([&](const char*) -> Status {
    if (first.exchange(false)) {
      running.set_value();
      released.wait();
    }
    return {};
  });
  PlanPacket packet;
  harness.open(packet, 0, 1, greedy(4), 32);
  packet.row(0, 1, 0, {1, 2, 3, 4}, kFlagSample);
  std::vector<std::future<StepAnswer>> answers;
  answers.push_back(harness.submit(packet));
  for (int i = 0; i < 3; ++i) answers.push_back(harness.submit(PlanPacket()));
  running.get_future().wait();
  std::thread destroyer([&] { harness.destroy(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the destructor has begun
  release.set_value();
  destroyer.join();
  EXPECT_TRUE(answers[0].get().status.ok());  // the running step was finished
  for (size_t i = 1; i < answers.size(); ++i) {
    EXPECT_TRUE(answers[i].get().status.code() == ErrorCode::kAborted);
  }
}

LH_TEST(the_pool_is_sized_in_blocks_or_refused) {
  const TinyModel model = tiny_model("gemma3");
  EngineOptions options = tiny_options();
  Harness harness(model, options);
  const EngineInfo& info = harness.engine().info();
  // 32 tokens, K and V, 2 kv heads of 32, 2 bytes, one layer a block.
  EXPECT_EQ(info.block_bytes, int64_t{32 * 2 * 2 * 32 * 2});
  EXPECT_EQ(info.num_blocks, (8 << 20) / 8192);
  EXPECT_TRUE((info.group_windows == std::vector<int32_t>{0, 40, 40, 40}));
  EXPECT_EQ(info.max_model_len, 2048);
  EXPECT_EQ(info.vocab_size, 131);
  EXPECT_EQ(info.num_layers, 4);
  EXPECT_EQ(info.kv_dtype, std::string("f16"));
  EXPECT_TRUE(info.weight_bytes > 0);
  const auto message_of = [&](const EngineOptions& wrong) {
    const auto engine = Engine::create(model.config, model.weights, nullptr, wrong);
    EXPECT_TRUE(!engine.ok());
    return engine.status().message();
  };
  options.kv_memory_bytes = 4 * 8192 - 1;
  EXPECT_EQ(message_of(options),
            std::string("KV memory of 32767 bytes holds 3 blocks of 8192 bytes; one sequence needs at "
                        "least 4 blocks (32768 bytes)"));
  options = tiny_options();
  options.kv_memory_bytes = 0;  // left to the backend, whose memory is the host's
  EXPECT_TRUE(message_of(options).find("KV memory of 0 bytes") != std::string::npos);
  options.kv_memory_default_bytes = 4 * 8192;
  EXPECT_EQ(Harness(model, options).engine().info().num_blocks, 4);
  options = tiny_options();
  options.kv_dtype = KvDType::kFp8;
  EXPECT_EQ(message_of(options),
            std::string("--kv-dtype fp8: the cpu backend keeps f16, bf16 or q8; fp8 needs --backend cuda"));
  options = tiny_options();
  options.block_size = 48;
  EXPECT_TRUE(message_of(options).find("block_size") != std::string::npos);
  options = tiny_options();
  options.max_num_seqs = 0;
  EXPECT_TRUE(message_of(options).find("max_num_seqs") != std::string::npos);
  options = tiny_options();
  options.backend = "abacus";
  EXPECT_TRUE(message_of(options).find("abacus") != std::string::npos);
}

LH_TEST(weights_are_let_go_after_loading) {
  TinyModel model = tiny_model("llama");
  const std::vector<int32_t> prompt = make_prompt(20, 5, model.config.vocab_size);
  const Generated expected = alone(model, prompt, greedy(20));
  auto backend = make_cpu_backend({.threads = 1, .isa_limit = ""});
  std::shared_ptr<void> keep_alive = std::move(model.owner);
  const std::weak_ptr<void> watch = keep_alive;
  auto engine = create_engine(model.config, model.weights, std::move(keep_alive), tiny_options(),
                              std::move(backend.value()));
  EXPECT_TRUE(engine.ok());
  EXPECT_TRUE(watch.expired());
  PlanPacket packet;
  packet.open(0, 1, greedy(20)).append(0, 0, {0}).row(0, 1, 0, prompt, kFlagSample);
  std::promise<std::vector<int32_t>> promise;
  engine.value()->submit(packet.words(), [&](const Status&, std::vector<int32_t> words) {
    promise.set_value(std::move(words));
  });
  const std::vector<ResultRecord> records = read_result(promise.get_future().get());
  EXPECT_TRUE(records.size() == 1 && same_bits(records[0].sampled, {expected.tokens[0]}));
}

LH_TEST_MAIN
