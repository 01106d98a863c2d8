#include "instantiations/attention_decode_of.cuh"

namespace longhaul::device {

template int launch_attention_decode_of<CacheType::kBF16>(const AttentionParams&, Stream);

}  // namespace longhaul::device
