// backend.h: the coarse operations a model step is made of. Each backend (CPU, CUDA) implements all
// of them; decoder.cc calls them in order and knows nothing of memory or threads.
//
// Activations are opaque DeviceTensors whose element type belongs to the backend (CPU: f32).
// Operations of a step run in call order. A synchronous backend has done each when its call
// returns; an asynchronous one queues them, end_step() closes the step and wait_step() waits for it,
// so that one step can be queued while another runs.
//
// Host memory that params point to is read before the call returns, but for StepInputs (see there);
// what SampleRow points to for its outputs is written by the end of wait_step().
// All row counts may be 0 (no work).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "attention/attention_work.h"
#include "dtype.h"
#include "kv/kv_layout.h"
#include "model/model_config.h"
#include "sampler/sampling_params.h"
#include "status.h"
#include "tensor.h"

namespace longhaul {

// Memory of activations, [rows, cols], rows contiguous.
struct DeviceTensor {
  void* data = nullptr;
  int64_t rows = 0;  // capacity
  int64_t cols = 0;
  int32_t form = 0;  // the backend's own note of how it wrote what is there
};

// A resident weight matrix in the backend's own layout.
class Matrix {
 public:
  virtual ~Matrix() = default;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t resident_bytes = 0;
};

// A resident f32 vector: norm weights, biases.
class Vector {
 public:
  virtual ~Vector() = default;
  int64_t size = 0;
};

// cos/sin (or inverse frequencies) of one RopeConfig.
class RopeTable {
 public:
  virtual ~RopeTable() = default;
};

enum class MatrixUse {
  kProjection,  // parts stacked by rows
  kGatedUp,     // parts = {gate, up}; interleaved as the backend's gated_mlp wants
  kEmbedding,   // rows are read one by one, and possibly multiplied (tied head)
};

// A matrix that is going to be made: its parts by name, type and shape, without bytes.
struct MatrixNeed {
  std::vector<TensorView> parts;
  MatrixUse use = MatrixUse::kProjection;
};

// What a model and its engine will ask for, told once, before anything is made.
struct ModelNeeds {
  const ModelConfig* config = nullptr;
  std::vector<MatrixNeed> matrices;
  KvLayout layout;
  std::vector<int32_t> group_windows;  // one a KV group; 0 = full attention
  int32_t num_tokens_max = 0;          // rows of a step
  int32_t num_logits_max = 0;          // rows of logits in memory at a time
  int32_t num_slots = 0;               // sequences, and sequences of a step
  int32_t max_position = 0;
  int64_t kv_memory_bytes = 0;         // 0 = what the backend thinks best
  int64_t kv_memory_default_bytes = 0; // what is best for a pool in the host's memory
};

struct BackendInfo {
  std::string name;          // "cpu"
  std::string isa;           // "scalar", "avx2", "avx512", "amx"
  int32_t parallelism = 1;   // workers the attention work list is balanced for
  std::string device = {};   // "NVIDIA H100 80GB HBM3"; empty for the host's processor
  // Operations are queued, not done, when their calls return. Queueing a step takes microseconds:
  // aborts are looked at before it, not between its operations.
  bool asynchronous = false;
  // The backend spreads attention itself: it wants AttentionWork::sequences and nothing else of it.
  bool plans_attention = false;
};

// One KV group's part of a step.
struct StepGroup {
  const int64_t* slot_mapping = nullptr;  // [num_tokens] block_id * block_size + offset; -1 = skip
  const AttentionWork* work = nullptr;
};

// The rows of a step. A synchronous backend keeps the pointers until the next begin_forward() or
// the end of the step; an asynchronous one has read everything when begin_forward() returns.
struct StepInputs {
  int32_t num_tokens = 0;
  const int32_t* token_ids = nullptr;  // [num_tokens]; -1 - slot = what that slot sampled last
  const int32_t* positions = nullptr;  // [num_tokens]
  bool decode_only = false;            // every sequence has one row
  std::span<const StepGroup> groups;   // operations name one by its index
};

struct EmbedParams {
  const Matrix* embedding = nullptr;     // [vocab_size, hidden_size]
  int32_t num_tokens = 0;
  float scale = 1.0f;
  DeviceTensor* out = nullptr;           // [num_tokens, hidden_size]
};

// q = rope(norm(Wq n)), k likewise, both and v with optional bias; n = rms_norm(x). K and V go to
// the cache as stored type, at the group's slot_mapping; q stays as activation.
struct QkvParams {
  const DeviceTensor* x = nullptr;        // [num_tokens, hidden_size]
  int32_t num_tokens = 0;
  const Vector* norm = nullptr;
  float eps = 0;
  const Matrix* qkv = nullptr;            // rows: num_heads, num_kv_heads, num_kv_heads times head_dim
  const Vector* bias = nullptr;           // qkv rows; may be null
  const Vector* q_norm = nullptr;         // [head_dim]; may be null
  const Vector* k_norm = nullptr;
  const RopeTable* rope = nullptr;
  int32_t num_heads = 0;
  int32_t group = 0;                      // of StepInputs::groups
  int32_t layer_in_block = 0;
  DeviceTensor* q = nullptr;              // out [num_tokens, num_heads * head_dim]
};

// out = softmax(scale * q k^T) v over the group's work, combine included. Query head h reads kv head
// h / (num_heads / num_kv_heads).
struct AttentionParams {
  int32_t group = 0;                      // of StepInputs::groups
  const DeviceTensor* q = nullptr;        // [num_tokens, num_heads * head_dim]
  int32_t num_heads = 0;
  float scale = 0;
  float softcap = 0;                      // 0 = none
  int32_t layer_in_block = 0;
  // The product that reads `out` next (and nothing else does): a backend may write what it wants.
  const Matrix* reader = nullptr;
  DeviceTensor* out = nullptr;            // [num_tokens, num_heads * head_dim]
};

// x += post_norm(W input); post_norm may be null.
struct ProjectAddParams {
  const DeviceTensor* input = nullptr;    // [num_tokens, weight->cols]
  int32_t num_tokens = 0;
  const Matrix* weight = nullptr;         // [hidden_size, cols]
  const Vector* post_norm = nullptr;
  float eps = 0;
  DeviceTensor* x = nullptr;              // in/out [num_tokens, hidden_size]
};

// out = activation(Wgate n) * (Wup n), n = rms_norm(x).
struct GatedUpParams {
  const DeviceTensor* x = nullptr;
  int32_t num_tokens = 0;
  const Vector* norm = nullptr;
  float eps = 0;
  const Matrix* gate_up = nullptr;        // MatrixUse::kGatedUp, rows = 2 * intermediate_size
  Activation activation = Activation::kSilu;
  const Matrix* reader = nullptr;         // as AttentionParams::reader
  DeviceTensor* out = nullptr;            // [num_tokens, intermediate_size]
};

// logits[i] = softcap(W rms_norm(x[rows[i]])).
struct LogitsParams {
  const DeviceTensor* x = nullptr;
  const int32_t* rows = nullptr;          // [num_rows] step rows, ascending
  int32_t num_rows = 0;
  const Vector* norm = nullptr;
  float eps = 0;
  const Matrix* head = nullptr;           // [vocab_size, hidden_size]
  float softcap = 0;
  DeviceTensor* logits = nullptr;         // out [num_rows, vocab_size]
};

struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0;    // natural log, of the unmodified distribution (before temperature, penalties)
  int32_t rank = 0;     // 1 = most likely
};

