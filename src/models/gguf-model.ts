/**
 * GGUF metadata and tensor names → NativeModel. Knows what the keys mean for each architecture
 * (llama, qwen2, qwen3, gemma3); an architecture, scaling or tensor it does not know is refused by
 * name. Facts about the files:
 * - llama files store Q and K permuted, so that RoPE rotates adjacent channels; the others keep the
 *   Hugging Face order (halves).
 * - Gemma norms already include the +1.
 * - Dimensions are listed innermost first: [cols, rows].
 */
import type { NativeModel, NativeModelConfig, NativeTensor } from '../binding/addon.js';
import { DTYPES } from '../types.js';
import type { GgufFile } from './gguf.js';
import type { GgufTensor, GgufValue, NumberArray } from './gguf-format.js';
import { readAt } from './header-reader.js';
import { formatError, shown } from './model-error.js';
import { computeRope, type RopeParameters } from './rope.js';
import { checkTensors } from './tensor-table.js';

const ARCHITECTURES = ['llama', 'qwen2', 'qwen3', 'gemma3'];
const STYLE_INTERLEAVED = 0;
const STYLE_HALF = 1;

export const GGUF_GLOBAL_TENSORS: Record<string, string> = {
  'token_embd.weight': 'token_embedding',
  'output_norm.weight': 'output_norm',
  'output.weight': 'lm_head',
};
export const GGUF_LAYER_TENSORS: Record<string, string> = {
  'attn_norm.weight': 'attention_norm',
  'attn_q.weight': 'q_proj',
  'attn_k.weight': 'k_proj',
  'attn_v.weight': 'v_proj',
  'attn_q.bias': 'q_bias',
  'attn_k.bias': 'k_bias',
  'attn_v.bias': 'v_bias',
  'attn_q_norm.weight': 'q_norm',
  'attn_k_norm.weight': 'k_norm',
  'attn_output.weight': 'o_proj',
  'post_attention_norm.weight': 'post_attention_norm',
  'ffn_norm.weight': 'mlp_norm',
  'ffn_gate.weight': 'gate_proj',
  'ffn_up.weight': 'up_proj',
  'ffn_down.weight': 'down_proj',
  'post_ffw_norm.weight': 'post_mlp_norm',
};
/** Read by the loader itself, or precomputed tables that the config already says. */
const ROPE_DIVISORS = 'rope_freqs.weight';
const IGNORED_TENSORS = /^(rope_freqs\.weight|blk\.\d+\.(rope_freqs|attn_rot_embd)\.weight)$/;

/** Typed access to metadata; every refusal names the key. */
export class GgufMetadata {
  readonly file: string;
  private readonly values: Map<string, GgufValue>;

  constructor(gguf: GgufFile) {
    this.file = gguf.paths[0]!;
    this.values = gguf.metadata;
  }

  get(key: string): GgufValue | undefined {
    return this.values.get(key);
  }

  fault(key: string, expected: string): never {
    const value = this.values.get(key);
    const found = value === undefined ? 'none' : shown(value);
    throw formatError({ file: this.file, where: `metadata ${shown(key)}`, expected, found });
  }

  text(key: string): string | undefined {
    const value = this.values.get(key);
    if (value === undefined || typeof value === 'string') return value;
    return this.fault(key, 'a string');
  }

  flag(key: string): boolean | undefined {
    const value = this.values.get(key);
    if (value === undefined || typeof value === 'boolean') return value;
    return this.fault(key, 'true or false');
  }

  number(key: string): number | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    return this.fault(key, 'a finite number');
  }

  integer(key: string, min: number, max = 0x7fff_ffff): number | undefined {
    const value = this.values.get(key);
    if (value === undefined) return undefined;
    if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) {
      return value;
    }
    return this.fault(key, `a whole number from ${min} to ${max}`);
  }

  requireInteger(key: string, min: number, max?: number): number {
    return this.integer(key, min, max) ?? this.fault(key, 'a whole number');
  }

  /** A number, or an array with the same number for each layer. */
  perLayerInteger(key: string, layers: number): number | undefined {
    const value = this.values.get(key);
    if (!isNumberArray(value)) return this.integer(key, 1);
    const first = Number(value[0]);
    const same =
      value.length === layers && value.every((entry: number | bigint) => Number(entry) === first);
    if (same && Number.isInteger(first) && first >= 1) return first;
    return this.fault(key, `the same number for all ${layers} layers`);
  }
}

