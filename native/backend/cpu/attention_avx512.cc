// Attention kernels: AVX-512 F/BW/VL/DQ.
#include "backend/cpu/attention_kernels_impl.h"

namespace longhaul::cpu {

const AttentionKernels& attention_kernels_avx512() { return kAttentionKernels; }

}  // namespace longhaul::cpu
