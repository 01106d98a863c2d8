// Which backend an engine runs on, by the name that was asked for. A device that was asked for by
// name and cannot be used is an error; "auto" takes the GPU where there is one, else the CPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "status.h"

namespace longhaul {

struct BackendChoice {
  std::string name = "auto";   // "auto", "cpu", "cuda", "cuda-emulated"
  int32_t threads = 0;         // of the CPU
  std::string isa_limit;       // of the CPU
};

struct ChosenBackend {
  std::unique_ptr<Backend> backend;
  std::string reason;          // why this one, for people
};

// kUnsupported for another name; kDevice and what the backend itself says otherwise.
Result<ChosenBackend> make_backend(const BackendChoice& choice);

}  // namespace longhaul
