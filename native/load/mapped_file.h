// MappedFile: a whole file mapped read-only. Pages are the file's own (page cache), so a mapped
// model costs no anonymous memory; but those that were read count as resident until they are
// dropped or the destructor unmaps them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "status.h"

namespace longhaul {

class MappedFile {
 public:
  // kModelFormat with the path and the system's reason when the file cannot be opened or mapped.
  static Result<std::shared_ptr<MappedFile>> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }  // null for an empty file
  int64_t size() const { return size_; }

  // Takes the pages that hold these bytes out of the process; a later read brings them back from the
  // page cache. Advice: never fails, never changes what is read. Thread safe.
  void drop(int64_t offset, int64_t bytes) const;

 private:
  MappedFile(const std::byte* data, int64_t size) : data_(data), size_(size) {}
  const std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace longhaul
