// Row operations: AVX-512 F/BW/VL/DQ.
#include "backend/cpu/small_ops_impl.h"

namespace longhaul::cpu {

const RowOps& row_ops_avx512() { return kRowOps; }

}  // namespace longhaul::cpu
