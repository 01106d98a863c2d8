#include "backend/cpu/small_ops.h"

#include "backend/cpu/isa.h"

namespace longhaul::cpu {

const RowOps& row_ops(Isa isa) {
#if defined(__x86_64__)
  if (isa >= Isa::kAvx512) return row_ops_avx512();
  if (isa == Isa::kAvx2) return row_ops_avx2();
#endif
  (void)isa;
  return row_ops_scalar();
}

}  // namespace longhaul::cpu
