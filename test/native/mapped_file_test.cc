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
  const WeightSet& weights = loaded.value();
  EXPECT_EQ(weights.size(), size_t{3});
  EXPECT_TRUE(weights.find("a")->dtype == DType::kF32);
  const TensorView a = weights.require("a", 1, 2).value();
  EXPECT_TRUE(std::memcmp(a.data, values, sizeof(values)) == 0);
  EXPECT_EQ(weights.require("end", 2, 32).value().data - a.data, std::ptrdiff_t{27});
  EXPECT_TRUE(weights.require("a", 2, 1).status().code() == ErrorCode::kModelFormat);
  EXPECT_TRUE(weights.require("b", 1, 2).status().message().find("found none") != std::string::npos);
}

LH_TEST(random_values_live_as_long_as_their_view) {
  const std::vector<TensorSource> sources = {
      {.name = "r", .dtype = DType::kF32, .rows = 2, .cols = 3, .seed = 4}};
  const auto loaded = load_tensors({}, sources, 0);
  if (!loaded.ok()) return lh_test::fail(__FILE__, __LINE__, loaded.status().message());
  std::weak_ptr<const void> lease;
  float first[6];
  {
    const TensorView view = loaded.value().require("r", 2, 3).value();
    lease = view.lease;
    std::memcpy(first, view.data, sizeof(first));
    EXPECT_TRUE(!lease.expired());
  }
  EXPECT_TRUE(lease.expired());
  const TensorView again = loaded.value().require("r", 2, 3).value();
  EXPECT_TRUE(std::memcmp(first, again.data, sizeof(first)) == 0);
}

LH_TEST(views_outlive_the_set) {
  const std::string bytes(256, 'z');
  const TempFile file(bytes);
  const std::vector<std::string> files = {file.path()};
  const std::vector<TensorSource> sources = {source("t", DType::kQ8_0, 1, 32, 100)};
  auto loaded = load_tensors(files, sources, 0);
  const TensorView view = loaded.value().require("t", 1, 32).value();
  loaded.value() = WeightSet();
  EXPECT_TRUE(std::memcmp(view.data, bytes.data(), 34) == 0);
}

#if defined(__linux__)
// Pages of the mapping that holds `address`, resident in this process.
int64_t resident_kib(const void* address) {
  std::FILE* maps = std::fopen("/proc/self/smaps", "r");
  EXPECT_TRUE(maps != nullptr);
  char line[512];
  int64_t kib = -1;
  bool inside = false;
  while (maps != nullptr && std::fgets(line, sizeof(line), maps) != nullptr) {
    unsigned long begin = 0, end = 0;
    long long value = 0;
    if (std::sscanf(line, "%lx-%lx ", &begin, &end) == 2) {
      const auto at = reinterpret_cast<unsigned long>(address);
      inside = at >= begin && at < end;
    } else if (inside && std::sscanf(line, "Rss: %lld kB", &value) == 1) {
      kib = value;
    }
  }
  if (maps != nullptr) std::fclose(maps);
  return kib;
}

LH_TEST(pages_leave_with_the_view_and_come_back_when_read) {
  constexpr int64_t kBytes = 4 << 20;
  std::string bytes(kBytes, 0);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 7 + i / 4096);
  const TempFile file(bytes);
  const std::vector<std::string> files = {file.path()};
  const std::vector<TensorSource> sources = {source("t", DType::kF32, 1, kBytes / 4, 0)};
  auto loaded = load_tensors(files, sources, 0);
  const std::byte* data = nullptr;
  for (int round = 0; round < 2; ++round) {
    const TensorView view = loaded.value().require("t", 1, kBytes / 4).value();
    data = view.data;
    EXPECT_TRUE(std::memcmp(data, bytes.data(), bytes.size()) == 0);
    EXPECT_EQ(resident_kib(data), kBytes / 1024);
  }
  EXPECT_EQ(resident_kib(data), int64_t{0});
}
#endif

LH_TEST(ranges_to_drop_are_cut_to_the_file) {
  const std::string bytes(100000, 'q');
  const TempFile file(bytes);
  const auto mapped = MappedFile::open(file.path()).value();
  mapped->drop(0, 0);
  mapped->drop(99999, 1);
  mapped->drop(70000, 1 << 20);
  mapped->drop(1 << 20, 5);
  mapped->drop(-5, 10);
  EXPECT_TRUE(std::memcmp(mapped->data(), bytes.data(), bytes.size()) == 0);
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
