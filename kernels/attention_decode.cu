// Launcher of attention_decode: by type of K and V here, by head_dim in instantiations/, where each
// type is a file of its own (all in one would compile for minutes).
#include "attention_decode.h"

#include "attention_shapes.h"

namespace longhaul::device {

template <CacheType kType>
int launch_attention_decode_of(const AttentionParams& params, Stream stream);
extern template int launch_attention_decode_of<CacheType::kF16>(const AttentionParams&, Stream);
extern template int launch_attention_decode_of<CacheType::kBF16>(const AttentionParams&, Stream);
extern template int launch_attention_decode_of<CacheType::kQ8>(const AttentionParams&, Stream);
extern template int launch_attention_decode_of<CacheType::kFp8>(const AttentionParams&, Stream);

int launch_attention_decode(const AttentionParams& params, Stream stream) {
  if (!is_attention_launch(params)) return kInvalidLaunch;
  switch (params.cache.type) {
    case CacheType::kF16: return launch_attention_decode_of<CacheType::kF16>(params, stream);
    case CacheType::kBF16: return launch_attention_decode_of<CacheType::kBF16>(params, stream);
    case CacheType::kQ8: return launch_attention_decode_of<CacheType::kQ8>(params, stream);
    case CacheType::kFp8: return launch_attention_decode_of<CacheType::kFp8>(params, stream);
  }
  return kInvalidLaunch;
}

}  // namespace longhaul::device
