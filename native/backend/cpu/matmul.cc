// Drives the kernels of one instruction set over strips of 32 weight rows.
//
// Few tokens: the work is reading weights, so workers take runs of neighboring strips and unpack
// them in registers. Runs are handed out as workers come free: where the threads of the host
// program share the processors, a fixed split would wait for the slower half. Many tokens: a worker
// takes a strip and a tile of tokens, expands 256 columns of the strip at a time into its own 10
// KB, and passes all tokens of the tile over them; sums wait in the worker's tile meanwhile. Which
// worker computes what, and how tokens are grouped, changes no bit.
#include "backend/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "backend/cpu/matmul_kernels.h"
#include "backend/cpu/packed_matrix.h"
#include "check.h"

namespace longhaul::cpu {
namespace {

constexpr int kTileTokensMax = 256;
constexpr int kTileTokensMin = 32;
constexpr int kRunsPerWorker = 6;

struct alignas(64) WorkerScratch {
  ExpandedChunk expanded;
  float acc[kTileTokensMax][kStripRows];
};

// Grows and never shrinks; contents are lost when it grows. 64-byte aligned.
template <typename T>
class GrowingBuffer {
 public:
  ~GrowingBuffer() { release(); }
  GrowingBuffer() = default;
  GrowingBuffer(const GrowingBuffer&) = delete;
  GrowingBuffer& operator=(const GrowingBuffer&) = delete;
  T* data() { return data_; }
  void reserve(size_t count) {
    if (count <= capacity_) return;
    release();
    data_ = static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{64}));
    std::memset(static_cast<void*>(data_), 0, count * sizeof(T));
    capacity_ = count;
  }

 private:
  void release() { ::operator delete(data_, std::align_val_t{64}); }
  T* data_ = nullptr;
  size_t capacity_ = 0;
};

const MatmulKernels& kernels_for(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAmx) return amx_matmul_kernels();
  if (isa == Isa::kAvx512) return avx512_matmul_kernels();
  if (isa == Isa::kAvx2) return avx2_matmul_kernels();
#else
  (void)isa;
#endif
  return scalar_matmul_kernels();
}

OutputKind output_kind(Epilogue epilogue) {
  switch (epilogue) {
    case Epilogue::kStore:
      return OutputKind::kStore;
    case Epilogue::kAdd:
      return OutputKind::kAdd;
    case Epilogue::kSiluMul:
      return OutputKind::kSiluMul;
    case Epilogue::kGeluMul:
      return OutputKind::kGeluMul;
    case Epilogue::kSoftcap:
      return OutputKind::kSoftcap;
  }
  return OutputKind::kStore;
}

}  // namespace

struct ActivationRows::State {
  int num_tokens = 0;
  int64_t cols = 0;
  bool has_floats = false;
  bool has_chunks = false;
  int64_t float_stride = 0;               // elements, cols rounded up to 16
  GrowingBuffer<float> floats;            // [num_tokens][float_stride]
  GrowingBuffer<ActivationChunk> chunks;  // [cols / 256, rounded up][num_tokens], a tile's tail
  GrowingBuffer<WorkerScratch> scratch;   // [num_threads]
};

ActivationRows::ActivationRows() : state_(std::make_unique<State>()) {}
ActivationRows::~ActivationRows() = default;

void prepare_rows(const PrepareParams& params, const PackedMatrix& weight, Isa isa,
                  ActivationRows& rows, ThreadPool& pool) {
  LH_CHECK(params.cols == weight.cols);
  ActivationRows::State& state = rows.state();
  const int tokens = params.num_tokens;
  const int64_t num_chunks = (weight.cols + kChunkCols - 1) / kChunkCols;
  state.num_tokens = tokens;
  state.cols = weight.cols;
  state.has_floats = weight.any_float;
  state.has_chunks = weight.any_quantized;
  state.float_stride = (weight.cols + 15) / 16 * 16;
  if (tokens == 0) return;
  if (state.has_floats) state.floats.reserve(static_cast<size_t>(tokens * state.float_stride));
  if (state.has_chunks) {
    state.chunks.reserve(static_cast<size_t>(num_chunks * tokens + kRowTile - 1));
  }

  const MatmulKernels& kernels = kernels_for(isa);
  const auto prepare = [&](int64_t token, int) {
    const int64_t row = params.row_indices != nullptr ? params.row_indices[token] : token;
    kernels.prepare(params.x + row * params.x_stride, params.cols, params.norm, params.eps,
                    state.has_floats ? state.floats.data() + token * state.float_stride : nullptr,
                    state.has_chunks ? state.chunks.data() + token : nullptr, tokens);
  };
  // Waking workers costs about as much as preparing a few thousand elements.
  if (int64_t{tokens} * params.cols < 8192) {
    for (int64_t token = 0; token < tokens; ++token) prepare(token, 0);
  } else {
    pool.for_static(tokens, prepare);
  }
}

