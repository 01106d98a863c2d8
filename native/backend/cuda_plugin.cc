#include "backend/cuda_plugin.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <cstdlib>

#include "backend/plugin_abi.h"

namespace longhaul {
namespace {

// Folder of the shared object or program that this function is part of: the addon's, absolute.
std::string own_folder() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_folder), &info) == 0 || !info.dli_fname) return ".";
  std::string path = info.dli_fname;
  if (char* const real = realpath(path.c_str(), nullptr)) {
    path = real;
    std::free(real);
  }
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

bool exists(const std::string& path) {
  struct stat status{};
  return stat(path.c_str(), &status) == 0;
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaBackendOptions& options) {
  const bool emulated = options.runtime == "cuda-emulated";
  if (!emulated && options.runtime != "cuda") {
    return error(ErrorCode::kInternal, "backend: expected cuda or cuda-emulated, received \"%s\"",
                 options.runtime.c_str());
  }
  const char* const build =
      emulated ? "npm run build:emulated" : "LONGHAUL_CUDA=on npm run build:native";
  const std::string folder = options.plugin_folder.empty() ? own_folder() : options.plugin_folder;
  const std::string path =
      folder + (emulated ? "/longhaul_cuda_emulated.so" : "/longhaul_cuda.so");
  if (!exists(path)) {
    return error(ErrorCode::kDevice,
                 "backend %s: its plug-in was not built (%s is missing); build it with: %s",
                 options.runtime.c_str(), path.c_str(), build);
  }
  // Opened once and never closed: the backend's code must outlive every object it made, and the
  // driver's threads. A second dlopen of the same file gives the same handle.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* const why = dlerror();
    return error(ErrorCode::kDevice, "backend %s: cannot open the plug-in: %s",
                 options.runtime.c_str(), why ? why : path.c_str());
  }
  const auto symbol = reinterpret_cast<PluginFunction>(dlsym(library, kPluginSymbol));
  if (!symbol) {
    return error(ErrorCode::kDevice, "backend %s: %s is not a longhaul plug-in",
                 options.runtime.c_str(), path.c_str());
  }
  const BackendPlugin* const plugin = symbol();
  const std::string own = plugin_abi();
  if (own != plugin->abi) {
    return error(ErrorCode::kDevice,
                 "backend %s: %s was built from other sources than the addon (found \"%s\", "
                 "expected \"%s\"); build both again: npm run build:native, then %s",
                 options.runtime.c_str(), path.c_str(), plugin->abi, own.c_str(), build);
  }
  if (options.runtime != plugin->runtime) {
    return error(ErrorCode::kDevice, "backend %s: %s holds the backend %s", options.runtime.c_str(),
                 path.c_str(), plugin->runtime);
  }
  return plugin->make_backend(options);
}

}  // namespace longhaul
