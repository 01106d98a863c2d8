#include "simt/stream.h"

#include <utility>

#include "simt/emulated_device.h"

namespace longhaul::simt {

int enqueue(void* stream, std::function<int()> work, const std::string& name) {
  if (!stream) return work();
  auto* const queue = static_cast<EmulatedStream*>(stream);
  return queue->device->launch_kernel(queue, std::move(work), name);
}

}  // namespace longhaul::simt
