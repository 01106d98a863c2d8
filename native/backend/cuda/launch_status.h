// What a kernel launcher returned, as a Status.
#pragma once

#include "backend/cuda/device_runtime.h"
#include "backend/cuda/device_status.h"
#include "launch.h"
#include "status.h"

namespace longhaul::cuda {

inline Status launched(int number, const char* kernel) {
  if (number == 0) return {};
  if (number == device::kInvalidLaunch) {
    return error(ErrorCode::kInternal, "kernel %s does not serve these parameters", kernel);
  }
  return device_error(kernel, number, error_words(number));
}

}  // namespace longhaul::cuda
