// Compares native/backend/cuda/cublas_lt_api.h with NVIDIA's headers, when the compiler is given
// them (the wheels nvidia-cublas and nvidia-cublas-cu12 carry them); nothing to run:
//   g++ -std=c++20 -fsyntax-only -I native -I CUBLAS/include -I TOOLKIT/include \
//     test/native/cublas_lt_check.cc
#include <cublasLt.h>

#include <cstddef>
#include <type_traits>

#include "backend/cuda/cublas_lt_api.h"

namespace {

namespace lt = longhaul::cuda::lt;

static_assert(lt::kSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(lt::kComputeF32 == CUBLAS_COMPUTE_32F);
static_assert(lt::kTypeF32 == CUDA_R_32F);
static_assert(lt::kTypeF16 == CUDA_R_16F);
static_assert(lt::kTypeBF16 == CUDA_R_16BF);
static_assert(lt::kTransposed == CUBLAS_OP_T);
static_assert(lt::kDescTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(lt::kPreferenceWorkspace == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(lt::kPreferenceAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(lt::kPreferenceAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(lt::kPreferenceAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(lt::kPreferenceAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
using Theirs = cublasLtMatmulHeuristicResult_t;
static_assert(sizeof(lt::HeuristicResult) == sizeof(Theirs));
static_assert(alignof(lt::HeuristicResult) == alignof(Theirs));
static_assert(offsetof(lt::HeuristicResult, algorithm) == offsetof(Theirs, algo));
static_assert(offsetof(lt::HeuristicResult, workspace_bytes) == offsetof(Theirs, workspaceSize));
static_assert(offsetof(lt::HeuristicResult, state) == offsetof(Theirs, state));
static_assert(offsetof(lt::HeuristicResult, waves) == offsetof(Theirs, wavesCount));

// A parameter is passed alike if both are the same scalar or C enum and int, or both pointers.
template <typename Ours, typename Other>
constexpr bool kPassedAlike =
    std::is_pointer_v<Ours> ? std::is_pointer_v<Other>
    : std::is_enum_v<Other> ? std::is_same_v<Ours, int> && sizeof(Other) == sizeof(int)
                            : std::is_same_v<Ours, Other>;
template <typename Ours, typename Other>
struct Same;
template <typename R, typename... A, typename S, typename... B>
  requires(sizeof...(A) == sizeof...(B))
struct Same<R(A...), S(B...)> {
  static constexpr bool value = kPassedAlike<R, S> && (kPassedAlike<A, B> && ...);
};
template <typename Ours, typename Other>
constexpr bool kSame = Same<Ours, std::remove_pointer_t<Other>>::value;

static_assert(kSame<lt::CreateFunction, decltype(&cublasLtCreate)>);
static_assert(kSame<lt::DestroyFunction, decltype(&cublasLtDestroy)>);
static_assert(kSame<lt::GetVersionFunction, decltype(&cublasLtGetVersion)>);
static_assert(kSame<lt::GetStatusNameFunction, decltype(&cublasLtGetStatusName)>);
static_assert(kSame<lt::MatmulDescCreateFunction, decltype(&cublasLtMatmulDescCreate)>);
static_assert(kSame<lt::MatmulDescDestroyFunction, decltype(&cublasLtMatmulDescDestroy)>);
static_assert(kSame<lt::MatmulDescSetAttributeFunction, decltype(&cublasLtMatmulDescSetAttribute)>);
static_assert(kSame<lt::MatrixLayoutCreateFunction, decltype(&cublasLtMatrixLayoutCreate)>);
static_assert(kSame<lt::MatrixLayoutDestroyFunction, decltype(&cublasLtMatrixLayoutDestroy)>);
static_assert(kSame<lt::PreferenceCreateFunction, decltype(&cublasLtMatmulPreferenceCreate)>);
static_assert(kSame<lt::PreferenceDestroyFunction, decltype(&cublasLtMatmulPreferenceDestroy)>);
static_assert(
    kSame<lt::PreferenceSetAttributeFunction, decltype(&cublasLtMatmulPreferenceSetAttribute)>);
static_assert(kSame<lt::GetHeuristicFunction, decltype(&cublasLtMatmulAlgoGetHeuristic)>);
static_assert(kSame<lt::MatmulFunction, decltype(&cublasLtMatmul)>);

}  // namespace
