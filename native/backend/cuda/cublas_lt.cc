#include "backend/cuda/cublas_lt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace longhaul::cuda {
namespace {

// Prompts come in chunks of any length, each a shape of its own; beyond this many the choices are
// made anew. A plan is under 1 KiB.
constexpr size_t kPlansMax = 4096;
constexpr uint32_t kAlignmentMax = 16;

uint32_t alignment_of(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer) | kAlignmentMax;
  return static_cast<uint32_t>(address & (~address + 1));   // lowest bit
}

std::vector<std::string> candidates() {
  const std::vector<std::string> names = {"libcublasLt.so.13", "libcublasLt.so.12"};
  const char* const given = std::getenv("LONGHAUL_CUBLASLT");
  if (!given || !*given) return names;
  // What was asked for and nothing else: another version than the wished one would go unnoticed.
  std::vector<std::string> paths = {given};
  for (const std::string& name : names) paths.push_back(std::string(given) + "/" + name);
  return paths;
}

int dtype_of(DenseType type) { return type == DenseType::kF16 ? lt::kTypeF16 : lt::kTypeBF16; }

}  // namespace

Result<std::unique_ptr<CublasLt>> CublasLt::open() {
  std::string tried;
  for (const std::string& path : candidates()) {
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);   // open until the end
    if (!library) {
      const char* const why = dlerror();
      tried += std::string(tried.empty() ? "" : "; ") + (why ? why : path.c_str());
      continue;
    }
    std::unique_ptr<CublasLt> blas(new CublasLt());
    LH_TRY(blas->load(library, path));
    return blas;
  }
  return error(ErrorCode::kDevice,
               "cuBLASLt was not found (%s). It comes with the CUDA toolkit, the package "
               "nvidia-cublas and PyTorch; LONGHAUL_CUBLASLT names the library or its folder",
               tried.c_str());
}

Status CublasLt::load(void* library, const std::string& path) {
  const auto find = [&](const char* name, auto** function) -> Status {
    *reinterpret_cast<void**>(function) = dlsym(library, name);
    if (*function) return {};
    return error(ErrorCode::kDevice, "%s: %s is missing", path.c_str(), name);
  };
  LH_TRY(find("cublasLtCreate", &functions_.create));
  LH_TRY(find("cublasLtDestroy", &functions_.destroy));
  LH_TRY(find("cublasLtGetVersion", &functions_.get_version));
  LH_TRY(find("cublasLtGetStatusName", &functions_.get_status_name));
  LH_TRY(find("cublasLtMatmulDescCreate", &functions_.desc_create));
  LH_TRY(find("cublasLtMatmulDescDestroy", &functions_.desc_destroy));
  LH_TRY(find("cublasLtMatmulDescSetAttribute", &functions_.desc_set));
  LH_TRY(find("cublasLtMatrixLayoutCreate", &functions_.layout_create));
  LH_TRY(find("cublasLtMatrixLayoutDestroy", &functions_.layout_destroy));
  LH_TRY(find("cublasLtMatmulPreferenceCreate", &functions_.preference_create));
  LH_TRY(find("cublasLtMatmulPreferenceDestroy", &functions_.preference_destroy));
  LH_TRY(find("cublasLtMatmulPreferenceSetAttribute", &functions_.preference_set));
  LH_TRY(find("cublasLtMatmulAlgoGetHeuristic", &functions_.get_heuristic));
  LH_TRY(find("cublasLtMatmul", &functions_.matmul));
  version_ = static_cast<int64_t>(functions_.get_version());
  LH_TRY(check(functions_.create(&handle_), "cublasLtCreate"));
  LH_TRY(check(functions_.desc_create(&desc_, lt::kComputeF32, lt::kTypeF32),
               "cublasLtMatmulDescCreate"));
  return check(functions_.desc_set(desc_, lt::kDescTransposeA, &lt::kTransposed,
                                   sizeof(lt::kTransposed)),
               "cublasLtMatmulDescSetAttribute");
}

CublasLt::~CublasLt() {
  for (auto& [key, plan] : plans_) destroy(plan);
  if (desc_) functions_.desc_destroy(desc_);
  if (handle_) functions_.destroy(handle_);
}

void CublasLt::destroy(Plan& plan) {
  for (const lt::MatrixLayout layout : {plan.w, plan.x, plan.y}) {
    if (layout) functions_.layout_destroy(layout);
  }
  plan = Plan();
}

