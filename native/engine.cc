// The engine thread and its queue. Plans go through StepRunner in order; everything the runner
// touches belongs to that thread. On an asynchronous backend the thread starts a plan while the one
// before it runs, so that the device goes from one to the next without a gap. The catch-all below
// is the only one: what escapes a step becomes kInternal and ends the engine's use.
#include "engine.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "abort_list.h"
#include "backend/make_backend.h"
#include "engine_core.h"
#include "model/model_matrices.h"
#include "step_runner.h"

namespace longhaul {
namespace {

// Logits of a step are held in slabs: prompt log-probabilities of a long chunk would need a row of
// vocab_size floats a token otherwise (2,048 * 262,144 * 4 bytes = 2 GiB).
constexpr int64_t kLogitsBytesMax = int64_t{64} << 20;
constexpr int64_t kLogitsRowsMax = 256;
constexpr int64_t kLogitsRowsMin = 16;
// Scratch of attention partials; 32 MiB hold about 2,000 of a model with 32 heads of 128.
constexpr int64_t kPartialBytesMax = int64_t{32} << 20;
constexpr int64_t kPartialsMin = 64;
// How long the thread sleeps between looks at a running step while the next plan may come: a part
// of how long it has run, so that neither short steps wait nor long ones cost wake-ups.
constexpr int64_t kPollShare = 16;
constexpr std::chrono::microseconds kPollMin{20};
constexpr std::chrono::microseconds kPollMax{1000};

Status check_option(const char* name, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return {};
  return error(ErrorCode::kInvalidRequest, "engine option %s: expected %lld to %lld, found %lld",
               name, static_cast<long long>(min), static_cast<long long>(max),
               static_cast<long long>(value));
}

Status check_options(const EngineOptions& options) {
  LH_TRY(check_option("threads", options.threads, 0, 1024));
  LH_TRY(check_option("block_size", options.block_size, 32, kSliceTokens));
  if (options.block_size % 32 != 0 || kSliceTokens % options.block_size != 0) {
    return error(ErrorCode::kInvalidRequest,
                 "engine option block_size: expected a multiple of 32 that divides %d, found %d",
                 kSliceTokens, options.block_size);
  }
  LH_TRY(check_option("max_num_seqs", options.max_num_seqs, 1, 65536));
  LH_TRY(check_option("max_num_batched_tokens", options.max_num_batched_tokens, 1, 1 << 20));
  LH_TRY(check_option("max_model_len", options.max_model_len, 0, int64_t{1} << 30));
  return {};
}

Result<int32_t> num_blocks_for(int64_t kv_memory_bytes, const KvLayout& layout,
                               size_t num_groups) {
  const int64_t block_bytes = layout.block_bytes();
  const int64_t num_blocks = kv_memory_bytes / block_bytes;
  if (kv_memory_bytes <= 0 || num_blocks < static_cast<int64_t>(num_groups)) {
    return error(ErrorCode::kInvalidRequest,
                 "KV memory of %lld bytes holds %lld blocks of %lld bytes; one sequence needs at "
                 "least %zu blocks (%lld bytes)",
                 static_cast<long long>(kv_memory_bytes),
                 static_cast<long long>(std::max<int64_t>(0, num_blocks)),
                 static_cast<long long>(block_bytes), num_groups,
                 static_cast<long long>(block_bytes * static_cast<int64_t>(num_groups)));
  }
  return static_cast<int32_t>(std::min<int64_t>(num_blocks, INT32_MAX));
}

class EngineImpl final : public Engine {
 public:
  EngineImpl() = default;
  ~EngineImpl() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  Status start(const ModelConfig& config, const WeightSet& weights, const EngineOptions& options,
               std::unique_ptr<Backend> backend);
  void set_backend_reason(const std::string& reason) { info_.backend_reason = reason; }
  const EngineInfo& info() const override { return info_; }

  void submit(std::vector<int32_t> plan, Done done) override {
    {
      const std::lock_guard lock(mutex_);
      queue_.push_back({std::move(plan), std::move(done)});
    }
    wake_.notify_one();
  }

  void abort(int32_t slot, int32_t sequence_id) override { aborts_.add(slot, sequence_id); }

 private:
  struct Job {
    std::vector<int32_t> plan;
    Done done;
  };

  // A plan that was taken from the queue and not answered yet.
  struct Taken {
    Done done;
    Status status;  // of the start; when ok, the runner has the step
  };

  void loop();
  void drop_queue(std::unique_lock<std::mutex>& lock);
  void take(std::unique_lock<std::mutex>& lock);
  void answer(std::unique_lock<std::mutex>& lock);
  bool oldest_is_done(std::unique_lock<std::mutex>& lock);
  std::chrono::microseconds poll_interval() const;
  // Runs one half of a step; what it throws becomes a status. A fatal one is what all later plans fail
  // with.
  template <typename Half>
  Status guarded(const Half& half);
  void set_info(const EngineOptions& options, const KvLayout& layout, int32_t num_blocks,
                const ModelConfig& config, const std::vector<int32_t>& windows);

