// The engine over an asynchronous backend: steps are started ahead, and nothing a client can see
// changes by it but the time.
#include <atomic>
#include <thread>

#include "engine_harness.h"
#include "late_backend.h"
#include "test.h"

using namespace longhaul;
using namespace lh_test;

namespace {

struct LateEngine {
  explicit LateEngine(const TinyModel& model, std::shared_ptr<LateControl> shared =
                                                  std::make_shared<LateControl>())
      : control(std::move(shared)), harness(model, tiny_options(), make_backend()) {}

  std::unique_ptr<Backend> make_backend() const {
    auto inner = make_cpu_backend({.threads = 1, .isa_limit = ""});
    return std::make_unique<LateBackend>(std::move(inner.value()), control);
  }

  std::shared_ptr<LateControl> control;
  Harness harness;
};

// Holds the engine thread in the first call of wait() until open(): plans submitted meanwhile are
// all in the queue when it goes on.
class Gate {
 public:
  void open() { opened_.set_value(); }
  void wait() {
    if (!first_.exchange(false)) return;
    reached_.set_value();
    future_.wait();
  }
  void until_reached() { reached_.get_future().wait(); }

 private:
  std::promise<void> opened_, reached_;
  std::shared_future<void> future_ = opened_.get_future().share();
  std::atomic<bool> first_{true};
};

SamplingParams drawing(int32_t num_prompt_tokens, bool penalties) {
  SamplingParams sampling = greedy(num_prompt_tokens);
  sampling.temperature = 0.9f;
  sampling.seed = 17;
  if (penalties) {
    sampling.frequency_penalty = 1.5f;
    sampling.repetition_penalty = 1.3f;
  }
  return sampling;
}

std::vector<PlanPacket> plans_of_two(Harness& harness, bool penalties, int32_t count) {
  const std::vector<int32_t> a = make_prompt(21, 1, 131), b = make_prompt(40, 2, 131);
  std::vector<PlanPacket> plans;
  for (int32_t step = 0; step < count; ++step) {
    PlanPacket packet(step);
    if (step == 0) {
      harness.open(packet, 0, 1, drawing(21, penalties), 21 + count, penalties ? a : std::vector<int32_t>{});
      harness.open(packet, 1, 2, drawing(40, false), 40 + count);
      packet.row(0, 1, 0, a, kFlagSample | kFlagPromptLogprobs).row(1, 2, 0, b, kFlagSample);
    } else {
      packet.row(0, 1, 20 + step, {kTokenFromSlot}, kFlagSample);
      packet.row(1, 2, 39 + step, {kTokenFromSlot}, kFlagSample);
    }
    plans.push_back(packet);
  }
  return plans;
}

std::vector<StepAnswer> run_all(Harness& harness, const std::vector<PlanPacket>& plans) {
  std::vector<std::future<StepAnswer>> futures;
  for (const PlanPacket& plan : plans) futures.push_back(harness.submit(plan));
  std::vector<StepAnswer> answers;
  for (auto& future : futures) answers.push_back(future.get());
  return answers;
}

// All but the times.
std::vector<int32_t> without_times(std::vector<int32_t> words) {
  if (words.size() >= kResultHeaderWords) {
    words[kResultElapsedMicros] = 0;
    words[kResultAttentionMicros] = 0;
  }
  return words;
}

int32_t status_of(const StepAnswer& answer, size_t record) {
  return answer.records.size() > record ? answer.records[record].status : -1;
}

}  // namespace

LH_TEST(steps_started_ahead_give_the_same_results) {
  for (const char* family : {"llama", "gemma3"}) {
    const TinyModel model = tiny_model(family);
    for (const bool penalties : {false, true}) {
      Harness plain(model);
      const std::vector<StepAnswer> expected = run_all(plain, plans_of_two(plain, penalties, 8));
      // The answer to the first plan waits in the gate, so that the others are there in time.
      auto gate = std::make_shared<Gate>();
      auto control = std::make_shared<LateControl>();
      control->queueing = [gate](const char*) {
        gate->wait();
        return Status();
      };
      LateEngine late(model, control);
      std::vector<std::future<StepAnswer>> futures;
      for (const PlanPacket& plan : plans_of_two(late.harness, penalties, 8)) {
        futures.push_back(late.harness.submit(plan));
      }
      gate->open();
      for (size_t i = 0; i < futures.size(); ++i) {
        const StepAnswer answer = futures[i].get();
        EXPECT_EQ(answer.status.message(), std::string());
        EXPECT_TRUE(without_times(answer.words) == without_times(expected[i].words));
      }
      // Penalties need the count of the token before: that step was waited for first.
      EXPECT_EQ(control->most_in_flight.load(), penalties ? 1 : 2);
      EXPECT_EQ(control->num_waited.load(), 8);
    }
  }
}

