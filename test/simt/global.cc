#include "simt/global.h"

#include <string>

#include "simt/memory.h"
#include "simt/simt.h"

namespace longhaul::simt {

void check_global(const void* address, uint32_t bytes, uint32_t alignment, const char* verb,
                  Site site) {
  Thread& self = *current;
  self.site = site;
  if (reinterpret_cast<uintptr_t>(address) % alignment != 0) {
    self.block->fault(kMisalignedAddress,
                      std::string("global ") + verb + " of " + std::to_string(bytes) +
                          " bytes is not aligned to " + std::to_string(alignment),
                      self, site);
  }
  const std::string wrong = check_allocation(address, bytes);
  if (!wrong.empty()) {
    self.block->fault(kIllegalAddress,
                      std::string("global ") + verb + " of " + std::to_string(bytes) +
                          " bytes out of bounds: " + wrong,
                      self, site);
  }
}

}  // namespace longhaul::simt
