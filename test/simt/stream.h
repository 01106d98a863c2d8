// Streams of the emulator, as far as a launch needs them; the rest of a stream's life belongs to
// the emulated device runtime.
#pragma once

#include <functional>
#include <string>

namespace longhaul::simt {

// Queues work on a stream; it runs when the stream's turn comes. A null stream runs it at once.
// `work` returns 0 or an error number. Returns work's number if it ran, 0 if it was queued, or an
// error of the stream. `name` is the kernel's, for reports.
int enqueue(void* stream, std::function<int()> work, const std::string& name = "kernel");

}  // namespace longhaul::simt