LH_TEST(a_plan_that_comes_while_a_step_runs_is_started_at_once) {
  const TinyModel model = tiny_model("llama");
  auto control = std::make_shared<LateControl>();
  std::atomic<bool> first_may_end{false};
  control->is_done = [&](StepTicket ticket) { return ticket > 0 || first_may_end; };
  LateEngine late(model, control);
  const std::vector<PlanPacket> plans = plans_of_two(late.harness, false, 2);
  std::future<StepAnswer> first = late.harness.submit(plans[0]);
  while (control->num_ended == 0) std::this_thread::yield();
  std::future<StepAnswer> second = late.harness.submit(plans[1]);
  while (control->num_ended == 1) std::this_thread::yield();
  // Both are queued; two in flight is the limit, so the first is waited for without asking.
  EXPECT_TRUE(first.get().status.ok());
  EXPECT_TRUE(second.get().status.ok());
  first_may_end = true;
}

LH_TEST(a_step_alone_is_answered_when_it_is_done) {
  const TinyModel model = tiny_model("llama");
  auto control = std::make_shared<LateControl>();
  std::atomic<int> asked{0};
  control->is_done = [&](StepTicket) { return ++asked >= 5; };
  LateEngine late(model, control);
  const StepAnswer answer = late.harness.run(plans_of_two(late.harness, false, 1)[0]);
  EXPECT_EQ(answer.status.message(), std::string());
  EXPECT_EQ(asked.load(), 5);
  EXPECT_EQ(control->num_waited.load(), 1);
}

LH_TEST(a_wrong_plan_between_steps_in_flight_fails_alone_and_in_order) {
  const TinyModel model = tiny_model("llama");
  auto gate = std::make_shared<Gate>();
  auto control = std::make_shared<LateControl>();
  control->queueing = [gate](const char*) {
    gate->wait();
    return Status();
  };
  LateEngine late(model, control);
  const std::vector<PlanPacket> plans = plans_of_two(late.harness, false, 3);
  std::vector<std::string> order;
  std::vector<std::future<void>> answered;
  const auto submit = [&](const PlanPacket& plan, const std::string& name) {
    auto promise = std::make_shared<std::promise<void>>();
    answered.push_back(promise->get_future());
    late.harness.engine().submit(plan.words(), [&, promise, name](const Status& status, std::vector<int32_t>) {
      order.push_back(name + (status.ok() ? " ok" : " " + std::string(error_code_name(status.code()))));
      promise->set_value();
    });
  };
  submit(plans[0], "first");
  submit(PlanPacket().row(0, 99, 21, {1}, kFlagSample), "wrong");
  submit(plans[1], "second");
  submit(PlanPacket().close(1).row(1, 2, 41, {1}, kFlagSample), "closing");
  submit(plans[2], "third");
  gate->open();
  for (auto& one : answered) one.wait();
  EXPECT_TRUE((order == std::vector<std::string>{"first ok", "wrong ERR_INVALID_REQUEST", "second ok",
                                                 "closing ERR_INVALID_REQUEST", "third ok"}));
}

LH_TEST(a_failure_ends_what_is_in_flight_behind_it) {
  const TinyModel model = tiny_model("llama");
  for (const bool throws : {false, true}) {
    auto gate = std::make_shared<Gate>();
    auto control = std::make_shared<LateControl>();
    control->queueing = [gate](const char*) {
      gate->wait();
      return Status();
    };
    control->waiting = [throws](StepTicket ticket) -> Status {
      if (ticket != 1) return {};
      if (throws) throw std::runtime_error("fell off the bus");
      return error(ErrorCode::kDevice, "fell off the bus");
    };
    LateEngine late(model, control);
    std::vector<std::future<StepAnswer>> futures;
    for (const PlanPacket& plan : plans_of_two(late.harness, false, 4)) {
      futures.push_back(late.harness.submit(plan));
    }
    gate->open();
    EXPECT_TRUE(futures[0].get().status.ok());
    for (size_t i = 1; i < futures.size(); ++i) {
      const StepAnswer answer = futures[i].get();
      EXPECT_TRUE(answer.status.code() == (throws ? ErrorCode::kInternal : ErrorCode::kDevice));
      EXPECT_TRUE(answer.status.message().find("fell off the bus") != std::string::npos);
      EXPECT_TRUE(answer.words.empty());
    }
    // Step 2 was queued when step 1 failed, step 3 was not; neither was waited for.
    EXPECT_EQ(control->num_ended.load(), 3);
    EXPECT_EQ(control->num_waited.load(), 2);
    EXPECT_TRUE(late.harness.run(PlanPacket()).status.code() != ErrorCode::kOk);
  }
}