Status CublasLt::check(lt::StatusCode code, const char* call) const {
  if (code == lt::kSuccess) return {};
  return error(ErrorCode::kDevice, "%s: error %d: %s", call, code,
               functions_.get_status_name(code));
}

// The library counts columns first: our row-major w [out, cols] is its cols x out, so that
// y^T [out x rows] = w^T x, with w transposed and x as it is.
Status CublasLt::choose(const Key& key, Plan* plan) {
  const int type = dtype_of(key.type);
  const auto cols = static_cast<uint64_t>(key.cols);
  const auto out = static_cast<uint64_t>(key.out);
  const auto rows = static_cast<uint64_t>(key.rows);
  LH_TRY(check(functions_.layout_create(&plan->w, type, cols, out, key.w_stride),
               "cublasLtMatrixLayoutCreate"));
  LH_TRY(check(functions_.layout_create(&plan->x, type, cols, rows, key.x_stride),
               "cublasLtMatrixLayoutCreate"));
  LH_TRY(check(functions_.layout_create(&plan->y, key.y_is_f32 ? lt::kTypeF32 : type, out, rows,
                                        key.y_stride),
               "cublasLtMatrixLayoutCreate"));

  lt::Preference preference = nullptr;
  LH_TRY(check(functions_.preference_create(&preference), "cublasLtMatmulPreferenceCreate"));
  const uint64_t workspace_bytes = kWorkspaceBytes;
  lt::StatusCode code = functions_.preference_set(preference, lt::kPreferenceWorkspace,
                                                  &workspace_bytes, sizeof(workspace_bytes));
  for (const auto& [attribute, alignment] :
       {std::pair(lt::kPreferenceAlignmentA, key.w_alignment),
        std::pair(lt::kPreferenceAlignmentB, key.x_alignment),
        std::pair(lt::kPreferenceAlignmentC, key.y_alignment),
        std::pair(lt::kPreferenceAlignmentD, key.y_alignment)}) {
    if (code == lt::kSuccess) {
      code = functions_.preference_set(preference, attribute, &alignment, sizeof(alignment));
    }
  }
  lt::HeuristicResult result{};
  int found = 0;
  if (code == lt::kSuccess) {
    code = functions_.get_heuristic(handle_, desc_, plan->w, plan->x, plan->y, plan->y, preference,
                                    1, &result, &found);
  }
  functions_.preference_destroy(preference);
  if (code == lt::kSuccess && found > 0) code = result.state;
  if (code != lt::kSuccess || found == 0) {
    return error(ErrorCode::kDevice, "cuBLASLt has no algorithm for [%d, %d] x [%d, %d] (%s)",
                 key.rows, key.cols, key.out, key.cols,
                 code == lt::kSuccess ? "none found" : functions_.get_status_name(code));
  }
  plan->algorithm = result.algorithm;
  plan->workspace_bytes = result.workspace_bytes;
  return {};
}

Result<const CublasLt::Plan*> CublasLt::plan(const DenseProduct& p) {
  const Key key{p.type,
                p.y_is_f32,
                p.accumulate,
                p.rows,
                p.out,
                p.cols,
                p.x_stride,
                p.w_stride,
                p.y_stride,
                alignment_of(p.x),
                alignment_of(p.w),
                alignment_of(p.y)};
  if (const auto known = plans_.find(key); known != plans_.end()) return &known->second;
  if (plans_.size() >= kPlansMax) {
    for (auto& [old_key, old] : plans_) destroy(old);
    plans_.clear();
  }
  Plan fresh;
  if (Status status = choose(key, &fresh); !status.ok()) {
    destroy(fresh);
    return status;
  }
  return &plans_.emplace(key, fresh).first->second;
}

Status CublasLt::prepare(const DenseProduct& product) { return plan(product).status(); }

Status CublasLt::run(const DenseProduct& product, void* workspace, lt::StreamHandle stream) {
  LH_ASSIGN_OR_RETURN(const Plan* chosen, plan(product));
  const float alpha = 1.0f;
  const float beta = product.accumulate ? 1.0f : 0.0f;
  return check(functions_.matmul(handle_, desc_, &alpha, product.w, chosen->w, product.x, chosen->x,
                                 &beta, product.y, chosen->y, product.y, chosen->y,
                                 &chosen->algorithm, workspace, chosen->workspace_bytes, stream),
               "cublasLtMatmul");
}

}  // namespace longhaul::cuda
