// Dense matrix products by cuBLASLt, opened at run time: libcublasLt.so.13, then .12, or what
// LONGHAUL_CUBLASLT names (the library or its folder; PyTorch brings one, site-packages/nvidia/
// cu13/lib). Not synchronized: the device runtime holds its lock over every call.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "backend/cuda/cublas_lt_api.h"
#include "backend/cuda/device_runtime.h"
#include "status.h"

namespace longhaul::cuda {

class CublasLt {
 public:
  // cuBLAS's own recommendation for 9.0; algorithms that want more are not chosen.
  static constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;

  // For the calling thread's current device. kDevice says where the library was looked for.
  static Result<std::unique_ptr<CublasLt>> open();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  // Chooses an algorithm for the shape unless there is one: some tens of microseconds on the host,
  // nothing on the device.
  Status prepare(const DenseProduct& product);
  // Prepares and queues. `workspace` has kWorkspaceBytes and belongs to the stream's products.
  Status run(const DenseProduct& product, void* workspace, lt::StreamHandle stream);

  int64_t version() const { return version_; }   // 131000 = 13.10.0

 private:
  struct Functions {
    lt::CreateFunction* create;
    lt::DestroyFunction* destroy;
    lt::GetVersionFunction* get_version;
    lt::GetStatusNameFunction* get_status_name;
    lt::MatmulDescCreateFunction* desc_create;
    lt::MatmulDescDestroyFunction* desc_destroy;
    lt::MatmulDescSetAttributeFunction* desc_set;
    lt::MatrixLayoutCreateFunction* layout_create;
    lt::MatrixLayoutDestroyFunction* layout_destroy;
    lt::PreferenceCreateFunction* preference_create;
    lt::PreferenceDestroyFunction* preference_destroy;
    lt::PreferenceSetAttributeFunction* preference_set;
    lt::GetHeuristicFunction* get_heuristic;
    lt::MatmulFunction* matmul;
  };
  // All that the choice depends on. Alignments in bytes, at most 16: what wide loads ask for.
  struct Key {
    DenseType type;
    bool y_is_f32, accumulate;
    int32_t rows, out, cols;
    int64_t x_stride, w_stride, y_stride;
    uint32_t x_alignment, w_alignment, y_alignment;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan {
    lt::MatrixLayout w = nullptr, x = nullptr, y = nullptr;
    lt::Algorithm algorithm{};
    size_t workspace_bytes = 0;
  };

  CublasLt() = default;
  Status load(void* library, const std::string& path);
  Status check(lt::StatusCode code, const char* call) const;
  Result<const Plan*> plan(const DenseProduct& product);
  Status choose(const Key& key, Plan* plan);
  void destroy(Plan& plan);

  Functions functions_{};
  lt::Handle handle_ = nullptr;
  lt::MatmulDesc desc_ = nullptr;   // f32 sums, first operand transposed: one for all products
  int64_t version_ = 0;
  std::map<Key, Plan> plans_;
};

}  // namespace longhaul::cuda
