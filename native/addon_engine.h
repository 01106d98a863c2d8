// Exposes the engine to JavaScript: createEngine and NativeEngineHandle of src/binding/addon.ts.
#pragma once

#include <napi.h>

namespace longhaul {

// Adds createEngine to `exports`. Needs AddonData in the environment.
void register_engine(Napi::Env env, Napi::Object exports);

}  // namespace longhaul