// Counts of tokens a sequence has seen; kept only while penalties need it.
struct TokenCounts {
  std::vector<int32_t> prompt;  // sorted distinct prompt ids
  std::vector<std::pair<int32_t, int32_t>> output;  // (id, count), sorted by id
};

// One logits row to turn into a token (sample = true) or only into log-probabilities of a known
// next token (prompt_logprobs).
struct SampleRow {
  int32_t logits_row = 0;
  int32_t slot = 0;
  int32_t position = 0;                   // of the token being drawn; the RNG counter
  bool sample = true;
  int32_t known_token = -1;               // with !sample: the prompt's next token
  const SamplingParams* params = nullptr;
  const TokenCounts* counts = nullptr;    // null = no penalties
  // Outputs, host memory, valid after wait_step().
  TokenLogprob* token = nullptr;          // sampled or known token; logprob set when asked for
  TokenLogprob* top = nullptr;            // [num_top], descending; null when num_top = 0
  int32_t num_top = 0;
  bool* finite = nullptr;                 // false: the row held NaN or no finite logit
};

struct SampleParams {
  DeviceTensor* logits = nullptr;         // [.., vocab_size]; may be modified in place
  std::span<SampleRow> rows;
};

// Names a closed step.
using StepTicket = int64_t;
constexpr int32_t kStepsInFlight = 2;

