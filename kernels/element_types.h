// Storage types of 16- and 8-bit floats, shared by host and device code. Arithmetic happens in
// f32; conversions on the device are primitives of device.cuh, on the host they are below the
// types that need them (native/backend/cuda). Plain C++: needs no CUDA toolkit.
#pragma once

#include <cstdint>

namespace longhaul::device {

// IEEE 754 binary16.
struct f16 {
  uint16_t bits;
};
// The upper half of a binary32.
struct bf16 {
  uint16_t bits;
};
// OCP FP8 E4M3: no infinities, NaN = S.1111.111, largest finite value 448.
struct fp8 {
  uint8_t bits;
};

}  // namespace longhaul::device
