// Threads: JavaScript runs on the environment's thread; loading has a thread of its own, so has the
// engine, so has closing (it waits for the running step). The three report through thread-safe
// functions, never through libuv's pool. An environment that ends meanwhile is handled by a cleanup
// hook, which runs before the thread-safe function's own because it was registered later; callbacks
// that come when no JavaScript can run any more only free what they carry.
#include "addon_engine.h"

#include <atomic>
#include <cstring>
#include <deque>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "addon_model.h"
#include "engine.h"
#include "load/tensor_table.h"
#include "napi_util.h"

namespace longhaul {
namespace {

using Deferred = Napi::Promise::Deferred;

struct Message {
  enum class Kind { kStep, kClosed } kind = Kind::kStep;
  Status status;
  std::vector<int32_t> result;
};

class Session;
void deliver(Napi::Env env, Napi::Function, std::shared_ptr<Session>* session, Message* message);
using MessageFunction = Napi::TypedThreadSafeFunction<std::shared_ptr<Session>, Message, deliver>;

// One engine and the promises that wait for it. All members belong to the JavaScript thread but
// `post`, which any thread may call, and what it uses.
class Session {
 public:
  explicit Session(std::unique_ptr<Engine> engine)
      : info_(engine->info()), engine_(std::move(engine)) {}

  // Connects to the environment; `self` is kept until the thread-safe function is finalized.
  static void attach(Napi::Env env, const std::shared_ptr<Session>& self) {
    self->post_ = MessageFunction::New(
        env, "longhaul engine", 0, 1, new std::shared_ptr<Session>(self),
        [](Napi::Env, void*, std::shared_ptr<Session>* kept) { delete kept; },
        static_cast<void*>(nullptr));
    self->post_.Unref(env);
    napi_add_env_cleanup_hook(env, on_environment_end, self.get());
    self->env_ = env;
    self->attached_ = true;
  }

  Napi::Promise submit(Napi::Object handle, std::vector<int32_t> plan) {
    const Deferred deferred = Deferred::New(env_);
    if (!engine_) {
      deferred.Reject(to_js_error(env_, Status(ErrorCode::kAborted, "the engine is closed")));
      return deferred.Promise();
    }
    hold(handle);
    steps_.push_back(deferred);
    engine_->submit(std::move(plan), [this](const Status& status, std::vector<int32_t> result) {
      post(new Message{Message::Kind::kStep, status, std::move(result)});
    });
    return deferred.Promise();
  }

  void abort(int32_t slot, int32_t sequence_id) {
    if (engine_) engine_->abort(slot, sequence_id);
  }

  Napi::Promise close(Napi::Object handle) {
    const Deferred deferred = Deferred::New(env_);
    if (!engine_ && !closer_.joinable()) {
      deferred.Resolve(env_.Undefined());
      return deferred.Promise();
    }
    hold(handle);
    closers_.push_back(deferred);
    if (engine_) {
      closer_ = std::thread([this, engine = std::move(engine_)]() mutable {
        engine.reset();  // queued plans are answered before this returns
        post(new Message{Message::Kind::kClosed, {}, {}});
      });
    }
    return deferred.Promise();
  }

  void on_message(Message& message) {
    if (message.kind == Message::Kind::kStep) {
      const Deferred deferred = steps_.front();
      steps_.pop_front();
      if (message.status.ok()) {
        deferred.Resolve(to_js_words(message.result));
      } else {
        deferred.Reject(to_js_error(env_, message.status));
      }
    } else {
      closer_.join();
      for (const Deferred& deferred : std::exchange(closers_, {})) {
        deferred.Resolve(env_.Undefined());
      }
    }
    if (steps_.empty() && closers_.empty()) let_go();
  }

  // The handle was collected, or the environment ends. Nothing is delivered afterwards.
  void detach() {
    if (!attached_) return;
    attached_ = false;
    detached_ = true;
    napi_remove_env_cleanup_hook(env_, on_environment_end, this);
    engine_.reset();
    if (closer_.joinable()) closer_.join();
    steps_.clear();
    closers_.clear();
    held_.Reset();
    post_.Abort();
  }

  const EngineInfo& info() const { return info_; }

 private:
  static void on_environment_end(void* session) { static_cast<Session*>(session)->detach(); }

  // Any thread. After detach() has begun nobody listens; it joins the callers before it goes on.
  void post(Message* message) {
    if (detached_ || post_.NonBlockingCall(message) != napi_ok) delete message;
  }

  Napi::Value to_js_words(const std::vector<int32_t>& words) {
    Napi::Int32Array array = Napi::Int32Array::New(env_, words.size());
    if (!words.empty()) std::memcpy(array.Data(), words.data(), words.size() * sizeof(int32_t));
    return array;
  }

  // While promises wait, the handle must not be collected and the event loop must not end.
  void hold(Napi::Object handle) {
    if (!held_.IsEmpty()) return;
    held_ = Napi::Persistent(handle);
    post_.Ref(env_);
  }
  void let_go() {
    held_.Reset();
    post_.Unref(env_);
  }

