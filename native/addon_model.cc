#include "addon_model.h"

#include "napi_util.h"

namespace longhaul {
namespace {

constexpr int64_t kSafeIntegerMax = (int64_t{1} << 53) - 1;

Status read_rope(Napi::Value value, const std::string& name, ModelConfig* config) {
  Fields fields(value, name);
  RopeConfig rope;
  rope.style = static_cast<RopeStyle>(fields.int32("style", 0, 1));
  rope.dim = fields.int32("dim", 0);
  rope.attention_factor = fields.real("attentionFactor");
  const Napi::Value frequencies = fields.value("invFreq");
  LH_TRY(fields.status());
  if (!frequencies.IsTypedArray() ||
      frequencies.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array) {
    fields.fail("invFreq", "a Float32Array");
    return fields.status();
  }
  const auto array = frequencies.As<Napi::Float32Array>();
  rope.inv_freq.assign(array.Data(), array.Data() + array.ElementLength());
  config->ropes.push_back(std::move(rope));
  return {};
}

Status read_layer(Napi::Value value, const std::string& name, ModelConfig* config) {
  Fields fields(value, name);
  LayerConfig layer;
  layer.window = fields.int32("window", 0);
  layer.rope_index = fields.int32("ropeIndex", 0);
  LH_TRY(fields.status());
  config->layers.push_back(layer);
  return {};
}

Status read_config(Napi::Value value, ModelConfig* config) {
  Fields fields(value, "model.config");
  config->architecture = fields.text("architecture");
  config->vocab_size = fields.int32("vocabSize");
  config->hidden_size = fields.int32("hiddenSize");
  config->intermediate_size = fields.int32("intermediateSize");
  config->num_heads = fields.int32("numHeads");
  config->num_kv_heads = fields.int32("numKvHeads");
  config->head_dim = fields.int32("headDim");
  config->max_position = fields.int32("maxPosition");
  config->rms_norm_eps = fields.real("rmsNormEps");
  config->softmax_scale = fields.real("softmaxScale");
  config->embedding_scale = fields.real("embeddingScale");
  config->logit_softcap = fields.real("logitSoftcap");
  config->attention_softcap = fields.real("attentionSoftcap");
  config->activation = static_cast<Activation>(fields.int32("activation", 0, 1));
  config->qkv_bias = fields.boolean("qkvBias");
  config->qk_norm = fields.boolean("qkNorm");
  config->post_norms = fields.boolean("postNorms");
  config->tied_embeddings = fields.boolean("tiedEmbeddings");
  config->norm_weight_offset = fields.real("normWeightOffset");
  fields.array("ropes", [&](Napi::Value rope, const std::string& name) {
    return read_rope(rope, name, config);
  });
  fields.array("layers", [&](Napi::Value layer, const std::string& name) {
    return read_layer(layer, name, config);
  });
  return fields.status();
}

Status read_tensor(Napi::Value value, const std::string& name, ModelRequest* model) {
  Fields fields(value, name);
  TensorSource tensor;
  tensor.name = fields.text("name");
  tensor.dtype = static_cast<DType>(fields.int32("dtype", 0, kNumDTypes - 1));
  tensor.rows = fields.integer("rows", 0, kSafeIntegerMax);
  tensor.cols = fields.integer("cols", 0, kSafeIntegerMax);
  tensor.file = fields.int32("file", kRandomTensorFile);
  tensor.offset = fields.integer("offset", 0, kSafeIntegerMax);
  tensor.seed = static_cast<uint64_t>(fields.integer("seed", 0, kSafeIntegerMax));
  LH_TRY(fields.status());
  model->tensors.push_back(std::move(tensor));
  return {};
}

}  // namespace

Status read_model(Napi::Value value, ModelRequest* model) {
  Fields fields(value, "model");
  const Napi::Value config = fields.value("config");
  LH_TRY(fields.status());
  LH_TRY(read_config(config, &model->config));
  fields.array("files", [&](Napi::Value file, const std::string& name) -> Status {
    if (!file.IsString()) {
      return error(ErrorCode::kInvalidRequest, "%s: expected a string", name.c_str());
    }
    model->files.push_back(file.As<Napi::String>().Utf8Value());
    return {};
  });
  fields.array("tensors", [&](Napi::Value tensor, const std::string& name) {
    return read_tensor(tensor, name, model);
  });
  return fields.status();
}

Status read_engine_options(Napi::Value value, EngineOptions* options) {
  Fields fields(value, "options");
  options->backend = fields.text("backend");
  options->threads = fields.int32("threads");
  options->isa_limit = fields.text("isaLimit");
  options->kv_memory_bytes = fields.integer("kvMemoryBytes", 0, kSafeIntegerMax);
  if (!fields.value("kvMemoryDefaultBytes").IsUndefined()) {
    options->kv_memory_default_bytes = fields.integer("kvMemoryDefaultBytes", 0, kSafeIntegerMax);
  }
  const std::string kv_dtype = fields.text("kvDtype");
  options->block_size = fields.int32("blockSize");
  options->max_num_seqs = fields.int32("maxNumSeqs");
  options->max_num_batched_tokens = fields.int32("maxNumBatchedTokens");
  options->max_model_len = fields.int32("maxModelLen");
  LH_TRY(fields.status());
  const std::optional<KvDType> known = kv_dtype_from_name(kv_dtype);
  if (!known) {
    return error(ErrorCode::kUnsupported,
                 "options.kvDtype: expected f16, bf16, q8 or fp8, found \"%s\"", kv_dtype.c_str());
  }
  options->kv_dtype = *known;
  return {};
}

Napi::Object to_js_info(Napi::Env env, const EngineInfo& info) {
  Napi::Object out = Napi::Object::New(env);
  const auto number = [&](const char* name, double value) {
    out.Set(name, Napi::Number::New(env, value));
  };
  out.Set("backend", Napi::String::New(env, info.backend));
  out.Set("backendReason", Napi::String::New(env, info.backend_reason));
  out.Set("device", Napi::String::New(env, info.device));
  out.Set("isa", Napi::String::New(env, info.isa));
  out.Set("kvDtype", Napi::String::New(env, info.kv_dtype));
  number("threads", info.threads);
  number("blockSize", info.block_size);
  number("blockBytes", static_cast<double>(info.block_bytes));
  number("numBlocks", info.num_blocks);
  number("maxModelLen", info.max_model_len);
  number("maxNumSeqs", info.max_num_seqs);
  number("maxNumBatchedTokens", info.max_num_batched_tokens);
  number("vocabSize", info.vocab_size);
  number("numLayers", info.num_layers);
  number("weightBytes", static_cast<double>(info.weight_bytes));
  Napi::Array windows = Napi::Array::New(env, info.group_windows.size());
  for (size_t i = 0; i < info.group_windows.size(); ++i) {
    windows.Set(static_cast<uint32_t>(i), Napi::Number::New(env, info.group_windows[i]));
  }
  out.Set("groupWindows", windows);
  return out;
}

}  // namespace longhaul
