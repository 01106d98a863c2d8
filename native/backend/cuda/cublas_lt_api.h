// The part of cuBLASLt's C interface that dense products need, declared here because toolkits come
// without cublasLt.h and the library is opened at run time. Names, numbers and layouts are those of
// NVIDIA's public header cublasLt.h (and cublas_api.h, library_types.h); they are the same in
// versions 12 and 13. test/native/cublas_lt_check.cc compares them with a header at hand: done with
// those of cuBLAS 12.9.3.13 and 13.10.0.20.
#pragma once

#include <cstddef>
#include <cstdint>

namespace longhaul::cuda::lt {

using Handle = struct HandleTag*;               // cublasLtHandle_t
using MatmulDesc = struct MatmulDescTag*;       // cublasLtMatmulDesc_t
using MatrixLayout = struct MatrixLayoutTag*;   // cublasLtMatrixLayout_t
using Preference = struct PreferenceTag*;       // cublasLtMatmulPreference_t
using StreamHandle = void*;                      // cudaStream_t

// C enums; ints at the call.
using StatusCode = int;                         // cublasStatus_t
constexpr StatusCode kSuccess = 0;              // CUBLAS_STATUS_SUCCESS
constexpr int kComputeF32 = 68;                 // CUBLAS_COMPUTE_32F
constexpr int kTypeF32 = 0;                     // CUDA_R_32F
constexpr int kTypeF16 = 2;                     // CUDA_R_16F
constexpr int kTypeBF16 = 14;                   // CUDA_R_16BF
constexpr int32_t kTransposed = 1;              // CUBLAS_OP_T
constexpr int kDescTransposeA = 3;              // CUBLASLT_MATMUL_DESC_TRANSA, int32_t
// CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t; ..._MIN_ALIGNMENT_A_BYTES, uint32_t
constexpr int kPreferenceWorkspace = 1;
constexpr int kPreferenceAlignmentA = 5;
constexpr int kPreferenceAlignmentB = 6;
constexpr int kPreferenceAlignmentC = 7;
constexpr int kPreferenceAlignmentD = 8;

struct Algorithm {                              // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct HeuristicResult {                        // cublasLtMatmulHeuristicResult_t
  Algorithm algorithm;
  size_t workspace_bytes;
  StatusCode state;
  float waves;
  int reserved[4];
};

using CreateFunction = StatusCode(Handle*);
using DestroyFunction = StatusCode(Handle);
using GetVersionFunction = size_t();
using GetStatusNameFunction = const char*(StatusCode);
using MatmulDescCreateFunction = StatusCode(MatmulDesc*, int compute_type, int scale_type);
using MatmulDescDestroyFunction = StatusCode(MatmulDesc);
using MatmulDescSetAttributeFunction = StatusCode(MatmulDesc, int attribute, const void* value,
                                                  size_t bytes);
using MatrixLayoutCreateFunction = StatusCode(MatrixLayout*, int type, uint64_t rows,
                                              uint64_t cols, int64_t ld);
using MatrixLayoutDestroyFunction = StatusCode(MatrixLayout);
using PreferenceCreateFunction = StatusCode(Preference*);
using PreferenceDestroyFunction = StatusCode(Preference);
using PreferenceSetAttributeFunction = StatusCode(Preference, int attribute, const void* value,
                                                  size_t bytes);
using GetHeuristicFunction = StatusCode(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b,
                                        MatrixLayout c, MatrixLayout d, Preference, int asked,
                                        HeuristicResult* results, int* found);
using MatmulFunction = StatusCode(Handle, MatmulDesc, const void* alpha, const void* a,
                                  MatrixLayout a_layout, const void* b, MatrixLayout b_layout,
                                  const void* beta, const void* c, MatrixLayout c_layout, void* d,
                                  MatrixLayout d_layout, const Algorithm*, void* workspace,
                                  size_t workspace_bytes, StreamHandle);

}  // namespace longhaul::cuda::lt