  EngineInfo info_;
  AbortList aborts_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
  std::unique_ptr<StepRunner> runner_;
  Status failure_;           // engine thread: what every later plan fails with
  std::deque<Taken> taken_;  // engine thread: oldest first
  size_t taken_max_ = 1;     // 1 on a synchronous backend
  std::chrono::steady_clock::time_point waiting_since_;  // engine thread: for the oldest one taken

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;   // under mutex_
  bool stopping_ = false;   // under mutex_
  std::thread thread_;
};

Status EngineImpl::start(const ModelConfig& config, const WeightSet& weights,
                         const EngineOptions& options, std::unique_ptr<Backend> backend) {
  LH_TRY(validate(config));
  LH_TRY(check_options(options));
  backend_ = std::move(backend);
  const KvGroups groups = plan_kv_groups(config);
  std::vector<int32_t> windows;
  for (const KvGroup& group : groups.groups) windows.push_back(group.window);
  KvLayout layout;
  layout.dtype = options.kv_dtype;
  layout.block_size = options.block_size;
  layout.num_kv_heads = config.num_kv_heads;
  layout.head_dim = config.head_dim;
  layout.layers_per_block = groups.layers_per_block;
  const int32_t max_position =
      options.max_model_len > 0 ? options.max_model_len : config.max_position;
  const int64_t logits_rows = std::clamp(kLogitsBytesMax / (int64_t{config.vocab_size} * 4),
                                         kLogitsRowsMin, kLogitsRowsMax);
  Decoder::Options decoder;
  decoder.num_tokens_max = options.max_num_batched_tokens;
  decoder.num_logits_max = static_cast<int32_t>(
      std::min<int64_t>(logits_rows, options.max_num_batched_tokens));
  decoder.max_position = max_position;

  ModelNeeds needs;
  needs.config = &config;
  LH_ASSIGN_OR_RETURN(needs.matrices, matrix_needs(config, weights));
  needs.layout = layout;
  needs.group_windows = windows;
  needs.num_tokens_max = decoder.num_tokens_max;
  needs.num_logits_max = decoder.num_logits_max;
  needs.num_slots = options.max_num_seqs;
  needs.max_position = max_position;
  needs.kv_memory_bytes = options.kv_memory_bytes;
  needs.kv_memory_default_bytes = options.kv_memory_default_bytes;
  LH_ASSIGN_OR_RETURN(const int64_t kv_memory_bytes, backend_->prepare(needs));
  LH_ASSIGN_OR_RETURN(const int32_t num_blocks,
                      num_blocks_for(kv_memory_bytes, layout, windows.size()));
  LH_ASSIGN_OR_RETURN(decoder_, Decoder::create(config, groups, weights, *backend_, decoder));

  StepBatch::Options batch;
  batch.group_windows = windows;
  batch.block_size = options.block_size;
  batch.attention.num_kv_heads = config.num_kv_heads;
  batch.attention.parallelism = backend_->info().parallelism;
  batch.plans_attention = !backend_->info().plans_attention;
  const int64_t partial_bytes = int64_t{config.num_heads} * (config.head_dim + 2) * 4;
  batch.attention.max_partials =
      static_cast<int32_t>(std::max(kPartialsMin, kPartialBytesMax / partial_bytes));
  LH_TRY(backend_->create_kv_pool(layout, num_blocks, options.max_num_seqs, config.num_heads,
                                  batch.attention.max_partials));

  PlanLimits limits;
  limits.num_slots = options.max_num_seqs;
  limits.num_groups = static_cast<int32_t>(windows.size());
  limits.num_blocks = num_blocks;
  limits.vocab_size = config.vocab_size;
  limits.max_tokens = options.max_num_batched_tokens;
  limits.max_position = max_position;
  // HTTP has its own, small limit; bench/accuracy.ts asks for the whole distribution.
  limits.max_logprobs = config.vocab_size;
  taken_max_ = backend_->info().asynchronous ? kStepsInFlight : 1;
  runner_ = std::make_unique<StepRunner>(*backend_, *decoder_, aborts_, limits, batch);
  set_info(options, layout, num_blocks, config, windows);
  info_.max_model_len = max_position;
  thread_ = std::thread([this] { loop(); });
  return {};
}

void EngineImpl::set_info(const EngineOptions& options, const KvLayout& layout, int32_t num_blocks,
                          const ModelConfig& config, const std::vector<int32_t>& windows) {
  const BackendInfo backend = backend_->info();
  info_.backend = backend.name;
  info_.isa = backend.isa;
  info_.device = backend.device;
  info_.threads = backend.parallelism;
  info_.kv_dtype = kv_dtype_name(options.kv_dtype);
  info_.block_size = layout.block_size;
  info_.block_bytes = layout.block_bytes();
  info_.num_blocks = num_blocks;
  info_.max_num_seqs = options.max_num_seqs;
  info_.max_num_batched_tokens = options.max_num_batched_tokens;
  info_.vocab_size = config.vocab_size;
  info_.num_layers = config.num_layers();
  info_.weight_bytes = decoder_->weight_bytes();
  info_.group_windows = windows;
}

void EngineImpl::loop() {
  std::unique_lock lock(mutex_);
  const auto plan_or_end = [this] { return stopping_ || !queue_.empty(); };
  for (;;) {
    const bool may_take = !stopping_ && taken_.size() < taken_max_;
    if (may_take && !queue_.empty()) {
      take(lock);
    } else if (taken_.empty()) {
      if (stopping_) return drop_queue(lock);
      wake_.wait(lock, plan_or_end);
    } else if (may_take && !oldest_is_done(lock)) {
      // A plan that comes while the step runs is started at once.
      wake_.wait_for(lock, poll_interval(), plan_or_end);
    } else {
      answer(lock);
    }
  }
}

std::chrono::microseconds EngineImpl::poll_interval() const {
  const auto waited = std::chrono::steady_clock::now() - waiting_since_;
  const auto share = std::chrono::duration_cast<std::chrono::microseconds>(waited / kPollShare);
  return std::clamp(share, kPollMin, kPollMax);
}

void EngineImpl::drop_queue(std::unique_lock<std::mutex>& lock) {
  while (!queue_.empty()) {
    const Job job = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    job.done(Status(ErrorCode::kAborted, "the engine is shutting down"), {});
    lock.lock();
  }
}

void EngineImpl::take(std::unique_lock<std::mutex>& lock) {
  Job job = std::move(queue_.front());
  queue_.pop_front();
  lock.unlock();
  if (taken_.empty()) waiting_since_ = std::chrono::steady_clock::now();
  Taken taken;
  taken.done = std::move(job.done);
  taken.status = failure_;
  if (failure_.ok()) {
    taken.status = guarded([&](bool* fatal) { return runner_->start(job.plan, fatal); });
  }
  taken_.push_back(std::move(taken));
  lock.lock();
}

bool EngineImpl::oldest_is_done(std::unique_lock<std::mutex>& lock) {
  if (!taken_.front().status.ok()) return true;
  lock.unlock();
  const Result<bool> done = runner_->is_done();
  lock.lock();
  return !done.ok() || done.value();  // what is wrong, finish() will say
}

void EngineImpl::answer(std::unique_lock<std::mutex>& lock) {
  Taken taken = std::move(taken_.front());
  taken_.pop_front();
  lock.unlock();
  std::vector<int32_t> result;
  if (taken.status.ok()) {
    taken.status = guarded([&](bool* fatal) {
      *fatal = true;
      return runner_->finish(&result);
    });
    // What was started behind a step that failed fails with it.
    for (Taken& later : taken_) {
      if (later.status.ok()) later.status = taken.status;
    }
  }
  waiting_since_ = std::chrono::steady_clock::now();
  if (!taken.status.ok()) result.clear();
  taken.done(taken.status, std::move(result));
  lock.lock();
}

template <typename Half>
Status EngineImpl::guarded(const Half& half) {
  Status status;
  bool fatal = false;
  try {
    status = half(&fatal);
  } catch (const std::exception& exception) {
    fatal = true;
    status = error(ErrorCode::kInternal, "step failed: %s", exception.what());
  } catch (...) {
    fatal = true;
    status = error(ErrorCode::kInternal, "step failed: unknown exception");
  }
  if (!status.ok() && fatal && failure_.ok()) failure_ = status;
  return status;
}

}  // namespace

Result<std::unique_ptr<Engine>> create_engine(const ModelConfig& config, const WeightSet& weights,
                                              std::shared_ptr<void> keep_alive,
                                              const EngineOptions& options,
                                              std::unique_ptr<Backend> backend,
                                              const std::string& backend_reason) {
  try {
    auto engine = std::make_unique<EngineImpl>();
    LH_TRY(engine->start(config, weights, options, std::move(backend)));
    engine->set_backend_reason(backend_reason);
    // Every weight has its resident copy in the backend: files may be unmapped.
    keep_alive.reset();
    return std::unique_ptr<Engine>(std::move(engine));
  } catch (const std::bad_alloc&) {
    return error(ErrorCode::kOutOfMemory, "out of memory while loading the model");
  } catch (const std::exception& exception) {
    return error(ErrorCode::kInternal, "loading the model failed: %s", exception.what());
  }
}

Result<std::unique_ptr<Engine>> Engine::create(const ModelConfig& config, const WeightSet& weights,
                                               std::shared_ptr<void> keep_alive,
                                               const EngineOptions& options) {
  LH_TRY(validate(config));
  LH_TRY(check_options(options));
  BackendChoice choice;
  choice.name = options.backend;
  choice.threads = options.threads;
  choice.isa_limit = options.isa_limit;
  LH_ASSIGN_OR_RETURN(ChosenBackend chosen, make_backend(choice));
  return create_engine(config, weights, std::move(keep_alive), options, std::move(chosen.backend),
                       chosen.reason);
}

}  // namespace longhaul
