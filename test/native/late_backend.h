// An asynchronous backend made of the CPU's: operations are noted when they are called and done when
// their step is waited for, as late as the interface allows. What host memory held is kept from the
// call, so reading it later than promised would change results; outputs are written in wait_step().
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace lh_test {

// Shared with the test; atomics may be looked at while the engine runs.
struct LateControl {
  // Called on the engine thread; set before the engine has work.
  std::function<longhaul::Status(const char* op)> queueing;
  std::function<longhaul::Status(longhaul::StepTicket)> waiting;
  std::function<bool(longhaul::StepTicket)> is_done;   // null: whenever it is asked
  std::atomic<int64_t> num_ended{0};
  std::atomic<int64_t> num_waited{0};
  std::atomic<int64_t> most_in_flight{0};
};

class LateBackend final : public longhaul::Backend {
 public:
  using Status = longhaul::Status;
  template <typename T>
  using Result = longhaul::Result<T>;
  using StepTicket = longhaul::StepTicket;

  LateBackend(std::unique_ptr<Backend> inner, std::shared_ptr<LateControl> control)
      : inner_(std::move(inner)), control_(std::move(control)) {}

  longhaul::BackendInfo info() const override {
    longhaul::BackendInfo info = inner_->info();
    info.name = "late";
    info.device = "a device of tests";
    info.asynchronous = true;
    return info;
  }
  Result<int64_t> prepare(const longhaul::ModelNeeds& needs) override {
    return inner_->prepare(needs);
  }
  Result<longhaul::DeviceTensor> allocate(int64_t rows, int64_t cols) override {
    return inner_->allocate(rows, cols);
  }
  Result<std::unique_ptr<longhaul::Matrix>> make_matrix(std::span<const longhaul::TensorView> parts,
                                                        longhaul::MatrixUse use) override {
    return inner_->make_matrix(parts, use);
  }
  Result<std::unique_ptr<longhaul::Vector>> make_vector(std::span<const longhaul::TensorView> parts,
                                                        float offset) override {
    return inner_->make_vector(parts, offset);
  }
  Result<std::unique_ptr<longhaul::RopeTable>> make_rope(const longhaul::RopeConfig& config,
                                                         int32_t max_position) override {
    return inner_->make_rope(config, max_position);
  }
  Status create_kv_pool(const longhaul::KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                        int32_t num_heads, int32_t max_partials) override {
    return inner_->create_kv_pool(layout, num_blocks, num_slots, num_heads, max_partials);
  }

  Result<bool> begin_forward(const longhaul::StepInputs& inputs) override {
    auto kept = std::make_shared<KeptInputs>(inputs);
    LH_TRY(queue("begin_forward", [this, kept] {
      rows_ = kept;
      return inner_->begin_forward(kept->inputs).status();
    }));
    return false;
  }
  Status embed(const longhaul::EmbedParams& p) override {
    return queue("embed", [this, p] { return inner_->embed(p); });
  }
  Status qkv(const longhaul::QkvParams& p) override {
    return queue("qkv", [this, p] { return inner_->qkv(p); });
  }
  Status attention(const longhaul::AttentionParams& p) override {
    return queue("attention", [this, p] { return inner_->attention(p); });
  }
  Status project_add(const longhaul::ProjectAddParams& p) override {
    return queue("project_add", [this, p] { return inner_->project_add(p); });
  }
  Status gated_up(const longhaul::GatedUpParams& p) override {
    return queue("gated_up", [this, p] { return inner_->gated_up(p); });
  }
  Status end_forward() override {
    return queue("end_forward", [this] { return inner_->end_forward(); });
  }
  Status logits(const longhaul::LogitsParams& p) override {
    const std::vector<int32_t> rows(p.rows, p.rows + p.num_rows);
    return queue("logits", [this, p, rows] {
      longhaul::LogitsParams kept = p;
      kept.rows = rows.data();
      return inner_->logits(kept);
    });
  }
  Status sample(const longhaul::SampleParams& p) override {
    // Parameters and counts may change as soon as this returns.
    auto kept = std::make_shared<std::vector<KeptRow>>();
    for (const longhaul::SampleRow& row : p.rows) kept->emplace_back(row);
    longhaul::DeviceTensor* const logits = p.logits;
    return queue("sample", [this, kept, logits] {
      std::vector<longhaul::SampleRow> rows;
      for (const KeptRow& one : *kept) rows.push_back(one.row());
      return inner_->sample({logits, rows});
    });
  }
  Status copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) override {
    const std::vector<std::pair<int32_t, int32_t>> pairs(from_to.begin(), from_to.end());
    return queue("copy_blocks", [this, pairs] { return inner_->copy_blocks(pairs); });
  }
  Status compact_rows(longhaul::DeviceTensor*, std::span<const int32_t>) override {
    return longhaul::error(longhaul::ErrorCode::kInternal,
                           "rows leave a step that was queued already");
  }

  Result<StepTicket> end_step() override {
    LH_TRY(queue("end_step", [] { return Status(); }));
    steps_.push_back(std::move(queued_));
    queued_.clear();
    const int64_t in_flight = ++control_->num_ended - control_->num_waited;
    if (in_flight > control_->most_in_flight) control_->most_in_flight = in_flight;
    if (in_flight > longhaul::kStepsInFlight) {
      return longhaul::error(longhaul::ErrorCode::kInternal, "too many steps in flight");
    }
    return static_cast<StepTicket>(steps_.size()) - 1;
  }
  Result<bool> is_step_done(StepTicket ticket) override {
    return !control_->is_done || control_->is_done(ticket);
  }
  Status wait_step(StepTicket ticket) override {
    if (ticket != control_->num_waited) {
      return longhaul::error(longhaul::ErrorCode::kInternal, "waited for out of order");
    }
    ++control_->num_waited;
    if (control_->waiting) LH_TRY(control_->waiting(ticket));
    for (const Operation& operation : steps_[static_cast<size_t>(ticket)]) LH_TRY(operation());
    return {};
  }
  Status read_block(int32_t block_id, std::span<std::byte> out) override {
    return inner_->read_block(block_id, out);
  }

 private:
  using Operation = std::function<Status()>;

  struct KeptInputs {
    explicit KeptInputs(const longhaul::StepInputs& from) : inputs(from) {
      const auto rows = static_cast<size_t>(from.num_tokens);
      token_ids.assign(from.token_ids, from.token_ids + rows);
      positions.assign(from.positions, from.positions + rows);
      for (const longhaul::StepGroup& group : from.groups) {
        slots.emplace_back(group.slot_mapping, group.slot_mapping + rows);
        works.push_back(*group.work);
        tables.emplace_back();
        for (longhaul::AttentionSequence& sequence : works.back().sequences) {
          tables.back().emplace_back(sequence.block_table, sequence.block_table + sequence.num_blocks);
        }
      }
      for (size_t g = 0; g < works.size(); ++g) {
        for (size_t s = 0; s < works[g].sequences.size(); ++s) {
          works[g].sequences[s].block_table = tables[g][s].data();
        }
        groups.push_back({slots[g].data(), &works[g]});
      }
      inputs.token_ids = token_ids.data();
      inputs.positions = positions.data();
      inputs.groups = groups;
    }
    longhaul::StepInputs inputs;
    std::vector<int32_t> token_ids, positions;
    std::vector<std::vector<int64_t>> slots;
    std::vector<longhaul::AttentionWork> works;
    std::vector<std::vector<std::vector<int32_t>>> tables;
    std::vector<longhaul::StepGroup> groups;
  };

  struct KeptRow {
    explicit KeptRow(const longhaul::SampleRow& row) : row_(row), params_(*row.params) {
      if (row.counts) counts_ = *row.counts;
    }
    longhaul::SampleRow row() const {
      longhaul::SampleRow row = row_;
      row.params = &params_;
      if (row.counts) row.counts = &counts_;
      return row;
    }

   private:
    longhaul::SampleRow row_;
    longhaul::SamplingParams params_;
    longhaul::TokenCounts counts_;
  };

  Status queue(const char* op, Operation operation) {
    if (control_->queueing) LH_TRY(control_->queueing(op));
    queued_.push_back(std::move(operation));
    return {};
  }

  std::unique_ptr<Backend> inner_;
  std::shared_ptr<LateControl> control_;
  std::vector<Operation> queued_;                // of the open step
  std::vector<std::vector<Operation>> steps_;    // by ticket
  std::shared_ptr<KeptInputs> rows_;             // the inner backend keeps pointers
};

}  // namespace lh_test
