// PackedMemory: bytes for packed weights on huge pages. A model has hundreds of matrices, most of
// them smaller than a 2 MB page, so small ones share slabs; a slab goes back to the system with
// its last owner.
#pragma once

#include <cstddef>
#include <memory>

namespace longhaul::cpu {

class PackedMemory {
 public:
  PackedMemory() = default;
  // Zeroed, 64-byte aligned; data() is null when the system has no memory. Thread safe.
  static PackedMemory allocate(size_t bytes);
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  struct Slab;
  std::shared_ptr<Slab> slab_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace longhaul::cpu
