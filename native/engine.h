// Engine: owns the model, the KV pool and one thread; runs step plans in order, one result each.
// It makes no policy: block ids, batching and order are decided in TypeScript.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kv/kv_layout.h"
#include "model/model_config.h"
#include "model/weights.h"
#include "status.h"

namespace longhaul {

struct EngineOptions {
  std::string backend = "cpu";             // make_backend.h
  int32_t threads = 0;                     // 0 = automatic
  std::string isa_limit;                   // LONGHAUL_ISA
  int64_t kv_memory_bytes = 0;             // size of the device pool; 0 = the backend's choice
  int64_t kv_memory_default_bytes = 0;     // that choice where the pool is in the host's memory
  KvDType kv_dtype = KvDType::kF16;
  int32_t block_size = 32;
  int32_t max_num_seqs = 64;               // slots
  int32_t max_num_batched_tokens = 2048;
  int32_t max_model_len = 0;               // 0 = the model's
};

struct EngineInfo {
  std::string backend, isa, kv_dtype;
  std::string device;                      // name of the GPU; empty on the CPU
  std::string backend_reason;              // why this backend, for people; empty when handed in
  int32_t threads = 0;
  int32_t block_size = 0;
  int64_t block_bytes = 0;
  int32_t num_blocks = 0;
  int32_t max_model_len = 0;
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t vocab_size = 0;
  int32_t num_layers = 0;
  int64_t weight_bytes = 0;                // resident
  std::vector<int32_t> group_windows;      // one a KV group, 0 = full attention
};

class Engine {
 public:
  // Loads weights (repacking them), sizes the pool and starts the thread. `keep_alive` owns what
  // borrowed weights point to, null where there are none; it is released as soon as nothing needs
  // it.
  static Result<std::unique_ptr<Engine>> create(const ModelConfig& config, const WeightSet& weights,
                                                std::shared_ptr<void> keep_alive,
                                                const EngineOptions& options);
  virtual ~Engine() = default;             // finishes the running step, drops queued ones, joins

  virtual const EngineInfo& info() const = 0;

  // Queues a plan packet. done(status, result) runs on the engine thread, once for each plan, in
  // order. On a non-ok status the result is empty. After kDevice or kInternal every later plan
  // fails with the same status.
  using Done = std::function<void(const Status&, std::vector<int32_t> result)>;
  virtual void submit(std::vector<int32_t> plan, Done done) = 0;

  // From any thread: rows of this sequence in running and queued steps are dropped between ops;
  // their records say kRecordAborted. Ignored when the slot holds another sequence by then.
  virtual void abort(int32_t slot, int32_t sequence_id) = 0;
};

}  // namespace longhaul
