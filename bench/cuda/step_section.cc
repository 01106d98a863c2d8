// Whole steps: the backend over a device runtime of its own, the decoder, two steps in flight as in
// the engine. Time is from one step's end to the next.
#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/cuda_backend.h"
#include "kv/kv_layout.h"
#include "model/decoder.h"
#include "model/model_matrices.h"
#include "model/step_batch.h"
#include "sections.h"
#include "step_model.h"

namespace longhaul::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int32_t kTokenOfSlot = -1;
constexpr int kStepsMax = 200;
constexpr int kStepsMin = 12;
constexpr double kStepsSeconds = 0.8;
// Steps queued kernel by kernel, then recorded; the first replay uploads the graph.
constexpr int kWarmUpSteps = 5;

struct ModelCase {
  const char* config;
  DType dtype;
  KvDType kv_dtype;
  std::vector<int32_t> batches;
  int32_t context;        // tokens a sequence attends to
  int32_t prefill;        // rows of the prefill step
  double batch_1_target = 0;
  double batch_64_target = 0;

  std::string name() const {
    return std::string(config) + " " + dtype_info(dtype).name + " K/V " + kv_dtype_name(kv_dtype);
  }
};

class NoAborts final : public AbortWatch {
 public:
  bool changed() override { return false; }
  bool is_aborted(int32_t, int32_t) const override { return false; }
};

class StepBench {
 public:
  explicit StepBench(const ModelCase& model_case) : case_(model_case) {
    sampling_.temperature = 0;
  }

  Status set_up() {
    LH_ASSIGN_OR_RETURN(model_, make_step_model(step_config(case_.config), case_.dtype));
    const ModelConfig& config = model_->config;
    const KvGroups groups = plan_kv_groups(config);
    layout_.dtype = case_.kv_dtype;
    layout_.num_kv_heads = config.num_kv_heads;
    layout_.head_dim = config.head_dim;
    layout_.layers_per_block = groups.layers_per_block;
    blocks_each_ = (case_.context + layout_.block_size - 1) / layout_.block_size;
    const int32_t sequences = *std::max_element(case_.batches.begin(), case_.batches.end());
    const int64_t wanted =
        std::max(blocks_each_ * sequences, case_.prefill / layout_.block_size + 1) *
        layout_.block_bytes();

    Decoder::Options options;
    options.num_tokens_max = std::max(case_.prefill, sequences);
    options.num_logits_max = sequences;
    options.max_position = blocks_each_ * layout_.block_size;
    ModelNeeds needs;
    needs.config = &config;
    LH_ASSIGN_OR_RETURN(needs.matrices, matrix_needs(config, model_->weights));
    needs.layout = layout_;
    needs.group_windows = {0};
    needs.num_tokens_max = options.num_tokens_max;
    needs.num_logits_max = options.num_logits_max;
    needs.num_slots = sequences;
    needs.max_position = options.max_position;
    needs.kv_memory_bytes = wanted;
    LH_ASSIGN_OR_RETURN(const int64_t pool_bytes, prepare(needs));
    num_blocks_ = static_cast<int32_t>(std::min(pool_bytes, wanted) / layout_.block_bytes());
    LH_ASSIGN_OR_RETURN(decoder_,
                        Decoder::create(config, groups, model_->weights, *backend_, options));
    LH_TRY(backend_->create_kv_pool(layout_, num_blocks_, sequences, config.num_heads, 1));
    make_tables(sequences);

    StepBatch::Options batch;
    batch.group_windows = {0};
    batch.block_size = layout_.block_size;
    batch.plans_attention = !backend_->info().plans_attention;
    batch_ = std::make_unique<StepBatch>(batch);
    return fill_pool();
  }

  // Decode steps of `sequences` sequences; `host` takes the part that queueing a step took.
  Result<Timing> decode(int32_t sequences, bool tiny, double* host) {
    const auto step = [&](int index) { return queue_decode(sequences, index == 0); };
    return run(tiny, step, host);
  }
  // Steps of one sequence's `case_.prefill` rows.
  Result<Timing> prefill(bool tiny, double* host) {
    return run(tiny, [&](int) { return queue_prefill(0, case_.prefill); }, host);
  }

  const StepModel& model() const { return *model_; }
  double kv_bytes_per_token() const {
    return static_cast<double>(layout_.layer_bytes()) / layout_.block_size *
           model_->config.num_layers();
  }
  // Sequences share blocks where memory has not enough of them, each in an order of its own.
  bool shares_blocks(int32_t sequences) const { return blocks_each_ * sequences > num_blocks_; }

 private:
  Status open_backend() {
    LH_ASSIGN_OR_RETURN(std::unique_ptr<cuda::DeviceRuntime> runtime, cuda::open_device(0));
    CudaBackendOptions options;
    options.runtime = cuda::runtime_name();
    LH_ASSIGN_OR_RETURN(backend_, cuda::make_cuda_backend_on(std::move(runtime), options));
    return {};
  }

