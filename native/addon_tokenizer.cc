#include "addon_tokenizer.h"

#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "napi_util.h"
#include "status.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

namespace longhaul {
namespace {

using TokenizerPtr = std::shared_ptr<const Tokenizer>;

Napi::Value fail(Napi::Env env, const Status& status) {
  make_error(env, status).ThrowAsJavaScriptException();
  return env.Undefined();
}

Status wrong_field(const char* name, const char* expected) {
  return error(ErrorCode::kInvalidRequest, "tokenizer spec: expected %s to be %s", name, expected);
}

bool is_typed_array(const Napi::Value& value, napi_typedarray_type type) {
  return value.IsTypedArray() && value.As<Napi::TypedArray>().TypedArrayType() == type;
}

Status read_bytes(const Napi::Object& spec, const char* name, std::vector<char>& out) {
  const Napi::Value value = spec.Get(name);
  if (!is_typed_array(value, napi_uint8_array)) return wrong_field(name, "a Uint8Array");
  const Napi::Uint8Array array = value.As<Napi::Uint8Array>();
  const char* data = reinterpret_cast<const char*>(array.Data());
  out.assign(data, data + array.ElementLength());
  return {};
}

Status read_offsets(const Napi::Object& spec, const char* name, std::vector<uint32_t>& out) {
  const Napi::Value value = spec.Get(name);
  if (!is_typed_array(value, napi_uint32_array)) return wrong_field(name, "a Uint32Array");
  const Napi::Uint32Array array = value.As<Napi::Uint32Array>();
  out.assign(array.Data(), array.Data() + array.ElementLength());
  return {};
}

Status read_string(const Napi::Object& spec, const char* name, std::string& out) {
  const Napi::Value value = spec.Get(name);
  if (!value.IsString()) return wrong_field(name, "a string");
  out = value.As<Napi::String>().Utf8Value();
  return {};
}

Status read_boolean(const Napi::Object& spec, const char* name, bool& out) {
  const Napi::Value value = spec.Get(name);
  if (!value.IsBoolean()) return wrong_field(name, "a boolean");
  out = value.As<Napi::Boolean>().Value();
  return {};
}

Status read_spec(const Napi::Value& value, TokenizerSpec& out) {
  if (!value.IsObject()) return wrong_field("the argument", "an object");
  const Napi::Object spec = value.As<Napi::Object>();
  LH_TRY(read_string(spec, "kind", out.kind));
  LH_TRY(read_bytes(spec, "tokenBytes", out.tokens.bytes));
  LH_TRY(read_offsets(spec, "tokenOffsets", out.tokens.offsets));
  std::vector<char> types;
  LH_TRY(read_bytes(spec, "tokenTypes", types));
  out.types.assign(types.begin(), types.end());
  const Napi::Value scores = spec.Get("scores");
  if (is_typed_array(scores, napi_float32_array)) {
    const Napi::Float32Array array = scores.As<Napi::Float32Array>();
    out.scores.assign(array.Data(), array.Data() + array.ElementLength());
  } else if (!scores.IsNull() && !scores.IsUndefined()) {
    return wrong_field("scores", "a Float32Array or null");
  }
  if (!spec.Get("mergeBytes").IsNull() && !spec.Get("mergeBytes").IsUndefined()) {
    LH_TRY(read_bytes(spec, "mergeBytes", out.merges.bytes));
    LH_TRY(read_offsets(spec, "mergeOffsets", out.merges.offsets));
  }
  LH_TRY(read_string(spec, "preTokenizer", out.pre_tokenizer));
  LH_TRY(read_boolean(spec, "ignoreMerges", out.ignore_merges));
  LH_TRY(read_boolean(spec, "addSpacePrefix", out.add_space_prefix));
  const Napi::Value unknown = spec.Get("unknownTokenId");
  if (!unknown.IsNumber()) return wrong_field("unknownTokenId", "a number");
  out.unknown_token_id = unknown.As<Napi::Number>().Int32Value();
  return {};
}

// UTF-16 without a detour over UTF-8, so that lone surrogates are seen.
Status read_utf16(Napi::Env env, const Napi::Value& value, const char* name, std::u16string& out) {
  size_t length = 0;
  if (napi_get_value_string_utf16(env, value, nullptr, 0, &length) != napi_ok) {
    return error(ErrorCode::kInvalidRequest, "tokenizer encode: expected %s to be a string", name);
  }
  out.resize(length);
  // The size given counts the terminator, which std::u16string has room for.
  napi_get_value_string_utf16(env, value, out.data(), length + 1, &length);
  return {};
}

Status read_mark(Napi::Env env, const Napi::Value& value, uint32_t& out) {
  std::u16string mark;
  LH_TRY(read_utf16(env, value, "breakMark", mark));
  out = mark.empty() ? 0 : mark[0];
  if (mark.size() == 2 && mark[0] >= 0xD800 && mark[0] <= 0xDBFF && mark[1] >= 0xDC00 &&
      mark[1] <= 0xDFFF) {
    out = 0x10000 + ((mark[0] - 0xD800u) << 10) + (mark[1] - 0xDC00u);
  } else if (mark.size() > 1 || (out >= 0xD800 && out <= 0xDFFF)) {
    return error(ErrorCode::kInvalidRequest,
                 "tokenizer encode: expected breakMark to be one code point or empty");
  }
  return {};
}

Napi::Value encode(const Napi::CallbackInfo& info, const Tokenizer& tokenizer) {
  const Napi::Env env = info.Env();
  if (!info[1].IsBoolean()) {
    return fail(env, error(ErrorCode::kInvalidRequest,
                           "tokenizer encode: expected parseSpecial to be a boolean"));
  }
  std::vector<int32_t> ids;
  try {
    std::u16string text;
    if (Status status = read_utf16(env, info[0], "text", text); !status.ok()) {
      return fail(env, status);
    }
    uint32_t mark = 0;
    if (Status status = read_mark(env, info[2], mark); !status.ok()) return fail(env, status);
    const MarkedText marked = utf16_to_utf8(text, mark);
    tokenizer.encode(marked.text, info[1].As<Napi::Boolean>().Value(), marked.breaks, ids);
  } catch (const std::bad_alloc&) {
    return fail(env, error(ErrorCode::kOutOfMemory, "tokenizer encode: out of memory"));
  }
  Napi::Int32Array out = Napi::Int32Array::New(env, ids.size());
  if (!ids.empty()) std::memcpy(out.Data(), ids.data(), ids.size() * sizeof(int32_t));
  return out;
}

Napi::Value token_bytes(const Napi::CallbackInfo& info, const Tokenizer& tokenizer) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber() || !info[1].IsBoolean()) {
    return fail(env, error(ErrorCode::kInvalidRequest,
                           "tokenBytes: expected a token id and a boolean"));
  }
  const std::string_view bytes = tokenizer.token_bytes(info[0].As<Napi::Number>().Int32Value(),
                                                       info[1].As<Napi::Boolean>().Value());
  Napi::Uint8Array out = Napi::Uint8Array::New(env, bytes.size());
  if (!bytes.empty()) std::memcpy(out.Data(), bytes.data(), bytes.size());
  return out;
}

