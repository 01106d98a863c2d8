// What a launcher needs of the host, in plain C++: an opaque stream and the meaning of its return
// value. Every launcher is `int launch_<name>(const <Name>Params&, Stream)`: 0 is success, anything
// else a cudaError_t value (the emulator uses the same numbers). A launcher allocates nothing,
// waits for nothing and keeps nothing; rows or items of 0 are allowed and launch nothing.
#pragma once

namespace longhaul::device {

// A cudaStream_t, or a stream of the emulator.
struct Stream {
  void* handle = nullptr;
};

// cudaErrorInvalidValue: params that no instantiation serves.
constexpr int kInvalidLaunch = 1;

}  // namespace longhaul::device
