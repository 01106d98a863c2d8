// Attention kernels: portable C++, the oracle.
#include "backend/cpu/attention_kernels_impl.h"

namespace longhaul::cpu {

const AttentionKernels& attention_kernels_scalar() { return kAttentionKernels; }

}  // namespace longhaul::cpu
