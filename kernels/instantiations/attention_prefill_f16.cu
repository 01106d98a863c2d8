#include "instantiations/attention_prefill_of.cuh"

namespace longhaul::device {

template int launch_attention_prefill_of<CacheType::kF16>(const AttentionParams&, Stream);

}  // namespace longhaul::device