// The functions own the tokenizer: it lives until JavaScript has dropped them.
Napi::Object make_handle(Napi::Env env, int32_t id, const TokenizerPtr& tokenizer) {
  Napi::Object handle = Napi::Object::New(env);
  handle.Set("id", Napi::Number::New(env, id));
  handle.Set("vocabSize", Napi::Number::New(env, static_cast<double>(tokenizer->vocab_size())));
  handle.Set("encode", Napi::Function::New(env, [tokenizer](const Napi::CallbackInfo& info) {
               return encode(info, *tokenizer);
             }, "encode"));
  handle.Set("tokenBytes", Napi::Function::New(env, [tokenizer](const Napi::CallbackInfo& info) {
               return token_bytes(info, *tokenizer);
             }, "tokenBytes"));
  handle.Freeze();
  return handle;
}

Napi::Value create_tokenizer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  try {
    TokenizerSpec spec;
    if (Status status = read_spec(info[0], spec); !status.ok()) return fail(env, status);
    auto made = Tokenizer::create(std::move(spec));
    if (!made.ok()) return fail(env, made.status());
    return make_handle(env, register_tokenizer_instance(made.value()), made.value());
  } catch (const std::bad_alloc&) {
    return fail(env, error(ErrorCode::kOutOfMemory, "tokenizer: out of memory"));
  }
}

Napi::Value open_tokenizer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber()) {
    return fail(env, error(ErrorCode::kInvalidRequest, "openTokenizer: expected a number"));
  }
  const int32_t id = info[0].As<Napi::Number>().Int32Value();
  const TokenizerPtr tokenizer = find_tokenizer_instance(id);
  if (!tokenizer) {
    return fail(env, error(ErrorCode::kInvalidRequest, "openTokenizer: no tokenizer %d", id));
  }
  return make_handle(env, id, tokenizer);
}

}  // namespace

void register_tokenizer(Napi::Env env, Napi::Object exports) {
  exports.Set("createTokenizer", Napi::Function::New(env, create_tokenizer, "createTokenizer"));
  exports.Set("openTokenizer", Napi::Function::New(env, open_tokenizer, "openTokenizer"));
}

}  // namespace longhaul
