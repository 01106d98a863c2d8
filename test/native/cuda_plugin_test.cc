// Opening the CUDA plug-in where there is none, or none that fits: each says what to do.
#include "backend/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "test.h"

namespace {

using namespace longhaul;

std::string error_of(const std::string& runtime, const std::string& folder) {
  CudaBackendOptions options;
  options.runtime = runtime;
  options.plugin_folder = folder;
  const Status status = make_cuda_backend(options).status();
  EXPECT_TRUE(status.code() == ErrorCode::kDevice);
  return status.message();
}
bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// Where CMake puts plugin_of_another_build: beside this program.
std::string other_folder() {
  Dl_info info{};
  EXPECT_TRUE(dladdr(reinterpret_cast<const void*>(&other_folder), &info) != 0);
  char path[PATH_MAX] = {};
  EXPECT_TRUE(realpath(info.dli_fname, path) != nullptr);
  const std::string own = path;
  return own.substr(0, own.rfind('/')) + "/plugin_of_another_build";
}

struct TempFolder {
  std::string path = "/tmp/longhaul-plugin-XXXXXX";
  TempFolder() { EXPECT_TRUE(mkdtemp(path.data()) != nullptr); }
  ~TempFolder() {
    std::remove((path + "/longhaul_cuda.so").c_str());
    rmdir(path.c_str());
  }
};

LH_TEST(a_missing_plug_in_says_how_to_build_it) {
  const TempFolder folder;
  const std::string cuda = error_of("cuda", folder.path);
  EXPECT_TRUE(has(cuda, folder.path + "/longhaul_cuda.so is missing"));
  EXPECT_TRUE(has(cuda, "LONGHAUL_CUDA=on npm run build:native"));
  const std::string emulated = error_of("cuda-emulated", folder.path);
  EXPECT_TRUE(has(emulated, folder.path + "/longhaul_cuda_emulated.so is missing"));
  EXPECT_TRUE(has(emulated, "npm run build:emulated"));
}

LH_TEST(by_default_it_is_looked_for_beside_this_code) {
  const std::string text = error_of("cuda", "");
  const std::string folder = other_folder();
  EXPECT_TRUE(has(text, folder.substr(0, folder.rfind('/')) + "/longhaul_cuda.so is missing"));
}

LH_TEST(a_file_that_is_no_library) {
  const TempFolder folder;
  std::ofstream(folder.path + "/longhaul_cuda.so") << "not a shared object";
  const std::string text = error_of("cuda", folder.path);
  EXPECT_TRUE(has(text, "cannot open the plug-in"));
  EXPECT_TRUE(has(text, folder.path));
}

LH_TEST(a_plug_in_of_another_build_is_refused) {
  const std::string text = error_of("cuda", other_folder());
  EXPECT_TRUE(has(text, "built from other sources than the addon"));
  EXPECT_TRUE(has(text, "longhaul 0.0.0 of another build"));
  EXPECT_TRUE(has(text, "npm run build:native"));
}

LH_TEST(unknown_runtimes_are_a_mistake_of_ours) {
  CudaBackendOptions options;
  options.runtime = "opencl";
  EXPECT_TRUE(make_cuda_backend(options).status().code() == ErrorCode::kInternal);
}

}  // namespace

LH_TEST_MAIN
