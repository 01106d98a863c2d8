// Row operations: AVX2, FMA and F16C.
#include "backend/cpu/small_ops_impl.h"

namespace longhaul::cpu {

const RowOps& row_ops_avx2() { return kRowOps; }

}  // namespace longhaul::cpu