namespace {

// One strip times the tokens [first, first + count).
struct StripTask {
  const PackedMatrix& weight;
  ActivationRows::State& state;
  const MatmulKernels& kernels;
  const MatmulParams& params;

  void quantized(const Strip& strip, int first, int count, WorkerScratch& scratch) const {
    const PackFormat& format = pack_format(strip.dtype);
    const GroupLayout layout = group_layout(strip.dtype, weight.cols);
    const ActivationChunk* chunks = state.chunks.data() + first;
    if (count <= kernels.packed_tokens_max && kernels.multiply_packed != nullptr) {
      kernels.multiply_packed(strip, layout, weight.cols, chunks, count, state.num_tokens,
                              scratch.acc[0]);
      return;
    }
    std::memset(scratch.acc[0], 0, static_cast<size_t>(count) * sizeof(scratch.acc[0]));
    const int64_t blocks = weight.cols / kBlockCols;
    for (int64_t chunk = 0; chunk * kChunkBlocks < blocks; ++chunk) {
      const int here =
          static_cast<int>(std::min<int64_t>(kChunkBlocks, blocks - chunk * kChunkBlocks));
      for (int half = 0; half < 2; ++half) {
        if (strip.num_rows[half] == 0) continue;  // old numbers; their results are dropped
        kernels.expand(strip.dtype, strip.groups[half], layout, chunk, here, half,
                       &scratch.expanded);
      }
      kernels.multiply(scratch.expanded, here, format.mode, format.offset,
                       chunks + chunk * state.num_tokens, count, scratch.acc[0]);
    }
  }

  void run(int64_t index, int first, int count, WorkerScratch& scratch) const {
    const Strip& strip = weight.strips[static_cast<size_t>(index)];
    if (pack_format(strip.dtype).bits == 0) {
      kernels.multiply_floats(strip, weight.cols, state.floats.data() + first * state.float_stride,
                              state.float_stride, count, scratch.acc[0]);
    } else {
      quantized(strip, first, count, scratch);
    }
    const OutputParams out = {params.y + first * params.y_stride, params.y_stride,
                              output_kind(params.epilogue), params.softcap};
    kernels.finish(strip, scratch.acc[0], count, out);
  }
};

}  // namespace

void matmul(const MatmulParams& params, ActivationRows& rows, Isa isa, ThreadPool& pool) {
  const PackedMatrix& weight = *params.weight;
  ActivationRows::State& state = rows.state();
  const bool gated = params.epilogue == Epilogue::kSiluMul || params.epilogue == Epilogue::kGeluMul;
  LH_CHECK(state.cols == weight.cols);
  LH_CHECK(state.has_floats || !weight.any_float);
  LH_CHECK(state.has_chunks || !weight.any_quantized);
  LH_CHECK(!gated || weight.interleaved);
  const int tokens = state.num_tokens;
  if (tokens == 0) return;

  state.scratch.reserve(static_cast<size_t>(pool.num_threads()));
  const MatmulKernels& kernels = kernels_for(isa);
  const StripTask task{weight, state, kernels, params};
  const auto num_strips = static_cast<int64_t>(weight.strips.size());
  if (tokens <= kernels.packed_tokens_max) {
    // Runs of neighboring strips, long enough for the prefetching to pay.
    const int64_t run = std::max<int64_t>(1, num_strips / (kRunsPerWorker * pool.num_threads()));
    pool.for_dynamic((num_strips + run - 1) / run, [&](int64_t index, int worker) {
      const int64_t end = std::min(num_strips, (index + 1) * run);
      for (int64_t strip = index * run; strip < end; ++strip) {
        task.run(strip, 0, tokens, state.scratch.data()[worker]);
      }
    });
    return;
  }
  // Tiles as large as possible (a strip is expanded once per tile), but enough of them for all
  // workers to end at about the same time.
  int tile = kTileTokensMax;
  while (tile > kTileTokensMin &&
         num_strips * ((tokens + tile - 1) / tile) < int64_t{4} * pool.num_threads()) {
    tile /= 2;
  }
  const int tiles = (tokens + tile - 1) / tile;
  const bool stateful = weight.any_quantized && kernels.enter != nullptr;
  const auto enter = [&] {
    if (stateful) kernels.enter();
  };
  const auto leave = [&] {
    if (stateful) kernels.leave();
  };
  const auto body = [&](int64_t index, int worker) {
    const int first = static_cast<int>(index % tiles) * tile;
    task.run(index / tiles, first, std::min(tile, tokens - first), state.scratch.data()[worker]);
  };
  pool.for_dynamic(num_strips * tiles, body, enter, leave);
}

}  // namespace longhaul::cpu
