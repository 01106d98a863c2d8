/**
 * A Hugging Face folder's config.json and safetensors names → NativeModel. Values that a config
 * leaves out take the defaults of the architecture's configuration class, because published files
 * (Gemma 3's above all) list only what differs from it. Weights that the text model does not use
 * (a vision tower) are skipped by prefix; any other unknown weight is refused by name.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { NativeModel, NativeModelConfig, NativeTensor } from '../binding/addon.js';
import { DTYPES } from '../types.js';
import { gemmaRope, hfRope } from './hf-rope.js';
import { JsonFields } from './json-file.js';
import { formatError, shown } from './model-error.js';
import { computeRope, type RopeParameters } from './rope.js';
import { readSafetensorsFolder, type SafetensorsFiles } from './safetensors.js';
import { checkTensors } from './tensor-table.js';

interface Family {
  architecture: string;
  /** Defaults of the configuration class; what is absent here must be in the file. */
  rmsNormEps: number;
  theta: number;
  qkvBias: boolean;
  qkNorm: boolean;
  gemma: boolean;
  /** Of head_dim where the file has none; null is hidden_size / num_attention_heads. */
  headDim: number | null;
  tied: boolean;
}

const family = (architecture: string, values: Partial<Family> = {}): Family => ({
  architecture,
  rmsNormEps: 1e-6,
  theta: 10_000,
  qkvBias: false,
  qkNorm: false,
  gemma: false,
  headDim: null,
  tied: false,
  ...values,
});

const GEMMA3 = family('gemma3', {
  qkNorm: true,
  gemma: true,
  theta: 1e6,
  headDim: 256,
  tied: true,
});
const FAMILIES: Record<string, Family> = {
  LlamaForCausalLM: family('llama'),
  MistralForCausalLM: family('mistral'),
  Qwen2ForCausalLM: family('qwen2', { qkvBias: true }),
  Qwen3ForCausalLM: family('qwen3', { qkNorm: true, headDim: 128 }),
  Gemma3ForCausalLM: GEMMA3,
  Gemma3ForConditionalGeneration: GEMMA3,
};

/** Where the text model's weights live in a checkpoint, longest first. */
const PREFIXES = ['model.language_model.', 'language_model.model.', 'model.'];
const SKIPPED = /^(model\.)?(vision_tower|multi_modal_projector)\.|\.rotary_emb\.inv_freq$/;
const STYLE_HALF = 1;

/** Throws ERR_MODEL_FORMAT for an architecture, value, tensor or shape the engine cannot run. */
export function hfModel(folder: string): NativeModel {
  const path = join(folder, 'config.json');
  const outer = JsonFields.read(path);
  const kind = readFamily(outer);
  const config = readConfig(outer, outer.child('text_config') ?? outer, kind);
  const files = readSafetensorsFolder(requireWeights(folder));
  const tensors = mapTensors(files, config);
  checkTensors(folder, config, tensors);
  return { config, files: files.paths, tensors };
}

function requireWeights(folder: string): string {
  const names = ['model.safetensors', 'model.safetensors.index.json'];
  if (names.some((name) => existsSync(join(folder, name)))) return folder;
  throw formatError({
    file: folder,
    where: 'weights',
    expected: names.join(' or '),
    found: 'neither',
  });
}

function readFamily(config: JsonFields): Family {
  const architecture = config.list('architectures')?.[0];
  const known = Object.keys(FAMILIES).join(', ');
  if (typeof architecture !== 'string' || !Object.hasOwn(FAMILIES, architecture)) {
    throw formatError({
      file: config.file,
      where: 'architectures',
      expected: `one of ${known}`,
      found: shown(architecture ?? 'none'),
    });
  }
  if (config.get('quantization_config') !== undefined) {
    config.fault('quantization_config', 'none (quantized checkpoints come as GGUF)');
  }
  return FAMILIES[architecture]!;
}

