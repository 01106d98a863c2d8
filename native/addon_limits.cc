// Runs on the calling thread: a benchmark has nothing else to do meanwhile.
#include "addon_limits.h"

#include <string>

#include "backend/cpu/isa.h"
#include "backend/cpu/machine_limits.h"
#include "backend/cpu/thread_pool.h"
#include "napi_util.h"

namespace longhaul {
namespace {

// measureLimits({threads, isaLimit, bufferBytes, seconds})
Napi::Value measure_limits_binding(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Fields fields(info[0], "options");
  const int32_t threads = fields.int32("threads", 0, 1024);
  const std::string isa_limit = fields.text("isaLimit");
  cpu::LimitOptions options;
  options.buffer_bytes =
      static_cast<size_t>(fields.integer("bufferBytes", 4096, int64_t{1} << 36));
  options.seconds = fields.real("seconds");
  if (!fields.ok()) return throw_status(env, fields.status());
  const Result<cpu::Isa> isa = cpu::choose_isa(isa_limit);
  if (!isa.ok()) return throw_status(env, isa.status());
  if (!(options.seconds >= 0 && options.seconds <= 60)) {
    return throw_status(env, Status(ErrorCode::kInvalidRequest,
                                    "options.seconds: expected a number from 0 to 60"));
  }
  cpu::ThreadPool pool(threads > 0 ? threads : cpu::default_threads());
  const cpu::MachineLimits limits = cpu::measure_limits(pool, isa.value(), options);
  Napi::Object out = Napi::Object::New(env);
  out.Set("readBytesPerSecond", Napi::Number::New(env, limits.read_bytes_per_second));
  out.Set("operationsPerSecond", Napi::Number::New(env, limits.operations_per_second));
  return out;
}

}  // namespace

void register_limits(Napi::Env env, Napi::Object exports) {
  exports.Set("measureLimits", Napi::Function::New(env, measure_limits_binding, "measureLimits"));
}

}  // namespace longhaul
