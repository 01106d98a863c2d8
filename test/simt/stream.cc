#include "simt/stream.h"

namespace longhaul::simt {

int enqueue(void* /*stream*/, std::function<int()> work) { return work(); }

}  // namespace longhaul::simt
