// Files map whole, and tensor tables refuse everything that does not fit them.
#include "load/mapped_file.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>

#include "load/tensor_table.h"
#include "test.h"

using namespace longhaul;

namespace {

// A temporary file of the given bytes, removed at the end.
class TempFile {
 public:
  explicit TempFile(const std::string& bytes) {
    const char* folder = std::getenv("TMPDIR");
    path_ = std::string(folder != nullptr ? folder : "/tmp") + "/longhaul_test_XXXXXX";
    const int file = ::mkstemp(path_.data());
    EXPECT_EQ(::write(file, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    ::close(file);
  }
  ~TempFile() { ::unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TensorSource source(const char* name, DType dtype, int64_t rows, int64_t cols, int64_t offset) {
  TensorSource out;
  out.name = name;
  out.dtype = dtype;
  out.rows = rows;
  out.cols = cols;
  out.file = 0;
  out.offset = offset;
  return out;
}

void expect_refused(const std::string& path, const TensorSource& tensor, const char* what) {
  const std::vector<std::string> files = {path};
  const std::vector<TensorSource> sources = {tensor};
  const auto loaded = load_tensors(files, sources, 0);
  EXPECT_TRUE(!loaded.ok() && loaded.status().code() == ErrorCode::kModelFormat);
  if (loaded.status().message().find(what) == std::string::npos) {
    lh_test::fail(__FILE__, __LINE__, "expected \"" + std::string(what) + "\" in: " + loaded.status().message());
  }
}

}  // namespace

LH_TEST(a_file_maps_whole) {
  std::string bytes(10000, 'x');
  bytes[9999] = 'y';
  const TempFile file(bytes);
  auto mapped = MappedFile::open(file.path());
  EXPECT_TRUE(mapped.ok());
  EXPECT_EQ(mapped.value()->size(), int64_t{10000});
  EXPECT_TRUE(std::memcmp(mapped.value()->data(), bytes.data(), bytes.size()) == 0);
}

LH_TEST(an_empty_file_maps_to_nothing) {
  const TempFile file("");
  auto mapped = MappedFile::open(file.path());
  EXPECT_TRUE(mapped.ok());
  EXPECT_EQ(mapped.value()->size(), int64_t{0});
}

LH_TEST(what_is_no_file_is_refused_by_name) {
  const auto missing = MappedFile::open("/nonexistent/model.gguf");
  EXPECT_TRUE(missing.status().code() == ErrorCode::kModelFormat);
  EXPECT_TRUE(missing.status().message().find("/nonexistent/model.gguf") != std::string::npos);
  EXPECT_TRUE(!MappedFile::open("/").ok());
}

LH_TEST(tensors_are_ranges_of_their_file) {
  std::string bytes(100, 0);
  const float values[] = {1.5f, -2.0f};
  std::memcpy(bytes.data() + 5, values, sizeof(values));  // any alignment
  const TempFile file(bytes);
  const std::vector<std::string> files = {file.path()};
  std::vector<TensorSource> sources = {source("a", DType::kF32, 1, 2, 5),
                                       source("end", DType::kQ8_0, 2, 32, 32)};
  sources.push_back({.name = "r", .dtype = DType::kF32, .rows = 2, .cols = 3, .seed = 4});
  auto loaded = load_tensors(files, sources, 0);
  EXPECT_EQ(loaded.status().message(), std::string());
  if (!loaded.ok()) return;
  const WeightSet& weights = loaded.value().weights;
  EXPECT_EQ(weights.size(), size_t{3});
  EXPECT_TRUE(std::memcmp(weights.find("a")->data, values, sizeof(values)) == 0);
  EXPECT_EQ(weights.find("end")->data - weights.find("a")->data, std::ptrdiff_t{27});
  EXPECT_TRUE(weights.find("r")->data != nullptr);
  EXPECT_TRUE(weights.require("a", 1, 2).ok());
  EXPECT_TRUE(weights.require("a", 2, 1).status().code() == ErrorCode::kModelFormat);
  EXPECT_TRUE(weights.require("b", 1, 2).status().message().find("found none") != std::string::npos);
}

LH_TEST(tensors_that_do_not_fit_are_refused) {
  const TempFile file(std::string(100, 0));
  const std::string& path = file.path();
  expect_refused(path, source("t", DType::kF32, 1, 26, 0), "do not fit");
  expect_refused(path, source("t", DType::kF32, 1, 1, 97), "do not fit");
  expect_refused(path, source("t", DType::kF32, 1, 1, -1), "do not fit");
  expect_refused(path, source("t", DType::kF32, 1, 1, INT64_MAX), "do not fit");
  expect_refused(path, source("t", DType::kF32, 0, 1, 0), "not possible");
  expect_refused(path, source("t", DType::kF32, INT64_MAX, INT64_MAX, 0), "not possible");
  expect_refused(path, source("t", DType::kF32, int64_t{1} << 31, int64_t{1} << 31, 0), "not possible");
  expect_refused(path, source("t", DType::kQ4_0, 1, 33, 0), "multiple of 32");
  TensorSource other = source("t", DType::kF32, 1, 1, 0);
  other.file = 1;
  expect_refused(path, other, "file index");
  other.file = -2;
  expect_refused(path, other, "file index");
  const std::vector<std::string> files = {path};
  const std::vector<TensorSource> twice = {source("t", DType::kF32, 1, 1, 0),
                                           source("t", DType::kF32, 1, 1, 4)};
  EXPECT_TRUE(load_tensors(files, twice, 0).status().message().find("twice") != std::string::npos);
}

LH_TEST_MAIN
