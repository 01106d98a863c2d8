#include "load/tensor_table.h"

#include "load/mapped_file.h"
#include "load/random_tensor.h"

namespace longhaul {
namespace {

struct Owner {
  std::vector<std::shared_ptr<MappedFile>> files;
  std::vector<std::unique_ptr<std::byte[]>> random;
};

constexpr int64_t kSideMax = int64_t{1} << 31;
constexpr int64_t kElementsMax = int64_t{1} << 44;  // bytes stay far below 2^63 for any type

Status check_shape(const TensorSource& source) {
  const DTypeInfo& info = dtype_info(source.dtype);
  if (source.rows < 1 || source.rows > kSideMax || source.cols < 1 || source.cols > kSideMax ||
      source.rows > kElementsMax / source.cols) {
    return error(ErrorCode::kModelFormat, "tensor %s: a shape of [%lld, %lld] is not possible",
                 source.name.c_str(), static_cast<long long>(source.rows),
                 static_cast<long long>(source.cols));
  }
  if (source.cols % info.block_elements != 0) {
    return error(ErrorCode::kModelFormat,
                 "tensor %s: %s needs rows of a multiple of %d elements, found %lld",
                 source.name.c_str(), info.name, info.block_elements,
                 static_cast<long long>(source.cols));
  }
  return {};
}

Result<const std::byte*> mapped_bytes(const TensorSource& source, std::span<const std::string> paths,
                                      const Owner& owner) {
  if (source.file < 0 || static_cast<size_t>(source.file) >= owner.files.size()) {
    return error(ErrorCode::kModelFormat, "tensor %s: file index: expected below %zu, found %d",
                 source.name.c_str(), owner.files.size(), source.file);
  }
  const size_t index = static_cast<size_t>(source.file);
  const MappedFile& file = *owner.files[index];
  const int64_t bytes = source.rows * row_bytes(source.dtype, source.cols);
  if (source.offset < 0 || bytes > file.size() || source.offset > file.size() - bytes) {
    return error(ErrorCode::kModelFormat,
                 "%s: tensor %s: %lld bytes at offset %lld do not fit a file of %lld bytes",
                 paths[index].c_str(), source.name.c_str(), static_cast<long long>(bytes),
                 static_cast<long long>(source.offset), static_cast<long long>(file.size()));
  }
  return file.data() + source.offset;
}

Result<const std::byte*> random_bytes(const TensorSource& source, float norm_weight_offset,
                                      Owner& owner) {
  RandomTensor request;
  request.dtype = source.dtype;
  request.rows = source.rows;
  request.cols = source.cols;
  request.seed = source.seed;
  request.kind = random_kind_of(source.name.c_str());
  request.norm_offset = -norm_weight_offset;
  LH_ASSIGN_OR_RETURN(std::unique_ptr<std::byte[]> bytes, make_random_tensor(request));
  owner.random.push_back(std::move(bytes));
  return static_cast<const std::byte*>(owner.random.back().get());
}

}  // namespace

Result<LoadedTensors> load_tensors(std::span<const std::string> files,
                                   std::span<const TensorSource> sources,
                                   float norm_weight_offset) {
  auto owner = std::make_shared<Owner>();
  for (const std::string& path : files) {
    LH_ASSIGN_OR_RETURN(std::shared_ptr<MappedFile> file, MappedFile::open(path));
    owner->files.push_back(std::move(file));
  }
  LoadedTensors loaded;
  for (const TensorSource& source : sources) {
    LH_TRY(check_shape(source));
    if (loaded.weights.find(source.name) != nullptr) {
      return error(ErrorCode::kModelFormat, "tensor %s: expected once, found twice",
                   source.name.c_str());
    }
    LH_ASSIGN_OR_RETURN(const std::byte* data,
                        source.file == kRandomTensorFile
                            ? random_bytes(source, norm_weight_offset, *owner)
                            : mapped_bytes(source, files, *owner));
    loaded.weights.add({source.name, source.dtype, source.rows, source.cols, data});
  }
  loaded.keep_alive = owner;
  return loaded;
}

}  // namespace longhaul
