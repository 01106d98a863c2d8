#include "simt/warp.h"

namespace longhaul::simt {

void warp_sync(Site site) {
  Thread& self = *current;
  if (!self.block->warp_arrive(self, "warp_sync", nullptr, site)) return;
  if (checks_on) self.block->clocks().warp_barrier(self.id / kWarpLanes);
  self.block->warp_release(self);
}

uint32_t ballot(bool predicate, const char* primitive, Site site) {
  uint32_t operand = predicate;
  Thread& self = *current;
  if (self.block->warp_arrive(self, primitive, &operand, site)) {
    uint32_t bits = 0;
    for (uint32_t i = 0; i < kWarpLanes; ++i) {
      bits |= *static_cast<uint32_t*>(self.warp->lanes[i]) << i;
    }
    for (void* const lane : self.warp->lanes) *static_cast<uint32_t*>(lane) = bits;
    self.block->warp_release(self);
  }
  return operand;
}

void fence_async_proxy(Site site) {
  current->site = site;
  if (checks_on) current->block->shadow().proxy_fence(current->id);
}

void mma(MmaLane& operands, const char* primitive, void (*work)(void* const*), Site site) {
  Thread& self = *current;
  if (self.block->warp_arrive(self, primitive, &operands, site)) {
    work(self.warp->lanes);
    self.block->warp_release(self);
  }
}

void load_matrix_operands(LoadMatrixLane& operands, const char* primitive, int num_matrices,
                          bool transposed, Site site) {
  Thread& self = *current;
  if (checks_on && self.lane < static_cast<uint32_t>(8 * num_matrices)) {
    check_shared(operands.row, 16, 16, AccessKind::kRead, site);
  }
  if (self.block->warp_arrive(self, primitive, &operands, site)) {
    load_matrix(self.warp->lanes, num_matrices, transposed);
    self.block->warp_release(self);
  }
}

}  // namespace longhaul::simt
