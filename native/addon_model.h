// Reads NativeModel and NativeEngineOptions of src/binding/addon.ts into native structs.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "engine.h"
#include "load/tensor_table.h"
#include "model/model_config.h"
#include "status.h"

namespace longhaul {

struct ModelRequest {
  ModelConfig config;
  std::vector<std::string> files;
  std::vector<TensorSource> tensors;
};

// Types and integer ranges only; what the values mean is checked where they are used.
Status read_model(Napi::Value value, ModelRequest* model);
Status read_engine_options(Napi::Value value, EngineOptions* options);
Napi::Object to_js_info(Napi::Env env, const EngineInfo& info);

}  // namespace longhaul