class Backend {
 public:
  virtual ~Backend() = default;
  virtual BackendInfo info() const = 0;

  // Set-up. First of all: whether the model can run here (kUnsupported) and fits (kOutOfMemory, with
  // bytes needed, free and missing). Returns the bytes of the K/V pool.
  virtual Result<int64_t> prepare(const ModelNeeds& needs) = 0;
  // make_* copy or repack; the source may be unmapped afterwards (one resident copy).
  virtual Result<DeviceTensor> allocate(int64_t rows, int64_t cols) = 0;  // zeroed; freed with the backend
  virtual Result<std::unique_ptr<Matrix>> make_matrix(std::span<const TensorView> parts, MatrixUse use) = 0;
  // offset is added to every element (ModelConfig::norm_weight_offset). Parts are concatenated.
  virtual Result<std::unique_ptr<Vector>> make_vector(std::span<const TensorView> parts, float offset) = 0;
  virtual Result<std::unique_ptr<RopeTable>> make_rope(const RopeConfig& config, int32_t max_position) = 0;
  // The device pool: num_blocks blocks; what nothing was stored in may hold anything. max_partials
  // bounds AttentionWork.
  virtual Status create_kv_pool(const KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                                int32_t num_heads, int32_t max_partials) = 0;

  // Step. The rows come first; operations up to end_forward() are about them. true: the whole forward
  // pass was queued from an earlier recording, and neither its operations nor end_forward() may
  // follow. When rows leave a running step, begin_forward() is called again with those that stay.
  virtual Result<bool> begin_forward(const StepInputs& inputs) = 0;
  virtual Status embed(const EmbedParams& params) = 0;
  virtual Status qkv(const QkvParams& params) = 0;
  virtual Status attention(const AttentionParams& params) = 0;
  virtual Status project_add(const ProjectAddParams& params) = 0;
  virtual Status gated_up(const GatedUpParams& params) = 0;
  virtual Status end_forward() = 0;
  virtual Status logits(const LogitsParams& params) = 0;
  virtual Status sample(const SampleParams& params) = 0;  // also records each slot's last token
  virtual Status copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) = 0;
  // Moves rows of a [.., cols] tensor up: row keep[i] becomes row i (keep ascending). Used when
  // rows of aborted sequences leave a running step.
  virtual Status compact_rows(DeviceTensor* x, std::span<const int32_t> keep) = 0;
  // Closes the step: what was called since the last end_step() is it. At most kStepsInFlight steps are
  // closed and not waited for; they are waited for in order, each once.
  virtual Result<StepTicket> end_step() = 0;
  virtual Result<bool> is_step_done(StepTicket ticket) = 0;  // without waiting
  virtual Status wait_step(StepTicket ticket) = 0;

  // Tests and tools: raw bytes of one block, backend layout.
  virtual Status read_block(int32_t block_id, std::span<std::byte> out) = 0;
};

struct CpuBackendOptions {
  int32_t threads = 0;        // 0 = physical cores allowed to this process
  std::string isa_limit;      // "", "scalar", "avx2", "avx512", "amx": no higher than
};
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options);

}  // namespace longhaul