function readConfig(outer: JsonFields, config: JsonFields, kind: Family): NativeModelConfig {
  refuseUnknownMeaning(config, kind);
  const gemma = kind.gemma;
  const hiddenSize =
    config.integer('hidden_size', 1) ?? required(config, 'hidden_size', gemma ? 2304 : null);
  const numHeads =
    config.integer('num_attention_heads', 1) ??
    required(config, 'num_attention_heads', gemma ? 8 : null);
  const headDim = readHeadDim(config, kind, hiddenSize, numHeads);
  const maxPosition =
    config.integer('max_position_embeddings', 1) ??
    required(config, 'max_position_embeddings', gemma ? 131_072 : null);
  const numLayers = config.requireInteger('num_hidden_layers', 1, 4096);
  const scalar = gemma ? (config.number('query_pre_attn_scalar') ?? 256) : headDim;
  if (scalar <= 0) config.fault('query_pre_attn_scalar', 'a number above 0');
  const context = { headDim, maxPosition, defaultTheta: kind.theta };
  return {
    architecture: kind.architecture,
    vocabSize:
      config.integer('vocab_size', 1) ?? required(config, 'vocab_size', gemma ? 262_208 : null),
    hiddenSize,
    intermediateSize:
      config.integer('intermediate_size', 1) ??
      required(config, 'intermediate_size', gemma ? 9216 : null),
    numHeads,
    numKvHeads: config.integer('num_key_value_heads', 1, numHeads) ?? (gemma ? 4 : numHeads),
    headDim,
    maxPosition,
    rmsNormEps: config.number('rms_norm_eps') ?? kind.rmsNormEps,
    softmaxScale: 1 / Math.sqrt(scalar),
    embeddingScale: gemma ? Math.fround(Math.sqrt(hiddenSize)) : 1,
    logitSoftcap: config.number('final_logit_softcapping') ?? 0,
    attentionSoftcap: config.number('attn_logit_softcapping') ?? 0,
    activation: readActivation(config, gemma),
    qkvBias: kind.qkvBias,
    qkNorm: kind.qkNorm,
    postNorms: gemma,
    tiedEmbeddings:
      config.flag('tie_word_embeddings') ?? outer.flag('tie_word_embeddings') ?? kind.tied,
    normWeightOffset: gemma ? 1 : 0,
    ropes: readRopes(config, kind, context),
    layers: readLayers(config, kind, numLayers),
  };
}

function required(config: JsonFields, key: string, fallback: number | null): number {
  return fallback ?? config.requireInteger(key, 1);
}

function refuseUnknownMeaning(config: JsonFields, kind: Family): void {
  if (config.flag('mlp_bias') === true) config.fault('mlp_bias', 'false');
  if (config.flag('use_bidirectional_attention') === true) {
    config.fault('use_bidirectional_attention', 'false');
  }
  // With Llama's attention_bias o_proj has a bias too, which no served family needs.
  if (kind.architecture !== 'qwen2' && config.flag('attention_bias') === true) {
    config.fault('attention_bias', 'false');
  }
  const parallel = config.integer('pretraining_tp', 0) ?? 1;
  if (parallel > 1) config.fault('pretraining_tp', '1');
}

function readHeadDim(config: JsonFields, kind: Family, hidden: number, heads: number): number {
  const explicit = config.integer('head_dim', 1) ?? kind.headDim;
  if (explicit !== null) return explicit;
  if (hidden % heads !== 0)
    config.fault('num_attention_heads', `a divisor of hidden_size ${hidden}`);
  return hidden / heads;
}

function readActivation(config: JsonFields, gemma: boolean): number {
  const key = gemma ? 'hidden_activation' : 'hidden_act';
  const name =
    config.text(key) ?? config.text('hidden_act') ?? (gemma ? 'gelu_pytorch_tanh' : 'silu');
  if (name === 'silu' || name === 'swish') return 0;
  if (name === 'gelu_pytorch_tanh' || name === 'gelu_new') return 1;
  return config.fault(key, 'silu or gelu_pytorch_tanh');
}

function readRopes(
  config: JsonFields,
  kind: Family,
  context: { headDim: number; maxPosition: number; defaultTheta: number },
): NativeModelConfig['ropes'] {
  const build = (parameters: RopeParameters): NativeModelConfig['ropes'][number] => {
    const { invFreq, attentionFactor } = computeRope(parameters, `${config.file}: RoPE`);
    return { style: STYLE_HALF, dim: parameters.dim, invFreq, attentionFactor };
  };
  if (!kind.gemma) return [build(hfRope(config, 'full_attention', context))];
  return [
    build(gemmaRope(config, 'full_attention', context)),
    build(gemmaRope(config, 'sliding_attention', { ...context, defaultTheta: 10_000 })),
  ];
}

function readLayers(config: JsonFields, kind: Family, count: number): NativeModelConfig['layers'] {
  const window = readWindow(config, kind);
  const isLocal = readLayerTypes(config, kind, count, window);
  return Array.from({ length: count }, (_, i) => {
    const local = isLocal(i);
    return { window: local ? window : 0, ropeIndex: local && kind.gemma ? 1 : 0 };
  });
}

