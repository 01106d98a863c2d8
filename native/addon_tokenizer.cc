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

// A typed array's elements; `Array` is Napi::Uint8Array and the like.
template <typename Array, typename T>
void read_array(Fields& fields, const char* name, napi_typedarray_type type, const char* expected,
                std::vector<T>& out) {
  const Napi::Value value = fields.value(name);
  if (!fields.ok()) return;
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != type) {
    return fields.fail(name, expected);
  }
  const Array array = value.As<Array>();
  out.assign(array.Data(), array.Data() + array.ElementLength());
}

void read_table(Fields& fields, const char* bytes, const char* offsets, StringTable& out) {
  read_array<Napi::Uint8Array>(fields, bytes, napi_uint8_array, "a Uint8Array", out.bytes);
  read_array<Napi::Uint32Array>(fields, offsets, napi_uint32_array, "a Uint32Array", out.offsets);
}

Status read_spec(const Napi::Value& value, TokenizerSpec& out) {
  Fields fields(value, "tokenizer spec");
  const auto has = [&fields](const char* name) {
    const Napi::Value field = fields.value(name);
    return fields.ok() && !field.IsNull() && !field.IsUndefined();
  };
  out.kind = fields.text("kind");
  read_table(fields, "tokenBytes", "tokenOffsets", out.tokens);
  read_array<Napi::Uint8Array>(fields, "tokenTypes", napi_uint8_array, "a Uint8Array", out.types);
  if (has("scores")) {
    read_array<Napi::Float32Array>(fields, "scores", napi_float32_array, "a Float32Array or null",
                                   out.scores);
  }
  if (has("mergeBytes")) read_table(fields, "mergeBytes", "mergeOffsets", out.merges);
  out.pre_tokenizer = fields.text("preTokenizer");
  out.ignore_merges = fields.boolean("ignoreMerges");
  out.space_prefix = fields.text("spacePrefix");
  out.unknown_token_id = fields.int32("unknownTokenId", -1);
  return fields.status();
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
    return throw_status(env, error(ErrorCode::kInvalidRequest,
                           "tokenizer encode: expected parseSpecial to be a boolean"));
  }
  std::vector<int32_t> ids;
  try {
    std::u16string text;
    if (Status status = read_utf16(env, info[0], "text", text); !status.ok()) {
      return throw_status(env, status);
    }
    uint32_t mark = 0;
    if (Status status = read_mark(env, info[2], mark); !status.ok()) return throw_status(env, status);
    const MarkedText marked = utf16_to_utf8(text, mark);
    tokenizer.encode(marked.text, info[1].As<Napi::Boolean>().Value(), marked.breaks, ids);
  } catch (const std::bad_alloc&) {
    return throw_status(env, error(ErrorCode::kOutOfMemory, "tokenizer encode: out of memory"));
  }
  Napi::Int32Array out = Napi::Int32Array::New(env, ids.size());
  if (!ids.empty()) std::memcpy(out.Data(), ids.data(), ids.size() * sizeof(int32_t));
  return out;
}

Napi::Value token_bytes(const Napi::CallbackInfo& info, const Tokenizer& tokenizer) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber() || !info[1].IsBoolean()) {
    return throw_status(env, error(ErrorCode::kInvalidRequest,
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
    if (Status status = read_spec(info[0], spec); !status.ok()) return throw_status(env, status);
    auto made = Tokenizer::create(std::move(spec));
    if (!made.ok()) return throw_status(env, made.status());
    return make_handle(env, register_tokenizer_instance(made.value()), made.value());
  } catch (const std::bad_alloc&) {
    return throw_status(env, error(ErrorCode::kOutOfMemory, "tokenizer: out of memory"));
  }
}

Napi::Value open_tokenizer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  if (!info[0].IsNumber()) {
    return throw_status(env, error(ErrorCode::kInvalidRequest, "openTokenizer: expected a number"));
  }
  const int32_t id = info[0].As<Napi::Number>().Int32Value();
  const TokenizerPtr tokenizer = find_tokenizer_instance(id);
  if (!tokenizer) {
    return throw_status(env, error(ErrorCode::kInvalidRequest, "openTokenizer: no tokenizer %d", id));
  }
  return make_handle(env, id, tokenizer);
}

}  // namespace

void register_tokenizer(Napi::Env env, Napi::Object exports) {
  exports.Set("createTokenizer", Napi::Function::New(env, create_tokenizer, "createTokenizer"));
  exports.Set("openTokenizer", Napi::Function::New(env, open_tokenizer, "openTokenizer"));
}

}  // namespace longhaul