LH_TEST(a_step_that_cannot_be_queued_leaves_the_one_before_it_its_result) {
  const TinyModel model = tiny_model("llama");
  auto gate = std::make_shared<Gate>();
  auto control = std::make_shared<LateControl>();
  auto num_forwards = std::make_shared<int>(0);
  control->queueing = [gate, num_forwards](const char* op) -> Status {
    gate->wait();
    if (std::string(op) == "begin_forward") ++*num_forwards;
    if (std::string(op) == "attention" && *num_forwards == 2) {
      return error(ErrorCode::kDevice, "launch refused");
    }
    return {};
  };
  LateEngine late(model, control);
  std::vector<std::future<StepAnswer>> futures;
  for (const PlanPacket& plan : plans_of_two(late.harness, false, 3)) {
    futures.push_back(late.harness.submit(plan));
  }
  gate->open();
  const StepAnswer first = futures[0].get();
  EXPECT_EQ(first.status.message(), std::string());
  EXPECT_EQ(first.records.size(), size_t{2});
  for (size_t i = 1; i < futures.size(); ++i) {
    EXPECT_TRUE(futures[i].get().status.code() == ErrorCode::kDevice);
  }
  EXPECT_EQ(*num_forwards, 2);
}

LH_TEST(a_failure_found_out_by_the_next_plan_belongs_to_its_own_step) {
  // With penalties the second plan waits for the first, which fails then.
  const TinyModel model = tiny_model("llama");
  auto gate = std::make_shared<Gate>();
  auto control = std::make_shared<LateControl>();
  control->queueing = [gate](const char*) {
    gate->wait();
    return Status();
  };
  control->waiting = [](StepTicket) { return error(ErrorCode::kDevice, "fell off the bus"); };
  LateEngine late(model, control);
  std::vector<std::future<StepAnswer>> futures;
  for (const PlanPacket& plan : plans_of_two(late.harness, true, 3)) {
    futures.push_back(late.harness.submit(plan));
  }
  gate->open();
  for (auto& future : futures) {
    const StepAnswer answer = future.get();
    EXPECT_TRUE(answer.status.code() == ErrorCode::kDevice);
    EXPECT_EQ(answer.status.message(), std::string("fell off the bus"));
  }
  EXPECT_EQ(control->num_waited.load(), 1);
}

LH_TEST(aborted_sequences_are_left_out_of_steps_not_started) {
  const TinyModel model = tiny_model("llama");
  Harness plain(model);
  const std::vector<StepAnswer> expected = run_all(plain, plans_of_two(plain, false, 3));
  auto control = std::make_shared<LateControl>();
  Engine* engine = nullptr;
  control->waiting = [&](StepTicket ticket) {
    if (ticket == 0) engine->abort(0, 1);   // the first step is on the device, the third is not
    return Status();
  };
  auto gate = std::make_shared<Gate>();
  control->queueing = [gate](const char*) {
    gate->wait();
    return Status();
  };
  LateEngine late(model, control);
  engine = &late.harness.engine();
  std::vector<std::future<StepAnswer>> futures;
  for (const PlanPacket& plan : plans_of_two(late.harness, false, 3)) {
    futures.push_back(late.harness.submit(plan));
  }
  gate->open();
  std::vector<StepAnswer> answers;
  for (auto& future : futures) answers.push_back(future.get());
  EXPECT_EQ(status_of(answers[0], 0), static_cast<int32_t>(kRecordOk));
  EXPECT_EQ(status_of(answers[1], 0), static_cast<int32_t>(kRecordOk));  // queued before
  EXPECT_EQ(status_of(answers[2], 0), static_cast<int32_t>(kRecordAborted));
  EXPECT_EQ(answers[2].words[kResultNumTokens], 1);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(status_of(answers[i], 1), static_cast<int32_t>(kRecordOk));
    EXPECT_TRUE(same_bits(answers[i].records[1].sampled, expected[i].records[1].sampled));
  }
}

