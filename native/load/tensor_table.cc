#include "load/tensor_table.h"

#include "load/mapped_file.h"
#include "load/random_tensor.h"

namespace longhaul {
namespace {

using Files = std::vector<std::shared_ptr<MappedFile>>;

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

// The range of a file that a tensor is; its pages leave the process with the lease.
Result<WeightSet::Open> mapped_bytes(const TensorSource& source, std::span<const std::string> paths,
                                     const Files& files) {
  if (source.file < 0 || static_cast<size_t>(source.file) >= files.size()) {
    return error(ErrorCode::kModelFormat, "tensor %s: file index: expected below %zu, found %d",
                 source.name.c_str(), files.size(), source.file);
  }
  const size_t index = static_cast<size_t>(source.file);
  const std::shared_ptr<MappedFile> file = files[index];
  const int64_t bytes = source.rows * row_bytes(source.dtype, source.cols);
  if (source.offset < 0 || bytes > file->size() || source.offset > file->size() - bytes) {
    return error(ErrorCode::kModelFormat,
                 "%s: tensor %s: %lld bytes at offset %lld do not fit a file of %lld bytes",
                 paths[index].c_str(), source.name.c_str(), static_cast<long long>(bytes),
                 static_cast<long long>(source.offset), static_cast<long long>(file->size()));
  }
  return WeightSet::Open([file, offset = source.offset, bytes]() -> Result<LeasedBytes> {
    const std::byte* const data = file->data() + offset;
    return LeasedBytes{data, std::shared_ptr<const void>(data, [file, offset, bytes](const void*) {
                         file->drop(offset, bytes);
                       })};
  });
}

WeightSet::Open random_bytes(const TensorSource& source, float norm_weight_offset) {
  RandomTensor request;
  request.dtype = source.dtype;
  request.rows = source.rows;
  request.cols = source.cols;
  request.seed = source.seed;
  request.kind = random_kind_of(source.name.c_str());
  request.norm_offset = -norm_weight_offset;
  return [request]() -> Result<LeasedBytes> {
    LH_ASSIGN_OR_RETURN(std::unique_ptr<std::byte[]> bytes, make_random_tensor(request));
    const std::byte* const data = bytes.get();
    return LeasedBytes{data, std::shared_ptr<const std::byte[]>(std::move(bytes))};
  };
}

}  // namespace

Result<WeightSet> load_tensors(std::span<const std::string> files,
                                   std::span<const TensorSource> sources,
                                   float norm_weight_offset) {
  Files mapped;
  for (const std::string& path : files) {
    LH_ASSIGN_OR_RETURN(std::shared_ptr<MappedFile> file, MappedFile::open(path));
    mapped.push_back(std::move(file));
  }
  WeightSet weights;
  for (const TensorSource& source : sources) {
    LH_TRY(check_shape(source));
    if (weights.find(source.name) != nullptr) {
      return error(ErrorCode::kModelFormat, "tensor %s: expected once, found twice",
                   source.name.c_str());
    }
    WeightSet::Open open;
    if (source.file == kRandomTensorFile) {
      open = random_bytes(source, norm_weight_offset);
    } else {
      LH_ASSIGN_OR_RETURN(open, mapped_bytes(source, files, mapped));
    }
    TensorView tensor;
    tensor.name = source.name;
    tensor.dtype = source.dtype;
    tensor.rows = source.rows;
    tensor.cols = source.cols;
    weights.add(std::move(tensor), std::move(open));
  }
  return weights;
}

}  // namespace longhaul