function isNumberArray(
  value: GgufValue | undefined,
): value is Exclude<NumberArray, BigInt64Array | BigUint64Array> {
  return (
    ArrayBuffer.isView(value) &&
    !(value instanceof BigInt64Array || value instanceof BigUint64Array)
  );
}

/** Throws ERR_MODEL_FORMAT for an architecture, value, tensor or shape the engine cannot run. */
export function ggufModel(gguf: GgufFile): NativeModel {
  const metadata: GgufMetadata = new GgufMetadata(gguf);
  const architecture = metadata.text('general.architecture');
  if (architecture === undefined || !ARCHITECTURES.includes(architecture)) {
    metadata.fault('general.architecture', `one of ${ARCHITECTURES.join(', ')}`);
  }
  const config = readConfig(metadata, gguf, architecture);
  const tensors = mapTensors(gguf);
  checkTensors(metadata.file, config, tensors);
  return { config, files: gguf.paths, tensors };
}

function readConfig(
  metadata: GgufMetadata,
  gguf: GgufFile,
  architecture: string,
): NativeModelConfig {
  const key = (name: string): string => `${architecture}.${name}`;
  const experts = metadata.integer(key('expert_count'), 0) ?? 0;
  if (experts > 0) metadata.fault(key('expert_count'), 'no experts (mixtures are not supported)');
  const numLayers = metadata.requireInteger(key('block_count'), 1, 4096);
  const hiddenSize = metadata.requireInteger(key('embedding_length'), 1);
  const numHeads = metadata.perLayerInteger(key('attention.head_count'), numLayers);
  if (numHeads === undefined) metadata.fault(key('attention.head_count'), 'a whole number');
  const headDim = readHeadDim(metadata, key, hiddenSize, numHeads);
  const gemma = architecture === 'gemma3';
  const ropes = readRopes(metadata, gguf, key, headDim, architecture);
  const intermediateSize = metadata.perLayerInteger(key('feed_forward_length'), numLayers);
  if (intermediateSize === undefined) metadata.fault(key('feed_forward_length'), 'a whole number');
  const epsilon = metadata.number(key('attention.layer_norm_rms_epsilon'));
  if (epsilon === undefined || epsilon <= 0) {
    metadata.fault(key('attention.layer_norm_rms_epsilon'), 'a number above 0');
  }
  const tensor = (name: string): boolean => gguf.tensors.has(name);
  return {
    architecture,
    vocabSize: vocabSize(gguf),
    hiddenSize,
    intermediateSize,
    numHeads,
    numKvHeads: metadata.perLayerInteger(key('attention.head_count_kv'), numLayers) ?? numHeads,
    headDim,
    maxPosition: metadata.requireInteger(key('context_length'), 1),
    rmsNormEps: epsilon,
    softmaxScale: softmaxScale(metadata, key, architecture, {
      hiddenSize,
      numHeads,
      headDim,
      numLayers,
    }),
    embeddingScale: gemma ? Math.fround(Math.sqrt(hiddenSize)) : 1,
    logitSoftcap: metadata.number(key('final_logit_softcapping')) ?? 0,
    attentionSoftcap: metadata.number(key('attn_logit_softcapping')) ?? 0,
    activation: gemma ? 1 : 0,
    qkvBias: tensor('blk.0.attn_q.bias'),
    qkNorm: tensor('blk.0.attn_q_norm.weight'),
    postNorms: gemma,
    tiedEmbeddings: !tensor('output.weight'),
    normWeightOffset: 0,
    ropes,
    layers: readLayers(metadata, key, architecture, numLayers),
  };
}

