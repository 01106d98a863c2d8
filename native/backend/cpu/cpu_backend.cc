#include "backend/cpu/cpu_backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "backend/cpu/rope.h"
#include "backend/cpu/quantized_kv.h"
#include "check.h"
#include "sampler/sampler.h"
#include "tensor_floats.h"

namespace longhaul {

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuBackendOptions& options) {
  LH_ASSIGN_OR_RETURN(const cpu::Isa isa, cpu::choose_isa(options.isa_limit));
  if (options.threads < 0) {
    return error(ErrorCode::kInvalidRequest, "threads %d: expected 0 or more", options.threads);
  }
  const int threads = options.threads > 0 ? options.threads : cpu::default_threads();
  return std::unique_ptr<Backend>(std::make_unique<cpu::CpuBackend>(isa, threads));
}

namespace cpu {
namespace {

// Rows shorter than this in total are done by the calling thread: waking workers takes about as
// long as a pass over these many floats.
constexpr int64_t kParallelFloats = 16384;

const float* floats_of(const Vector* vector) {
  return vector ? static_cast<const CpuVector*>(vector)->data.data() : nullptr;
}
const CpuMatrix& cpu_matrix(const Matrix* matrix) {
  return *static_cast<const CpuMatrix*>(matrix);
}
float* row_of(const DeviceTensor* tensor, int64_t row) {
  return static_cast<float*>(tensor->data) + row * tensor->cols;
}

// Rows of x, normalized by `norm` unless null, ready for products with `weight`.
PrepareParams prepare_params(const DeviceTensor* x, int32_t num_tokens, const Vector* norm,
                             float eps) {
  PrepareParams params;
  params.x = static_cast<const float*>(x->data);
  params.x_stride = x->cols;
  params.num_tokens = num_tokens;
  params.cols = static_cast<int32_t>(x->cols);
  params.norm = floats_of(norm);
  params.eps = eps;
  return params;
}

Status check_kv_dtype(KvDType dtype) {
  if (dtype != KvDType::kFp8) return {};
  return error(ErrorCode::kUnsupported,
               "--kv-dtype fp8: the cpu backend keeps f16, bf16 or q8; fp8 needs --backend cuda");
}

}  // namespace

Arena::~Arena() {
  if (data_) munmap(data_, bytes_);
}
Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}
Result<Arena> Arena::create(int64_t bytes) {
  Arena arena;
  arena.bytes_ = static_cast<size_t>(std::max<int64_t>(bytes, 1));
  void* data = mmap(nullptr, arena.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
  if (data == MAP_FAILED) {
    return error(ErrorCode::kOutOfMemory, "%zu bytes of activations: %s", arena.bytes_,
                 std::strerror(errno));
  }
  arena.data_ = data;
  return arena;
}

CpuBackend::CpuBackend(Isa isa, int num_threads)
    : isa_(isa), pool_(num_threads), ops_(row_ops(isa)) {}
CpuBackend::~CpuBackend() = default;

BackendInfo CpuBackend::info() const {
  BackendInfo info;
  info.name = "cpu";
  info.isa = isa_name(isa_);
  info.parallelism = pool_.num_threads();
  return info;
}

float* CpuBackend::scratch(int64_t floats) {
  if (scratch_.size() < static_cast<size_t>(floats)) scratch_.resize(static_cast<size_t>(floats));
  return scratch_.data();
}

template <typename Body>
void CpuBackend::for_rows(int64_t count, int64_t floats, const Body& body) {
  if (count > 1 && floats >= kParallelFloats) {
    pool_.for_static(count, body);
  } else {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
  }
}

Result<int64_t> CpuBackend::prepare(const ModelNeeds& needs) {
  LH_TRY(check_kv_dtype(needs.layout.dtype));
  return needs.kv_memory_bytes > 0 ? needs.kv_memory_bytes : needs.kv_memory_default_bytes;
}

Result<DeviceTensor> CpuBackend::allocate(int64_t rows, int64_t cols) {
  if (rows < 0 || cols < 0) {
    return error(ErrorCode::kInternal, "tensor of %lld x %lld", static_cast<long long>(rows),
                 static_cast<long long>(cols));
  }
  LH_ASSIGN_OR_RETURN(Arena arena, Arena::create(rows * cols * int64_t{sizeof(float)}));
  DeviceTensor tensor;
  tensor.data = arena.data();
  tensor.rows = rows;
  tensor.cols = cols;
  tensors_.push_back(std::move(arena));
  return tensor;
}

Result<std::unique_ptr<Matrix>> CpuBackend::make_matrix(std::span<const TensorView> parts,
                                                        MatrixUse use) {
  auto matrix = std::make_unique<CpuMatrix>();
  const bool gated = use == MatrixUse::kGatedUp;
  if (gated && (parts.size() != 2 || parts[0].rows != parts[1].rows)) {
    return error(ErrorCode::kModelFormat, "expected a gate and an up matrix of equal shape");
  }
  if (gated && parts[0].dtype != parts[1].dtype) {
    for (const TensorView& part : parts) {
      LH_ASSIGN_OR_RETURN(PackedMatrixPtr piece, pack_matrix({&part, 1}, false, pool_));
      matrix->pieces.push_back(std::move(piece));
    }
  } else {
    LH_ASSIGN_OR_RETURN(PackedMatrixPtr piece, pack_matrix(parts, gated, pool_));
    matrix->pieces.push_back(std::move(piece));
  }
  for (const PackedMatrixPtr& piece : matrix->pieces) {
    matrix->rows += packed_rows(*piece);
    matrix->resident_bytes += packed_bytes(*piece);
  }
  matrix->cols = packed_cols(*matrix->pieces[0]);
  return std::unique_ptr<Matrix>(std::move(matrix));
}

Result<std::unique_ptr<Vector>> CpuBackend::make_vector(std::span<const TensorView> parts,
                                                        float offset) {
  auto vector = std::make_unique<CpuVector>();
  for (const TensorView& part : parts) {
    LH_ASSIGN_OR_RETURN(const std::vector<float> values, tensor_floats(part));
    for (const float value : values) vector->data.push_back(value + offset);
  }
  vector->size = static_cast<int64_t>(vector->data.size());
  return std::unique_ptr<Vector>(std::move(vector));
}

Result<std::unique_ptr<RopeTable>> CpuBackend::make_rope(const RopeConfig& config,
                                                         int32_t max_position) {
  (void)max_position;  // rotations are computed for each step's positions
  if (config.dim <= 0 || config.dim % 2 != 0 ||
      config.inv_freq.size() != static_cast<size_t>(config.dim / 2)) {
    return error(ErrorCode::kModelFormat, "rope: %zu inverse frequencies for %d channels",
                 config.inv_freq.size(), config.dim);
  }
  return std::unique_ptr<RopeTable>(std::make_unique<CpuRopeTable>(config));
}

Status CpuBackend::create_kv_pool(const KvLayout& layout, int32_t num_blocks, int32_t num_slots,
                                  int32_t num_heads, int32_t max_partials) {
  if (num_slots < 0 || max_partials < 0 || num_heads <= 0 || layout.num_kv_heads <= 0 ||
      num_heads % layout.num_kv_heads != 0) {
    return error(ErrorCode::kInternal, "kv pool: %d slots, %d heads, %d kv heads, %d partials",
                 num_slots, num_heads, layout.num_kv_heads, max_partials);
  }
  LH_TRY(check_kv_dtype(layout.dtype));
  LH_TRY(store_.create(layout, num_blocks));
  num_heads_ = num_heads;
  max_partials_ = max_partials;
  last_tokens_.assign(static_cast<size_t>(num_slots), -1);
  return {};
}

Status CpuBackend::embed(const EmbedParams& params) {
  const PackedMatrix& embedding = *cpu_matrix(params.embedding).pieces[0];
  const int64_t vocab_size = packed_rows(embedding);
  std::vector<int32_t> ids(static_cast<size_t>(params.num_tokens));
  for (size_t i = 0; i < ids.size(); ++i) {
    int64_t id = step_.token_ids[i];
    if (id < 0) {
      const int64_t slot = -1 - id;
      if (slot >= static_cast<int64_t>(last_tokens_.size())) {
        return error(ErrorCode::kInvalidRequest, "row %zu: slot %lld of %zu", i,
                     static_cast<long long>(slot), last_tokens_.size());
      }
      id = last_tokens_[static_cast<size_t>(slot)];
      if (id < 0) {
        return error(ErrorCode::kInvalidRequest, "row %zu: slot %lld has sampled nothing", i,
                     static_cast<long long>(slot));
      }
    }
    if (id >= vocab_size) {
      return error(ErrorCode::kInvalidRequest, "row %zu: token %lld, vocabulary of %lld", i,
                   static_cast<long long>(id), static_cast<long long>(vocab_size));
    }
    ids[i] = static_cast<int32_t>(id);
  }
  for_rows(params.num_tokens, params.num_tokens * params.out->cols, [&](int64_t row, int) {
    gather_row(embedding, ids[static_cast<size_t>(row)], params.scale, row_of(params.out, row));
  });
  return {};
}

Status CpuBackend::qkv(const QkvParams& params) {
  if (params.num_tokens == 0) return {};
  const PackedMatrix& weight = *cpu_matrix(params.qkv).pieces[0];
  const auto& rope = *static_cast<const CpuRopeTable*>(params.rope);
  const KvLayout& layout = store_.layout();
  const int64_t width = packed_rows(weight);
  LH_CHECK(width == int64_t{params.num_heads + 2 * layout.num_kv_heads} * layout.head_dim);
  LH_CHECK(2 * rope.half_dim() <= layout.head_dim);

  prepare_rows(prepare_params(params.x, params.num_tokens, params.norm, params.eps), weight, isa_,
               activations_, pool_);
  MatmulParams product;
  product.weight = &weight;
  product.y = scratch(params.num_tokens * width);
  product.y_stride = width;
  matmul(product, activations_, isa_, pool_);

  rope.prepare(step_.positions, params.num_tokens, pool_);
  for_rows(params.num_tokens, params.num_tokens * width, [&](int64_t row, int) {
    finish_qkv_row(params, rope, static_cast<int32_t>(row), product.y + row * width);
  });
  return {};
}

void CpuBackend::finish_qkv_row(const QkvParams& params, const CpuRopeTable& rope, int32_t row,
                                float* projected) {
  const KvLayout& layout = store_.layout();
  const int32_t head_dim = layout.head_dim, num_kv_heads = layout.num_kv_heads;
  const bool f16 = layout.dtype == KvDType::kF16, q8 = layout.dtype == KvDType::kQ8;
  if (params.bias) {
    ops_.add(floats_of(params.bias), (params.num_heads + 2 * num_kv_heads) * head_dim, projected);
  }
  const auto rotate = rope.style() == RopeStyle::kInterleaved ? ops_.rotate_interleaved
                                                              : ops_.rotate_halves;
  const auto finish_heads = [&](float* heads, int32_t count, const Vector* norm) {
    for (float* head = heads; head < heads + int64_t{count} * head_dim; head += head_dim) {
      if (norm) ops_.rms_norm(head, floats_of(norm), params.eps, head_dim, head);
      rotate(head, rope.cos(row), rope.sin(row), rope.half_dim());
      if (q8) ops_.rotate_hadamard(head, head_dim, rotation_size(head_dim));
    }
  };
  const int64_t q_width = int64_t{params.num_heads} * head_dim;
  finish_heads(projected, params.num_heads, params.q_norm);
  std::memcpy(row_of(params.q, row), projected, static_cast<size_t>(q_width) * sizeof(float));

  const int64_t slot = step_.groups[static_cast<size_t>(params.group)].slot_mapping[row];
  if (slot < 0) return;
  float* k = projected + q_width;
  const float* v = k + int64_t{num_kv_heads} * head_dim;
  finish_heads(k, num_kv_heads, params.k_norm);
  const auto block_id = static_cast<int32_t>(slot / layout.block_size);
  const auto token = static_cast<int32_t>(slot % layout.block_size);
  LH_CHECK(store_.contains(block_id));
  for (int32_t head = 0; head < num_kv_heads; ++head, k += head_dim, v += head_dim) {
    if (q8) {
      store_quantized(store_, {block_id, params.layer_in_block, head, token}, k, v, ops_);
      continue;
    }
    std::byte* keys = store_.keys(block_id, params.layer_in_block, head);
    ops_.store_key(k, head_dim, f16, token, reinterpret_cast<uint16_t*>(keys));
    ops_.store_value(v, head_dim, f16, layout.block_size, token,
                     reinterpret_cast<uint16_t*>(keys + store_.values_offset()));
  }
}

Status CpuBackend::attention(const AttentionParams& params) {
  const AttentionWork* work = step_.groups[static_cast<size_t>(params.group)].work;
  if (params.num_heads != num_heads_ || work->num_partials > max_partials_) {
    return error(ErrorCode::kInternal, "attention: %d heads, %d partials; the pool has %d and %d",
                 params.num_heads, work->num_partials, num_heads_, max_partials_);
  }
  AttentionLayerParams layer;
  layer.work = work;
  layer.q = static_cast<const float*>(params.q->data);
  layer.q_stride = params.q->cols;
  layer.out = static_cast<float*>(params.out->data);
  layer.out_stride = params.out->cols;
  layer.num_heads = params.num_heads;
  layer.scale = params.scale;
  layer.softcap = params.softcap;
  layer.layer_in_block = params.layer_in_block;
  attention_layer(layer, store_, isa_, attention_scratch_, pool_);
  return {};
}

Status CpuBackend::project_add(const ProjectAddParams& params) {
  if (params.num_tokens == 0) return {};
  const PackedMatrix& weight = *cpu_matrix(params.weight).pieces[0];
  prepare_rows(prepare_params(params.input, params.num_tokens, nullptr, 0), weight, isa_,
               activations_, pool_);
  MatmulParams product;
  product.weight = &weight;
  product.y_stride = params.x->cols;
  if (!params.post_norm) {
    product.y = static_cast<float*>(params.x->data);
    product.epilogue = Epilogue::kAdd;
    matmul(product, activations_, isa_, pool_);
    return {};
  }
  const int64_t floats = params.num_tokens * params.x->cols;
  product.y = scratch(floats);
  matmul(product, activations_, isa_, pool_);
  const auto cols = static_cast<int32_t>(params.x->cols);
  for_rows(params.num_tokens, floats, [&](int64_t row, int) {
    ops_.rms_norm_add(product.y + row * cols, floats_of(params.post_norm), params.eps, cols,
                      row_of(params.x, row));
  });
  return {};
}

Status CpuBackend::gated_up(const GatedUpParams& params) {
  if (params.num_tokens == 0) return {};
  const CpuMatrix& matrix = cpu_matrix(params.gate_up);
  if (matrix.pieces.size() == 2) {
    gate_separately(params, matrix);
    return {};
  }
  const PackedMatrix& weight = *matrix.pieces[0];
  prepare_rows(prepare_params(params.x, params.num_tokens, params.norm, params.eps), weight, isa_,
               activations_, pool_);
  MatmulParams product;
  product.weight = &weight;
  product.y = static_cast<float*>(params.out->data);
  product.y_stride = params.out->cols;
  product.epilogue =
      params.activation == Activation::kSilu ? Epilogue::kSiluMul : Epilogue::kGeluMul;
  matmul(product, activations_, isa_, pool_);
  return {};
}

void CpuBackend::gate_separately(const GatedUpParams& params, const CpuMatrix& matrix) {
  const int64_t cols = params.out->cols, floats = params.num_tokens * cols;
  float* const gate_and_up[2] = {scratch(2 * floats), scratch(2 * floats) + floats};
  for (int i = 0; i < 2; ++i) {
    // The two may want different forms of the same rows.
    const PackedMatrix& weight = *matrix.pieces[static_cast<size_t>(i)];
    prepare_rows(prepare_params(params.x, params.num_tokens, params.norm, params.eps), weight,
                 isa_, activations_, pool_);
    MatmulParams product;
    product.weight = &weight;
    product.y = gate_and_up[i];
    product.y_stride = cols;
    matmul(product, activations_, isa_, pool_);
  }
  const auto multiply = params.activation == Activation::kSilu ? ops_.silu_mul : ops_.gelu_mul;
  for_rows(params.num_tokens, floats, [&](int64_t row, int) {
    multiply(gate_and_up[0] + row * cols, gate_and_up[1] + row * cols, static_cast<int32_t>(cols),
             row_of(params.out, row));
  });
}

Status CpuBackend::logits(const LogitsParams& params) {
  if (params.num_rows == 0) return {};
  const PackedMatrix& head = *cpu_matrix(params.head).pieces[0];
  PrepareParams prepare = prepare_params(params.x, params.num_rows, params.norm, params.eps);
  prepare.row_indices = params.rows;
  prepare_rows(prepare, head, isa_, activations_, pool_);
  MatmulParams product;
  product.weight = &head;
  product.y = static_cast<float*>(params.logits->data);
  product.y_stride = params.logits->cols;
  product.epilogue = params.softcap > 0 ? Epilogue::kSoftcap : Epilogue::kStore;
  product.softcap = params.softcap;
  matmul(product, activations_, isa_, pool_);
  return {};
}

Status CpuBackend::sample(const SampleParams& params) {
  for (const SampleRow& row : params.rows) {
    if (row.slot < 0 || static_cast<size_t>(row.slot) >= last_tokens_.size()) {
      return error(ErrorCode::kInternal, "sample: slot %d of %zu", row.slot, last_tokens_.size());
    }
  }
  const auto vocab_size = static_cast<int32_t>(params.logits->cols);
  const auto draw = [&](int64_t index, int) {
    SampleRow& row = params.rows[static_cast<size_t>(index)];
    sample_row(row_of(params.logits, row.logits_row), vocab_size, row);
  };
  const auto num_rows = static_cast<int64_t>(params.rows.size());
  // Rows of equal logits_row (a row sampled and asked for its known token too) must not meet.
  const auto same_row = [](const SampleRow& a, const SampleRow& b) {
    return a.logits_row >= b.logits_row;
  };
  const bool ascending = std::adjacent_find(params.rows.begin(), params.rows.end(), same_row) ==
                         params.rows.end();
  if (num_rows > 1 && ascending) {
    pool_.for_dynamic(num_rows, draw);
  } else {
    for (int64_t i = 0; i < num_rows; ++i) draw(i, 0);
  }
  for (const SampleRow& row : params.rows) {
    // A row without a finite logit has no token. Its sequence is ending; a step queued behind
    // this one may still name the slot, and token 0 lets it run for the other rows' sake.
    if (row.sample) last_tokens_[static_cast<size_t>(row.slot)] = std::max(row.token->token_id, 0);
  }
  return {};
}

Status CpuBackend::copy_blocks(std::span<const std::pair<int32_t, int32_t>> from_to) {
  constexpr int64_t kPiece = 64 << 10;
  const int64_t bytes = store_.layout().block_bytes();
  const int64_t pieces = (bytes + kPiece - 1) / kPiece;
  // One pair after the other: a later one may read what an earlier one wrote.
  for (const auto& [from, to] : from_to) {
    if (!store_.contains(from) || !store_.contains(to)) {
      return error(ErrorCode::kInvalidRequest, "copy block %d to %d of %d", from, to,
                   store_.num_blocks());
    }
    if (from == to) continue;
    const std::byte* source = store_.block(from);
    std::byte* target = store_.block(to);
    pool_.for_static(pieces, [&](int64_t i, int) {
      const int64_t begin = i * kPiece, end = std::min(begin + kPiece, bytes);
      std::memcpy(target + begin, source + begin, static_cast<size_t>(end - begin));
    });
  }
  return {};
}

Status CpuBackend::compact_rows(DeviceTensor* x, std::span<const int32_t> keep) {
  const size_t bytes = static_cast<size_t>(x->cols) * sizeof(float);
  for (size_t i = 0; i < keep.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    LH_CHECK(keep[i] >= row && keep[i] < x->rows);
    if (keep[i] != row) std::memcpy(row_of(x, row), row_of(x, keep[i]), bytes);
  }
  return {};
}

Status CpuBackend::read_block(int32_t block_id, std::span<std::byte> out) {
  const auto bytes = static_cast<size_t>(store_.layout().block_bytes());
  if (!store_.contains(block_id) || out.size() != bytes) {
    return error(ErrorCode::kInvalidRequest, "read block %d of %d into %zu of %zu bytes", block_id,
                 store_.num_blocks(), out.size(), bytes);
  }
  std::memcpy(out.data(), store_.block(block_id), bytes);
  return {};
}

}  // namespace cpu
}  // namespace longhaul
