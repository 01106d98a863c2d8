// Row operations: portable C++, the oracle.
#include "backend/cpu/small_ops_impl.h"

namespace longhaul::cpu {

const RowOps& row_ops_scalar() { return kRowOps; }

}  // namespace longhaul::cpu
