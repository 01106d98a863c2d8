#include "load/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace longhaul {
namespace {

Status system_error(const std::string& path, const char* what) {
  return error(ErrorCode::kModelFormat, "%s: cannot %s: %s", path.c_str(), what,
               std::strerror(errno));
}

struct Descriptor {
  int value = -1;
  ~Descriptor() {
    if (value >= 0) ::close(value);
  }
};

}  // namespace

Result<std::shared_ptr<MappedFile>> MappedFile::open(const std::string& path) {
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.value < 0) return system_error(path, "open");
  struct stat info = {};
  if (::fstat(file.value, &info) != 0) return system_error(path, "stat");
  if (!S_ISREG(info.st_mode)) {
    return error(ErrorCode::kModelFormat, "%s: expected a regular file", path.c_str());
  }
  const int64_t size = info.st_size;
  if (size == 0) return std::shared_ptr<MappedFile>(new MappedFile(nullptr, 0));
  void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_SHARED, file.value, 0);
  if (data == MAP_FAILED) return system_error(path, "map");
  // Repacking reads every tensor once, front to back: ask for read-ahead.
  ::madvise(data, static_cast<size_t>(size), MADV_WILLNEED);
  return std::shared_ptr<MappedFile>(new MappedFile(static_cast<const std::byte*>(data), size));
}

void MappedFile::drop(int64_t offset, int64_t bytes) const {
  // Reading a page maps its neighbors of the same 64 KiB too: what lies around goes as well.
  constexpr int64_t kAround = 64 << 10;
  const int64_t begin = std::max<int64_t>(0, offset) / kAround * kAround;
  const int64_t end = std::min(size_, (offset + bytes + kAround - 1) / kAround * kAround);
  if (begin >= end) return;
  ::madvise(const_cast<std::byte*>(data_) + begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(size_));
  }
}

}  // namespace longhaul