/** 0 where no layer is windowed. */
function readWindow(config: JsonFields, kind: Family): number {
  const window = config.integer('sliding_window', 1);
  switch (kind.architecture) {
    case 'llama':
      return 0;
    case 'mistral':
      return window ?? (config.has('sliding_window') ? 0 : 4096);
    case 'gemma3':
      return window ?? 4096;
    default:
      return config.flag('use_sliding_window') === true ? (window ?? 4096) : 0;
  }
}

function readLayerTypes(
  config: JsonFields,
  kind: Family,
  count: number,
  window: number,
): (layer: number) => boolean {
  const types = config.list('layer_types');
  if (types && (kind.gemma || kind.architecture.startsWith('qwen'))) {
    const known = types.every((type) => type === 'full_attention' || type === 'sliding_attention');
    if (!known || types.length !== count) {
      config.fault('layer_types', `${count} entries, full_attention or sliding_attention`);
    }
    return (layer) => types[layer] === 'sliding_attention' && window > 0;
  }
  if (kind.gemma) {
    const period =
      config.integer('sliding_window_pattern', 1) ??
      config.integer('_sliding_window_pattern', 1) ??
      6;
    return (layer) => (layer + 1) % period !== 0;
  }
  if (kind.architecture === 'mistral') return () => window > 0;
  const firstWindowed = config.integer('max_window_layers', 0) ?? 28;
  return (layer) => window > 0 && layer >= firstWindowed;
}

function layerNames(config: NativeModelConfig): Record<string, string> {
  return {
    'input_layernorm.weight': 'attention_norm',
    'self_attn.q_proj.weight': 'q_proj',
    'self_attn.k_proj.weight': 'k_proj',
    'self_attn.v_proj.weight': 'v_proj',
    'self_attn.q_proj.bias': 'q_bias',
    'self_attn.k_proj.bias': 'k_bias',
    'self_attn.v_proj.bias': 'v_bias',
    'self_attn.q_norm.weight': 'q_norm',
    'self_attn.k_norm.weight': 'k_norm',
    'self_attn.o_proj.weight': 'o_proj',
    'mlp.gate_proj.weight': 'gate_proj',
    'mlp.up_proj.weight': 'up_proj',
    'mlp.down_proj.weight': 'down_proj',
    // The same name is the norm before the MLP in Llama and the one after attention in Gemma.
    ...(config.postNorms
      ? {
          'post_attention_layernorm.weight': 'post_attention_norm',
          'pre_feedforward_layernorm.weight': 'mlp_norm',
          'post_feedforward_layernorm.weight': 'post_mlp_norm',
        }
      : { 'post_attention_layernorm.weight': 'mlp_norm' }),
  };
}

function mapTensors(files: SafetensorsFiles, config: NativeModelConfig): NativeTensor[] {
  const names = layerNames(config);
  const tensors: NativeTensor[] = [];
  for (const tensor of files.tensors.values()) {
    if (SKIPPED.test(tensor.name)) continue;
    const name = canonicalName(tensor.name, names);
    // A tied checkpoint may carry its head once more under its own name.
    if (name === 'lm_head' && config.tiedEmbeddings) continue;
    if (name === null || tensor.shape.length < 1 || tensor.shape.length > 2) {
      throw formatError({
        file: files.paths[tensor.file]!,
        where: `tensor ${shown(tensor.name)}`,
        offset: tensor.offset,
        expected: name === null ? 'a tensor this engine knows' : '1 or 2 dimensions',
        found: name === null ? 'an unknown name' : tensor.shape.join(' x '),
      });
    }
    const vector = tensor.shape.length === 1;
    tensors.push({
      name,
      dtype: DTYPES[tensor.dtype],
      rows: vector ? 1 : tensor.shape[0]!,
      cols: vector ? tensor.shape[0]! : tensor.shape[1]!,
      file: tensor.file,
      offset: tensor.offset,
      seed: 0,
    });
  }
  return tensors;
}

function canonicalName(name: string, layers: Record<string, string>): string | null {
  if (name === 'lm_head.weight' || name === 'language_model.lm_head.weight') return 'lm_head';
  const prefix = PREFIXES.find((candidate) => name.startsWith(candidate));
  const local = prefix === undefined ? name : name.slice(prefix.length);
  if (local === 'embed_tokens.weight') return 'token_embedding';
  if (local === 'norm.weight') return 'output_norm';
  const match = /^layers\.(0|[1-9]\d{0,3})\.(.+)$/.exec(local);
  if (!match || !Object.hasOwn(layers, match[2]!)) return null;
  return `layers.${match[1]}.${layers[match[2]!]!}`;
}