function vocabSize(gguf: GgufFile): number {
  const embedding = gguf.tensors.get('token_embd.weight');
  if (embedding?.dims.length === 2) return embedding.dims[1]!;
  throw formatError({
    file: gguf.paths[0]!,
    where: 'tensor token_embd.weight',
    expected: 'two dimensions',
    found: embedding ? `${embedding.dims.length}` : 'none',
  });
}

type Key = (name: string) => string;

function readHeadDim(metadata: GgufMetadata, key: Key, hidden: number, heads: number): number {
  const length = metadata.integer(key('attention.key_length'), 1);
  const valueLength = metadata.integer(key('attention.value_length'), 1);
  if (length === undefined && hidden % heads !== 0) {
    metadata.fault(key('attention.head_count'), `a divisor of ${hidden} (embedding_length)`);
  }
  const headDim = length ?? hidden / heads;
  if (valueLength !== undefined && valueLength !== headDim) {
    metadata.fault(key('attention.value_length'), `${headDim}, as keys have`);
  }
  return headDim;
}

function softmaxScale(
  metadata: GgufMetadata,
  key: Key,
  architecture: string,
  shape: { hiddenSize: number; numHeads: number; headDim: number; numLayers: number },
): number {
  const explicit = metadata.number(key('attention.scale'));
  if (explicit !== undefined && explicit > 0) return explicit;
  // Gemma 3 27B (62 layers) alone scales by hidden_size / num_heads instead of its head size; the
  // format has no key for it (Gemma 3 report, arXiv 2503.19786; query_pre_attn_scalar 168).
  const is27b = architecture === 'gemma3' && shape.numLayers === 62;
  const divisor = is27b ? shape.hiddenSize / shape.numHeads : shape.headDim;
  return 1 / Math.sqrt(divisor);
}

function readRopes(
  metadata: GgufMetadata,
  gguf: GgufFile,
  key: Key,
  headDim: number,
  architecture: string,
): NativeModelConfig['ropes'] {
  const style = architecture === 'llama' ? STYLE_INTERLEAVED : STYLE_HALF;
  const dim = metadata.integer(key('rope.dimension_count'), 2, headDim) ?? headDim;
  const theta =
    metadata.number(key('rope.freq_base')) ?? (architecture === 'gemma3' ? 1e6 : 10_000);
  const parameters: RopeParameters = { theta, dim, ...readScaling(metadata, key) };
  const divisors = gguf.tensors.get(ROPE_DIVISORS);
  if (divisors) parameters.divisors = readDivisors(gguf, divisors, dim);
  const build = (values: RopeParameters): NativeModelConfig['ropes'][number] => {
    const { invFreq, attentionFactor } = computeRope(values, `${metadata.file}: RoPE`);
    return { style, dim, invFreq, attentionFactor };
  };
  if (architecture !== 'gemma3') return [build(parameters)];
  const localTheta = metadata.number(key('rope.freq_base_swa')) ?? 10_000;
  return [build(parameters), build({ type: 'default', theta: localTheta, dim })];
}

function readScaling(metadata: GgufMetadata, key: Key): Omit<RopeParameters, 'theta' | 'dim'> {
  const type = metadata.text(key('rope.scaling.type'));
  const factor =
    metadata.number(key('rope.scaling.factor')) ?? metadata.number(key('rope.scale_linear'));
  if (type === undefined || type === 'none' || type === 'linear') {
    // llama.cpp reads a factor without a type as linear; 0 means none.
    const linear = type !== 'none' && factor !== undefined && factor !== 0 && factor !== 1;
    return linear ? { type: 'linear', factor } : { type: 'default' };
  }
  if (type !== 'yarn') metadata.fault(key('rope.scaling.type'), 'none, linear or yarn');
  const optional: Omit<RopeParameters, 'theta' | 'dim' | 'type'> = {};
  if (factor !== undefined) optional.factor = factor;
  const betaFast = metadata.number(key('rope.scaling.yarn_beta_fast'));
  const betaSlow = metadata.number(key('rope.scaling.yarn_beta_slow'));
  if (betaFast !== undefined) optional.betaFast = betaFast;
  if (betaSlow !== undefined) optional.betaSlow = betaSlow;
  const attention = metadata.number(key('rope.scaling.attn_factor'));
  if (attention !== undefined && factor !== undefined) {
    optional.attentionFactor = attention * (0.1 * Math.log(Math.max(1, factor)) + 1);
  }
  const original =
    metadata.integer(key('rope.scaling.original_context_length'), 1) ??
    metadata.requireInteger(key('context_length'), 1);
  return { type: 'yarn', originalMaxPosition: original, ...optional };
}

