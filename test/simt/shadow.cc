#include "simt/machine.h"
#include "simt/shared.h"
#include "simt/simt.h"

namespace longhaul::simt {

constinit thread_local bool checks_on __attribute__((tls_model("initial-exec"))) = true;

void check_shared(const void* address, uint32_t bytes, uint32_t alignment, bool write,
                  std::source_location site) {
  Thread& self = *current;
  if (site.line() == 0) site = self.site;
  self.site = site;
  const auto offset = static_cast<const std::byte*>(address) - self.block->shared();
  const char* const verb = write ? "write" : "read";
  if (offset < 0 || offset + int64_t{bytes} > int64_t{self.block->shared_bytes()}) {
    self.block->fault(kIllegalAddress,
                      std::string("shared ") + verb + " of " + std::to_string(bytes) +
                          " bytes at offset " + std::to_string(offset) + " of " +
                          std::to_string(self.block->shared_bytes()),
                      self, site);
  }
  if (offset % alignment != 0) {
    self.block->fault(kMisalignedAddress,
                      std::string("shared ") + verb + " at offset " + std::to_string(offset) +
                          " is not aligned to " + std::to_string(alignment),
                      self, site);
  }
}

}  // namespace longhaul::simt
