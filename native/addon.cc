// The addon's entry: everything src/binding/addon.ts types. May be loaded by several environments
// of a process (worker threads use the tokenizer); state is per environment, in AddonData.
#include <napi.h>

#include <string>

#include "addon_engine.h"
#include "addon_limits.h"
#include "addon_tokenizer.h"
#include "backend/cpu/isa.h"
#include "backend/make_backend.h"
#include "napi_util.h"
#include "status.h"

namespace longhaul {
namespace {

Napi::Value set_error_class(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) {
    return throw_status(info.Env(), Status(ErrorCode::kInvalidRequest,
                                           "setErrorClass: expected a class"));
  }
  addon_data(info.Env()).error_class = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Value cpu_info(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
  out.Set("model", Napi::String::New(env, cpu::cpu_model_name()));
  out.Set("isa", Napi::String::New(env, cpu::isa_name(cpu::machine_isa())));
  out.Set("defaultThreads", Napi::Number::New(env, cpu::default_threads()));
  Napi::Array features = Napi::Array::New(env);
  uint32_t next = 0;
  for (const std::string& feature : cpu::cpu_features()) {
    features.Set(next++, Napi::String::New(env, feature));
  }
  out.Set("features", features);
  return out;
}

// probeBackend(name): opens the backend and closes it again.
Napi::Value probe_backend(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  BackendChoice choice;
  choice.name = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : "";
  const Result<ChosenBackend> chosen = make_backend(choice);
  Napi::Object out = Napi::Object::New(env);
  out.Set("usable", Napi::Boolean::New(env, chosen.ok()));
  std::string reason = chosen.status().message();
  if (chosen.ok()) {
    const BackendInfo found = chosen.value().backend->info();
    reason = found.device.empty() ? found.isa : found.device + ", " + found.isa;
  }
  out.Set("reason", Napi::String::New(env, reason));
  return out;
}

Napi::Array error_codes(Napi::Env env) {
  Napi::Array codes = Napi::Array::New(env);
  for (int code = 0; code <= static_cast<int>(ErrorCode::kInternal); ++code) {
    codes.Set(static_cast<uint32_t>(code),
              Napi::String::New(env, error_code_name(static_cast<ErrorCode>(code))));
  }
  return codes;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonData());
  exports.Set("version", Napi::String::New(env, LONGHAUL_VERSION));
  exports.Set("errorCodes", error_codes(env));
  exports.Set("setErrorClass", Napi::Function::New(env, set_error_class, "setErrorClass"));
  exports.Set("cpuInfo", Napi::Function::New(env, cpu_info, "cpuInfo"));
  exports.Set("probeBackend", Napi::Function::New(env, probe_backend, "probeBackend"));
  register_engine(env, exports);
  register_limits(env, exports);
  register_tokenizer(env, exports);
  return exports;
}

}  // namespace
}  // namespace longhaul

static Napi::Object init_addon(Napi::Env env, Napi::Object exports) {
  return longhaul::init(env, exports);
}
NODE_API_MODULE(longhaul, init_addon)