  Napi::Env env_ = nullptr;
  EngineInfo info_;
  MessageFunction post_;
  std::atomic<bool> detached_{false};
  bool attached_ = false;
  std::deque<Deferred> steps_;      // in plan order
  std::vector<Deferred> closers_;
  Napi::ObjectReference held_;
  std::thread closer_;
  // Last: its thread calls post() until the destructor has joined it.
  std::unique_ptr<Engine> engine_;
};

void deliver(Napi::Env env, Napi::Function, std::shared_ptr<Session>* session, Message* message) {
  const std::unique_ptr<Message> owned(message);
  if (!can_run_js(env)) return;
  (*session)->on_message(*owned);
}

class EngineHandle : public Napi::ObjectWrap<EngineHandle> {
 public:
  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "NativeEngine",
                       {InstanceMethod<&EngineHandle::submit>("submit"),
                        InstanceMethod<&EngineHandle::abort>("abort"),
                        InstanceMethod<&EngineHandle::close>("close")});
  }

  static Napi::Value create(Napi::Env env, std::unique_ptr<Engine> engine) {
    auto session = std::make_shared<Session>(std::move(engine));
    return addon_data(env).engine_class.New({Napi::External<std::shared_ptr<Session>>::New(env, &session)});
  }

  explicit EngineHandle(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineHandle>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) {
      throw_status(info.Env(), Status(ErrorCode::kInvalidRequest, "use createEngine()"));
      return;
    }
    session_ = *info[0].As<Napi::External<std::shared_ptr<Session>>>().Data();
    Session::attach(info.Env(), session_);
    info.This().As<Napi::Object>().DefineProperty(Napi::PropertyDescriptor::Value(
        "info", to_js_info(info.Env(), session_->info()), napi_enumerable));
  }

  ~EngineHandle() override {
    if (session_) session_->detach();
  }

 private:
  Napi::Value submit(const Napi::CallbackInfo& info) {
    if (info.Length() < 1 || !info[0].IsTypedArray() ||
        info[0].As<Napi::TypedArray>().TypedArrayType() != napi_int32_array) {
      return throw_status(info.Env(), Status(ErrorCode::kInvalidRequest,
                                             "submit: plan: expected an Int32Array"));
    }
    const auto words = info[0].As<Napi::Int32Array>();
    std::vector<int32_t> plan(words.ElementLength());
    if (!plan.empty()) std::memcpy(plan.data(), words.Data(), plan.size() * sizeof(int32_t));
    return session_->submit(info.This().As<Napi::Object>(), std::move(plan));
  }

  Napi::Value abort(const Napi::CallbackInfo& info) {
    if (info.Length() < 2 || !info[0].IsNumber() || !info[1].IsNumber()) {
      return throw_status(info.Env(), Status(ErrorCode::kInvalidRequest,
                                             "abort: expected a slot and a sequence id"));
    }
    session_->abort(info[0].As<Napi::Number>().Int32Value(),
                    info[1].As<Napi::Number>().Int32Value());
    return info.Env().Undefined();
  }

  Napi::Value close(const Napi::CallbackInfo& info) {
    return session_->close(info.This().As<Napi::Object>());
  }

  std::shared_ptr<Session> session_;
};

Result<std::unique_ptr<Engine>> load_engine(const ModelRequest& model,
                                            const EngineOptions& options) {
  LH_TRY(validate(model.config));
  LH_ASSIGN_OR_RETURN(const WeightSet weights,
                      load_tensors(model.files, model.tensors, model.config.norm_weight_offset));
  return Engine::create(model.config, weights, nullptr, options);
}

// A createEngine() under way. Lives until its thread-safe function is finalized.
struct LoadJob {
  LoadJob(Napi::Env env) : deferred(Deferred::New(env)) {}
  ModelRequest model;
  EngineOptions options;
  Deferred deferred;
  std::thread thread;
  Result<std::unique_ptr<Engine>> result = Status();
};

void finish_load(Napi::Env env, Napi::Function, LoadJob* job, void*) {
  if (!can_run_js(env)) return;
  if (!job->result.ok()) {
    job->deferred.Reject(to_js_error(env, job->result.status()));
    return;
  }
  const Napi::Value handle = EngineHandle::create(env, std::move(job->result.value()));
  if (env.IsExceptionPending()) {
    job->deferred.Reject(env.GetAndClearPendingException().Value());
  } else {
    job->deferred.Resolve(handle);
  }
}
using LoadFunction = Napi::TypedThreadSafeFunction<LoadJob, void, finish_load>;

Napi::Value create_engine_binding(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  auto job = std::make_unique<LoadJob>(env);
  Status status = read_model(info[0], &job->model);
  if (status.ok()) status = read_engine_options(info[1], &job->options);
  const Napi::Promise promise = job->deferred.Promise();
  if (!status.ok()) {
    job->deferred.Reject(to_js_error(env, status));
    return promise;
  }
  LoadJob* raw = job.release();
  LoadFunction done = LoadFunction::New(
      env, "longhaul load", 0, 1, raw,
      [](Napi::Env, void*, LoadJob* finished) {
        finished->thread.join();
        delete finished;
      },
      static_cast<void*>(nullptr));
  raw->thread = std::thread([raw, done]() mutable {
    try {
      raw->result = load_engine(raw->model, raw->options);
    } catch (const std::exception& exception) {
      raw->result = error(ErrorCode::kOutOfMemory, "loading failed: %s", exception.what());
    }
    // The environment may have ended meanwhile; the function is then gone for this thread.
    if (done.NonBlockingCall() == napi_ok) done.Release();
  });
  return promise;
}

}  // namespace

void register_engine(Napi::Env env, Napi::Object exports) {
  addon_data(env).engine_class = Napi::Persistent(EngineHandle::define(env));
  exports.Set("createEngine", Napi::Function::New(env, create_engine_binding, "createEngine"));
}

}  // namespace longhaul
