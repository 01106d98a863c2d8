#include "backend/make_backend.h"

#include "backend/cuda_plugin.h"

namespace longhaul {
namespace {

Result<ChosenBackend> on_cpu(const BackendChoice& choice, std::string reason) {
  CpuBackendOptions options;
  options.threads = choice.threads;
  options.isa_limit = choice.isa_limit;
  LH_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, make_cpu_backend(options));
  return ChosenBackend{std::move(backend), std::move(reason)};
}

Result<std::unique_ptr<Backend>> on_device(const std::string& runtime) {
  CudaBackendOptions options;
  options.runtime = runtime;
  return make_cuda_backend(options);
}

}  // namespace

Result<ChosenBackend> make_backend(const BackendChoice& choice) {
  const std::string& name = choice.name;
  if (name == "cpu") return on_cpu(choice, "asked for");
  if (name == "cuda" || name == "cuda-emulated") {
    LH_ASSIGN_OR_RETURN(std::unique_ptr<Backend> backend, on_device(name));
    return ChosenBackend{std::move(backend), "asked for"};
  }
  if (name != "auto") {
    return error(ErrorCode::kUnsupported,
                 "backend: expected auto, cpu, cuda or cuda-emulated, found \"%s\"", name.c_str());
  }
  Result<std::unique_ptr<Backend>> device = on_device("cuda");
  if (!device.ok()) return on_cpu(choice, device.status().message());
  const std::string found = device.value()->info().device + " was found";
  return ChosenBackend{std::move(device.value()), found};
}

}  // namespace longhaul
