// Exposes the machine's limits to JavaScript: measureLimits of src/binding/addon.ts.
#pragma once

#include <napi.h>

namespace longhaul {

void register_limits(Napi::Env env, Napi::Object exports);

}  // namespace longhaul
