// Attention kernels: AVX2, FMA and F16C.
#include "backend/cpu/attention_kernels_impl.h"

namespace longhaul::cpu {

const AttentionKernels& attention_kernels_avx2() { return kAttentionKernels; }

}  // namespace longhaul::cpu