  // What the pool got: all that is wanted, or what the device has.
  Result<int64_t> prepare(ModelNeeds needs) {
    LH_TRY(open_backend());
    Result<int64_t> bytes = backend_->prepare(needs);
    if (bytes.ok() || bytes.status().code() != ErrorCode::kOutOfMemory) return bytes;
    backend_.reset();
    LH_TRY(open_backend());
    needs.kv_memory_bytes = 0;
    return backend_->prepare(needs);
  }

  void make_tables(int32_t sequences) {
    std::mt19937 random(1);
    std::vector<int32_t> ids(static_cast<size_t>(num_blocks_));
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i);
    size_t next = ids.size();
    for (int32_t s = 0; s < sequences; ++s) {
      std::vector<int32_t> table;
      while (static_cast<int32_t>(table.size()) < blocks_each_) {
        if (next == ids.size()) {
          std::shuffle(ids.begin(), ids.end(), random);
          next = 0;
        }
        table.push_back(ids[next++]);
      }
      tables_.push_back(std::move(table));
    }
    for (int32_t i = 0; i < num_blocks_; ++i) prefill_table_.push_back(i);
  }

  // Keys and values of a context that was really read, in the first blocks; the others repeat them.
  Status fill_pool() {
    const int32_t blocks = std::min(blocks_each_, num_blocks_);
    const int32_t tokens = blocks * layout_.block_size;
    for (int32_t at = 0; at < tokens; at += case_.prefill) {
      LH_TRY(queue_prefill(at, std::min(case_.prefill, tokens - at)));
      LH_TRY(end_alone());
    }
    std::vector<std::pair<int32_t, int32_t>> pairs;
    for (int32_t i = blocks; i < num_blocks_; ++i) pairs.push_back({i % blocks, i});
    if (pairs.empty()) return {};
    LH_TRY(backend_->copy_blocks(pairs));
    return end_alone();
  }

  Status end_alone() {
    LH_ASSIGN_OR_RETURN(const StepTicket ticket, backend_->end_step());
    return backend_->wait_step(ticket);
  }

  template <typename Step>
  Result<Timing> run(bool tiny, const Step& step, double* host) {
    std::vector<double> seconds;
    double queueing = 0;
    const int count = tiny ? kWarmUpSteps : kWarmUpSteps + kStepsMax;
    Clock::time_point last_end = Clock::now(), measured_since = last_end;
    std::vector<StepTicket> tickets;
    for (int i = 0; i < count; ++i) {
      const Clock::time_point begin = Clock::now();
      LH_TRY(step(i));
      LH_ASSIGN_OR_RETURN(const StepTicket ticket, backend_->end_step());
      const double queued = since(begin);
      tickets.push_back(ticket);
      if (tickets.size() < static_cast<size_t>(kStepsInFlight)) continue;
      LH_TRY(backend_->wait_step(tickets.front()));
      tickets.erase(tickets.begin());
      if (i == kWarmUpSteps) measured_since = Clock::now();
      if (i > kWarmUpSteps || tiny) {
        seconds.push_back(since(last_end));
        queueing += queued;
      }
      last_end = Clock::now();
      const bool enough = static_cast<int>(seconds.size()) >= kStepsMin;
      if (!tiny && enough && since(measured_since) > kStepsSeconds) break;
    }
    for (const StepTicket ticket : tickets) LH_TRY(backend_->wait_step(ticket));
    for (const Answer& answer : answers_) {
      if (!answer.finite || answer.token.token_id < 0) {
        return error(ErrorCode::kInternal, "a step drew no token: its logits were not finite");
      }
    }
    *host = queueing / static_cast<double>(seconds.size());
    std::sort(seconds.begin(), seconds.end());
    return Timing{seconds[seconds.size() / 2], seconds.front(), seconds.back()};
  }

  static double since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

  Status queue_decode(int32_t sequences, bool first) {
    batch_->clear();
    const int32_t position = case_.context - 1;
    // The token that a slot drew is the next step's input, as it lies on the device.
    const int32_t token = first ? 1 : kTokenOfSlot;
    for (int32_t s = 0; s < sequences; ++s) {
      const std::span<const int32_t> table = tables_[static_cast<size_t>(s)];
      batch_->add(row_of(s, 1, position), &token, &position, {&table, 1});
    }
    return queue();
  }

  Status queue_prefill(int32_t first_position, int32_t num_rows) {
    std::vector<int32_t> tokens, positions;
    for (int32_t i = first_position; i < first_position + num_rows; ++i) {
      tokens.push_back(i * 7919 % model_->config.vocab_size);
      positions.push_back(i);
    }
    const std::span<const int32_t> table = prefill_table_;
    batch_->clear();
    batch_->add(row_of(0, num_rows, first_position), tokens.data(), positions.data(), {&table, 1});
    return queue();
  }

  static BatchSequence row_of(int32_t slot, int32_t num_rows, int32_t first_position) {
    BatchSequence sequence;
    sequence.record = sequence.slot = sequence.sequence_id = slot;
    sequence.num_rows = num_rows;
    sequence.first_position = first_position;
    return sequence;
  }

  // Everything of a step but end_step(): forward, and a token for each sequence.
  Status queue() {
    batch_->finish();
    LH_TRY(decoder_->forward(*batch_, no_aborts_));
    answers_.resize(batch_->sequences().size());
    requests_.clear();
    for (size_t i = 0; i < answers_.size(); ++i) {
      const BatchSequence& sequence = batch_->sequences()[i];
      LogitsRequest request;
      request.sequence = static_cast<int32_t>(i);
      request.step_row = sequence.first_row + sequence.num_rows - 1;
      request.row.slot = sequence.slot;
      request.row.position = sequence.first_position + sequence.num_rows;
      request.row.params = &sampling_;
      // Two steps in flight write here one after the other; only the last answer is looked at.
      request.row.token = &answers_[i].token;
      request.row.finite = &answers_[i].finite;
      requests_.push_back(request);
    }
    return decoder_->sample(*batch_, requests_, no_aborts_);
  }

  struct Answer {
    TokenLogprob token;
    bool finite = true;
  };

  ModelCase case_;
  std::unique_ptr<StepModel> model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;   // before the backend goes
  std::unique_ptr<StepBatch> batch_;
  KvLayout layout_;
  SamplingParams sampling_;
  NoAborts no_aborts_;
  int32_t blocks_each_ = 0;
  int32_t num_blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<int32_t> prefill_table_;
  std::vector<Answer> answers_;
  std::vector<LogitsRequest> requests_;
};

