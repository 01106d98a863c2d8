// Exposes tokenizers to JavaScript: createTokenizer and openTokenizer of src/binding/addon.ts.
#pragma once

#include <napi.h>

namespace longhaul {

// Adds both functions to `exports`. Safe in every environment (worker threads included): nothing
// here is kept per process but the registry of native/tokenizer.
void register_tokenizer(Napi::Env env, Napi::Object exports);

}  // namespace longhaul