function readDivisors(gguf: GgufFile, tensor: GgufTensor, dim: number): Float32Array {
  const file = gguf.paths[tensor.file]!;
  const where = `tensor ${tensor.name}`;
  if (tensor.dtype !== 'F32' || tensor.dims.length !== 1 || tensor.dims[0] !== dim / 2) {
    throw formatError({
      file,
      where,
      offset: tensor.offset,
      expected: `F32, ${dim / 2} elements`,
      found: `${tensor.dtype}, ${tensor.dims.join(' x ')}`,
    });
  }
  const bytes = readAt(file, tensor.offset, tensor.bytes);
  return Float32Array.from({ length: dim / 2 }, (_, i) => bytes.readFloatLE(i * 4));
}

function readLayers(
  metadata: GgufMetadata,
  key: Key,
  architecture: string,
  numLayers: number,
): NativeModelConfig['layers'] {
  const window = metadata.integer(key('attention.sliding_window'), 0) ?? 0;
  if (architecture !== 'gemma3') {
    return Array.from({ length: numLayers }, () => ({ window, ropeIndex: 0 }));
  }
  if (window === 0) metadata.fault(key('attention.sliding_window'), 'a window above 0');
  const isLocal = readPattern(metadata, key('attention.sliding_window_pattern'), numLayers);
  return Array.from({ length: numLayers }, (_, i) =>
    isLocal(i) ? { window, ropeIndex: 1 } : { window: 0, ropeIndex: 0 },
  );
}

/** A period (every n-th layer is global), or one flag a layer (true = windowed). Default 6. */
function readPattern(
  metadata: GgufMetadata,
  key: string,
  layers: number,
): (layer: number) => boolean {
  const value = metadata.get(key);
  if (isNumberArray(value)) {
    if (value.length !== layers) metadata.fault(key, `${layers} flags`);
    return (layer) => value[layer] !== 0;
  }
  const period = metadata.integer(key, 1) ?? 6;
  return (layer) => (layer + 1) % period !== 0;
}

function mapTensors(gguf: GgufFile): NativeTensor[] {
  const tensors: NativeTensor[] = [];
  for (const tensor of gguf.tensors.values()) {
    if (IGNORED_TENSORS.test(tensor.name)) continue;
    const file = gguf.paths[tensor.file]!;
    const name = canonicalName(tensor.name);
    if (name === null || tensor.dims.length > 2) {
      throw formatError({
        file,
        where: `tensor ${shown(tensor.name)}`,
        offset: tensor.offset,
        expected: name === null ? 'a tensor this engine knows' : '1 or 2 dimensions',
        found: name === null ? 'an unknown name' : tensor.dims.join(' x '),
      });
    }
    tensors.push({
      name,
      dtype: DTYPES[tensor.dtype],
      rows: tensor.dims[1] ?? 1,
      cols: tensor.dims[0]!,
      file: tensor.file,
      offset: tensor.offset,
      seed: 0,
    });
  }
  return tensors;
}

function canonicalName(name: string): string | null {
  if (Object.hasOwn(GGUF_GLOBAL_TENSORS, name)) return GGUF_GLOBAL_TENSORS[name]!;
  const match = /^blk\.(0|[1-9]\d{0,3})\.(.+)$/.exec(name);
  if (!match || !Object.hasOwn(GGUF_LAYER_TENSORS, match[2]!)) return null;
  return `layers.${match[1]}.${GGUF_LAYER_TENSORS[match[2]!]!}`;
}