std::string host_note(double host, bool shared) {
  char text[96];
  std::snprintf(text, sizeof text, "%.0f us of host a step%s", host * 1e6,
                shared ? ", K/V blocks shared" : "");
  return text;
}

Status model_rows(BenchDevice& device, Report& report, const ModelCase& model_case) {
  const bool tiny = device.tiny();
  StepBench bench(model_case);
  if (device.out_of_time()) {
    report.skip("step", model_case.name(), "out of time");
    return {};
  }
  const Status ready = bench.set_up();
  if (ready.code() == ErrorCode::kOutOfMemory) {
    report.skip("step", model_case.name(), ready.message());
    return {};
  }
  LH_TRY(ready);
  for (const int32_t batch : model_case.batches) {
    const Row row{.section = "step",
                  .name = model_case.name() + " decode " + std::to_string(batch) + " x " +
                          std::to_string(model_case.context),
                  .kernel = "decoder",
                  .work = Work::kSeconds,
                  .target = batch == 1    ? model_case.batch_1_target
                            : batch == 64 ? model_case.batch_64_target
                                          : 0};
    const Status measured = measure_row(device, report, row, [&](Row& out) {
      double host = 0;
      LH_ASSIGN_OR_RETURN(out.time, bench.decode(batch, tiny, &host));
      const double bytes = static_cast<double>(bench.model().step_bytes) +
                           bench.kv_bytes_per_token() * model_case.context * batch;
      out.amount =
          report.copy_bytes_per_second() > 0 ? bytes / report.copy_bytes_per_second() : 0;
      out.note = host_note(host, bench.shares_blocks(batch));
      return Status();
    });
    LH_TRY(measured);
  }
  const Row row{.section = "step",
                .name = model_case.name() + " prefill " + std::to_string(model_case.prefill),
                .kernel = "decoder",
                .work = Work::kFlops};
  return measure_row(device, report, row, [&](Row& out) {
    double host = 0;
    LH_ASSIGN_OR_RETURN(out.time, bench.prefill(tiny, &host));
    const ModelConfig& config = bench.model().config;
    const double rows = model_case.prefill;
    // The head multiplies one row only.
    const double head = double{1} * config.vocab_size * config.hidden_size;
    out.amount = 2.0 * (static_cast<double>(bench.model().step_params) - head) * rows +
                 4.0 * config.head_dim * config.num_heads * rows * (rows + 1) / 2 *
                     config.num_layers();
    out.note = host_note(host, false);
    return Status();
  });
}

}  // namespace

Status step_section(BenchDevice& device, Report& report) {
  if (device.tiny()) {
    return model_rows(device, report, {"tiny", DType::kBF16, KvDType::kBF16, {1, 3}, 40, 24});
  }
  const std::vector<int32_t> batches = {1, 8, 64};
  LH_TRY(model_rows(device, report,
                    {"llama-1b", DType::kBF16, KvDType::kBF16, batches, 8192, 2048}));
  LH_TRY(model_rows(device, report, {"llama-8b", DType::kBF16, KvDType::kBF16, batches, 8192, 2048,
                                     0.85, 1 / 1.3}));
  return model_rows(device, report,
                    {"llama-8b", DType::kQ4_K, KvDType::kFp8, batches, 8192, 2048});
}

}  // namespace longhaul::bench
