// What a backend plug-in gives the addon, and the text by which the addon knows that both were
// built from the same headers: objects with virtual functions and standard containers cross
// between them, so anything else than the same build would crash.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "backend/cuda_plugin.h"
#include "status.h"

// CMake gives both to the two files that compare: cuda_plugin.cc and cuda/plugin.cc.
#ifndef LONGHAUL_VERSION
#error "LONGHAUL_VERSION is not defined"
#endif
#ifndef LONGHAUL_ABI_HASH
#error "LONGHAUL_ABI_HASH is not defined"
#endif

namespace longhaul {

// Version, hash of the headers, and sizes, which differ where compilers or their flags do.
inline std::string plugin_abi() {
  std::string text = "longhaul " LONGHAUL_VERSION " " LONGHAUL_ABI_HASH;
  for (const size_t size : {sizeof(std::string), sizeof(Status), sizeof(Result<DeviceTensor>),
                            sizeof(CudaBackendOptions), sizeof(BackendInfo), sizeof(TensorView),
                            sizeof(KvLayout), sizeof(AttentionWork), sizeof(AttentionParams),
                            sizeof(QkvParams), sizeof(SampleRow), sizeof(SamplingParams)}) {
    text += ' ';
    text += std::to_string(size);
  }
  return text;
}

struct BackendPlugin {
  const char* abi;       // plugin_abi() as the plug-in was built; compared before any call
  const char* runtime;   // "cuda", "cuda-emulated"
  Result<std::unique_ptr<Backend>> (*make_backend)(const CudaBackendOptions& options);
};

// The plug-in's only symbol.
constexpr const char* kPluginSymbol = "longhaul_backend_plugin";
using PluginFunction = const BackendPlugin* (*)();

}  // namespace longhaul