LH_TEST(nan_is_told_by_every_step_in_flight) {
  TinyModel model = tiny_model("llama");
  TensorView embedding = *model.weights.find("token_embedding");
  std::byte* row = const_cast<std::byte*>(embedding.data) + 3 * row_bytes(embedding.dtype, embedding.cols);
  std::memset(row, 0xff, static_cast<size_t>(row_bytes(embedding.dtype, embedding.cols)));
  model.config.tied_embeddings = false;
  std::vector<float> head(static_cast<size_t>(embedding.rows * embedding.cols), 0.01f);
  model.weights.add({"lm_head", DType::kF32, embedding.rows, embedding.cols,
                     reinterpret_cast<const std::byte*>(head.data())});
  auto gate = std::make_shared<Gate>();
  auto control = std::make_shared<LateControl>();
  control->queueing = [gate](const char*) {
    gate->wait();
    return Status();
  };
  LateEngine late(model, control);
  std::vector<std::future<StepAnswer>> futures;
  PlanPacket first;
  late.harness.open(first, 0, 1, greedy(4), 32);
  late.harness.open(first, 1, 2, greedy(4), 32);
  first.row(0, 1, 0, {1, 2, 3, 4}, kFlagSample).row(1, 2, 0, {1, 2, 4, 4}, kFlagSample);
  futures.push_back(late.harness.submit(first));
  for (int32_t i = 0; i < 2; ++i) {
    futures.push_back(late.harness.submit(PlanPacket()
                                              .row(0, 1, 4 + i, {kTokenFromSlot}, kFlagSample)
                                              .row(1, 2, 4 + i, {kTokenFromSlot}, kFlagSample)));
  }
  gate->open();
  for (auto& future : futures) {
    const StepAnswer answer = future.get();
    EXPECT_EQ(answer.status.message(), std::string());
    EXPECT_EQ(status_of(answer, 0), static_cast<int32_t>(kRecordNotFinite));
    EXPECT_EQ(status_of(answer, 1), static_cast<int32_t>(kRecordOk));
  }
  EXPECT_EQ(control->most_in_flight.load(), 2);
}

LH_TEST(a_slot_can_change_hands_while_its_last_step_runs) {
  const TinyModel model = tiny_model("llama");
  const std::vector<int32_t> old_prompt = make_prompt(30, 5, 131), new_prompt = make_prompt(25, 6, 131);
  SamplingParams sampling = greedy(25);
  sampling.presence_penalty = 2;
  Harness plain(model);
  const Generated expected = generate(plain, 0, 8, sampling, new_prompt, 4, {600}, false);

  auto gate = std::make_shared<Gate>();
  auto control = std::make_shared<LateControl>();
  control->queueing = [gate](const char*) {
    gate->wait();
    return Status();
  };
  LateEngine late(model, control);
  SamplingParams old_sampling = sampling;
  old_sampling.num_prompt_tokens = 30;
  PlanPacket first, second;
  late.harness.open(first, 0, 8, old_sampling, 40);
  first.row(0, 8, 0, old_prompt, kFlagSample);
  second.close(0);
  late.harness.open(second, 0, 8, sampling, 40);   // even the id may be the same
  second.row(0, 8, 0, {new_prompt.begin(), new_prompt.begin() + 20});
  std::vector<std::future<StepAnswer>> futures;
  futures.push_back(late.harness.submit(first));
  futures.push_back(late.harness.submit(second));
  futures.push_back(late.harness.submit(
      PlanPacket().row(0, 8, 20, {new_prompt.begin() + 20, new_prompt.end()}, kFlagSample)));
  for (int32_t i = 0; i < 3; ++i) {
    futures.push_back(late.harness.submit(PlanPacket().row(0, 8, 25 + i, {kTokenFromSlot}, kFlagSample)));
  }
  gate->open();
  std::vector<ResultToken> tokens;
  for (size_t i = 0; i < futures.size(); ++i) {
    const StepAnswer answer = futures[i].get();
    EXPECT_EQ(answer.status.message(), std::string());
    if (i >= 2 && answer.records.size() == 1) tokens.push_back(answer.records[0].sampled.at(0));
  }
  // The first sequence's token, settled after the slot was opened again, is none of the second's.
  EXPECT_TRUE(same_bits(tokens, expected.tokens));
  EXPECT_EQ(control->most_in_flight.load(), 2);
}

LH_TEST(the_end_of_the_engine_finishes_what_was_started) {
  const TinyModel model = tiny_model("llama");
  auto control = std::make_shared<LateControl>();
  Gate gate;
  control->waiting = [&](StepTicket) {
    gate.wait();
    return Status();
  };
  LateEngine late(model, control);
  std::vector<std::future<StepAnswer>> futures;
  for (const PlanPacket& plan : plans_of_two(late.harness, false, 5)) {
    futures.push_back(late.harness.submit(plan));
  }
  gate.until_reached();
  std::thread destroyer([&] { late.harness.destroy(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the destructor has begun
  gate.open();
  destroyer.join();
  const int64_t started = control->num_ended;
  EXPECT_EQ(control->num_waited.load(), started);
  for (size_t i = 0; i < futures.size(); ++i) {
    const StepAnswer answer = futures[i].get();
    EXPECT_TRUE(answer.status.code() ==
                (static_cast<int64_t>(i) < started ? ErrorCode::kOk : ErrorCode::kAborted));
  }
}

LH_TEST_MAIN
