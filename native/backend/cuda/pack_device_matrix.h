// Packs weights as the device wants them, a range of units at a time, so that an uploader can pack
// one staging buffer while another is being copied, on as many threads as it likes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/cuda/device_matrix_layout.h"

namespace longhaul::cuda {

// Units [first, end) of the piece to out, (end - first) * piece.unit_bytes bytes, every one of them
// written. `parts` are those the layout was planned for. Safe to call from several threads.
void pack_device_units(std::span<const TensorView> parts, const DevicePiece& piece, int64_t first,
                       int64_t end, std::byte* out);

}  // namespace longhaul::cuda
