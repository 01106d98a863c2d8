// What the addon's files share: errors as the EngineError class of src/errors.ts, and checked
// reading of JavaScript values. Only native/addon*.cc include this.
//
// Exceptions of node-addon-api are off: a failed N-API call leaves a pending JavaScript exception.
#pragma once

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "status.h"

namespace longhaul {

// One for each environment (main thread, each worker thread) that loads the addon.
struct AddonData {
  Napi::FunctionReference error_class;   // empty until setErrorClass
  Napi::FunctionReference engine_class;  // constructor of engine handles (addon_engine.cc)
};

inline AddonData& addon_data(Napi::Env env) { return *env.GetInstanceData<AddonData>(); }

// False while the environment is being torn down: callbacks of thread-safe functions may still come
// then, and what node-addon-api cannot throw ends the process.
inline bool can_run_js(napi_env env) {
  if (env == nullptr) return false;
  napi_value object = nullptr;
  return napi_create_object(env, &object) == napi_ok &&
         napi_set_named_property(env, object, "probe", object) == napi_ok;
}

// new EngineError(code, message); a plain Error with `code` where no class was handed over.
inline Napi::Value to_js_error(Napi::Env env, const Status& status) {
  const Napi::String code = Napi::String::New(env, error_code_name(status.code()));
  const Napi::String message = Napi::String::New(env, status.message());
  const Napi::FunctionReference& error_class = addon_data(env).error_class;
  if (!error_class.IsEmpty()) {
    const Napi::Value value = error_class.New({code, message});
    if (!env.IsExceptionPending()) return value;
    env.GetAndClearPendingException();
  }
  Napi::Object plain = Napi::Error::New(env, message.Utf8Value()).Value();
  plain.Set("code", code);
  return plain;
}

inline Napi::Error make_error(Napi::Env env, const Status& status) {
  return Napi::Error(env, to_js_error(env, status));
}

// Throws the status; returns undefined for `return throw_status(...)`.
inline Napi::Value throw_status(Napi::Env env, const Status& status) {
  napi_throw(env, to_js_error(env, status));
  return env.Undefined();
}

// Reads properties of one object, keeping the first thing that is wrong; later reads then give
// defaults. status() says what it was: kInvalidRequest with name, expected and found.
class Fields {
 public:
  Fields(Napi::Value value, std::string name) : name_(std::move(name)) {
    if (value.IsObject()) {
      object_ = value.As<Napi::Object>();
    } else {
      fail("", "an object");
    }
  }

  const Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  Napi::Value value(const char* field) {
    if (!ok()) return {};
    Napi::Value found = object_.Get(field);
    if (object_.Env().IsExceptionPending()) {
      object_.Env().GetAndClearPendingException();
      fail(field, "a readable property");
      return {};
    }
    return found;
  }

  int64_t integer(const char* field, int64_t min, int64_t max) {
    const Napi::Value found = value(field);
    if (!ok()) return 0;
    const double number = found.IsNumber() ? found.As<Napi::Number>().DoubleValue() : std::nan("");
    if (!(number >= static_cast<double>(min) && number <= static_cast<double>(max)) ||
        number != std::floor(number)) {
      fail(field, "an integer from " + std::to_string(min) + " to " + std::to_string(max));
      return 0;
    }
    return static_cast<int64_t>(number);
  }
  int32_t int32(const char* field, int32_t min = INT32_MIN, int32_t max = INT32_MAX) {
    return static_cast<int32_t>(integer(field, min, max));
  }

  float real(const char* field) {
    const Napi::Value found = value(field);
    if (!ok()) return 0;
    if (!found.IsNumber()) {
      fail(field, "a number");
      return 0;
    }
    return found.As<Napi::Number>().FloatValue();
  }

  bool boolean(const char* field) {
    const Napi::Value found = value(field);
    if (!ok()) return false;
    if (!found.IsBoolean()) {
      fail(field, "a boolean");
      return false;
    }
    return found.As<Napi::Boolean>().Value();
  }

  std::string text(const char* field) {
    const Napi::Value found = value(field);
    if (!ok()) return {};
    if (!found.IsString()) {
      fail(field, "a string");
      return {};
    }
    return found.As<Napi::String>().Utf8Value();
  }

  // Calls each(element, "name[i]") for the elements of an array; each returns a Status.
  template <typename Each>
  void array(const char* field, const Each& each) {
    const Napi::Value found = value(field);
    if (!ok()) return;
    if (!found.IsArray()) return fail(field, "an array");
    const Napi::Array elements = found.As<Napi::Array>();
    for (uint32_t i = 0; i < elements.Length() && ok(); ++i) {
      // Each element makes handles: without a scope a long array would hold them all.
      const Napi::HandleScope scope(object_.Env());
      const Napi::Value element = elements.Get(i);
      if (object_.Env().IsExceptionPending()) {
        object_.Env().GetAndClearPendingException();
        return fail(field, "readable elements");
      }
      status_ = each(element, path(field) + "[" + std::to_string(i) + "]");
    }
  }

  void fail(const std::string& field, const std::string& expected) {
    if (ok()) {
      status_ = error(ErrorCode::kInvalidRequest, "%s: expected %s", path(field).c_str(),
                      expected.c_str());
    }
  }

 private:
  std::string path(const std::string& field) const {
    return field.empty() ? name_ : name_ + "." + field;
  }

  Napi::Object object_;
  std::string name_;
  Status status_;
};

}  // namespace longhaul
