// Streams of the emulator, as far as a launch needs them; the rest of a stream's life belongs to
// the emulated device runtime.
#pragma once

#include <functional>

namespace longhaul::simt {

// Queues work on a stream; it runs when the stream's turn comes. A null stream runs it at once.
// `work` returns 0 or an error number. Returns work's number if it ran, 0 if it was queued, or an
// error of the stream.
int enqueue(void* stream, std::function<int()> work);

}  // namespace longhaul::simt
