/**
 * Models without weights on disk: any shape, random tensors made from a seed, a byte-level tokenizer
 * padded to the vocabulary's size. For benchmarks of shapes nobody has downloaded, and so that a
 * first run without a network still serves the API. Its text is meaningless by design.
 */
import type { NativeModel, NativeModelConfig } from '../binding/addon.js';
import { EngineError } from '../errors.js';
import { DTYPE_BLOCKS, DTYPES, type DTypeName } from '../types.js';
import { BYTE_CHARACTERS } from './byte-alphabet.js';
import { TOKEN_CONTROL, TOKEN_NORMAL } from './eos-tokens.js';
import type { TokenizerDescription } from './model-types.js';
import { computeRope, type RopeParameters } from './rope.js';
import { StringTable } from './string-table.js';
import { expectedTensors } from './tensor-table.js';

const ARCHITECTURES = ['llama', 'qwen2', 'qwen3', 'gemma3'] as const;
type Architecture = (typeof ARCHITECTURES)[number];

export interface SyntheticShape {
  name: string;
  architecture: Architecture;
  hidden: number;
  intermediate: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocab: number;
  context: number;
  theta: number;
  /** llama3 scaling factor of RoPE; 1 is none. */
  ropeFactor: number;
  /** Attended tokens of windowed layers; 0 = none (gemma3: every sixth layer is global). */
  window: number;
  dtype: DTypeName;
  tied: boolean;
}

const CONTEXT = 131_072;
const SPECIAL_TOKENS = ['<|endoftext|>', '<|im_start|>', '<|im_end|>'] as const;
const VOCAB_MIN = SPECIAL_TOKENS.length + 256;

const base: SyntheticShape = {
  name: 'tiny',
  architecture: 'llama',
  hidden: 64,
  intermediate: 128,
  layers: 2,
  heads: 4,
  kvHeads: 2,
  headDim: 16,
  vocab: 512,
  context: CONTEXT,
  theta: 10_000,
  ropeFactor: 1,
  window: 0,
  dtype: 'Q8_0',
  tied: true,
};

/** Sizes of published models of these names; the context is 128K for all. */
export const SYNTHETIC_SHAPES: Readonly<Record<string, SyntheticShape>> = {
  tiny: base,
  smollm2: {
    ...base,
    name: 'smollm2',
    hidden: 576,
    intermediate: 1536,
    layers: 30,
    heads: 9,
    kvHeads: 3,
    headDim: 64,
    vocab: 49_152,
    theta: 100_000,
    dtype: 'Q4_1',
  },
  'gemma3-270m': {
    ...base,
    name: 'gemma3-270m',
    architecture: 'gemma3',
    hidden: 640,
    intermediate: 2048,
    layers: 18,
    heads: 4,
    kvHeads: 1,
    headDim: 256,
    vocab: 262_144,
    theta: 1_000_000,
    window: 512,
    dtype: 'Q4_K',
  },
  'llama-1b': {
    ...base,
    name: 'llama-1b',
    hidden: 2048,
    intermediate: 8192,
    layers: 16,
    heads: 32,
    kvHeads: 8,
    headDim: 64,
    vocab: 128_256,
    theta: 500_000,
    ropeFactor: 32,
    dtype: 'Q4_K',
  },
  'llama-8b': {
    ...base,
    name: 'llama-8b',
    hidden: 4096,
    intermediate: 14_336,
    layers: 32,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    vocab: 128_256,
    theta: 500_000,
    ropeFactor: 8,
    dtype: 'Q4_K',
    tied: false,
  },
};

type SizeField =
  | 'hidden'
  | 'intermediate'
  | 'layers'
  | 'heads'
  | 'kvHeads'
  | 'headDim'
  | 'vocab'
  | 'context'
  | 'window';
const SIZE_KEYS: Record<string, { field: SizeField; min: number; max: number }> = {
  hidden: { field: 'hidden', min: 32, max: 65_536 },
  intermediate: { field: 'intermediate', min: 32, max: 262_144 },
  layers: { field: 'layers', min: 1, max: 1024 },
  heads: { field: 'heads', min: 1, max: 1024 },
  kv_heads: { field: 'kvHeads', min: 1, max: 1024 },
  head_dim: { field: 'headDim', min: 2, max: 1024 },
  vocab: { field: 'vocab', min: VOCAB_MIN, max: 2_000_000 },
  context: { field: 'context', min: 1, max: 16_777_216 },
  window: { field: 'window', min: 0, max: 16_777_216 },
};

/**
 * A named shape, sizes ("hidden=512,layers=4,heads=8,dtype=Q4_1"), or a name with changes
 * ("llama-1b,layers=4"). What is not given is the tiny shape's; head_dim follows hidden / heads and
 * kv_heads follows heads. Throws ERR_INVALID_REQUEST naming the part at fault.
 */
export function parseShape(text: string): SyntheticShape {
  const parts = text.split(',').map((part) => part.trim());
  const first = parts[0]!;
  const named = first.includes('=') ? undefined : first;
  if (named !== undefined && !Object.hasOwn(SYNTHETIC_SHAPES, named)) {
    throw invalid(
      'shape',
      `one of ${Object.keys(SYNTHETIC_SHAPES).join(', ')}, or KEY=VALUE sizes`,
      named,
    );
  }
  const shape: SyntheticShape = { ...SYNTHETIC_SHAPES[named ?? 'tiny']! };
  const given = new Set<string>();
  for (const part of named === undefined ? parts : parts.slice(1)) {
    const cut = part.indexOf('=');
    const key = part.slice(0, cut);
    if (cut < 1) throw invalid('shape', 'KEY=VALUE', part);
    given.add(key);
    assign(shape, key, part.slice(cut + 1));
  }
  if (given.size > 0) shape.name = named === undefined ? 'custom' : `${named}-custom`;
  if (given.has('heads') && !given.has('kv_heads') && named === undefined)
    shape.kvHeads = shape.heads;
  if ((given.has('heads') || given.has('hidden')) && !given.has('head_dim')) {
    shape.headDim = shape.hidden / shape.heads;
  }
  checkShape(shape);
  return shape;
}

function assign(shape: SyntheticShape, key: string, value: string): void {
  const size = Object.hasOwn(SIZE_KEYS, key) ? SIZE_KEYS[key] : undefined;
  if (size) {
    const number = Number(value);
    const valid = /^\d+$/.test(value) && number >= size.min && number <= size.max;
    if (!valid) throw invalid(key, `a whole number from ${size.min} to ${size.max}`, value);
    shape[size.field] = number;
  } else if (key === 'dtype') {
    if (!Object.hasOwn(DTYPES, value))
      throw invalid(key, `one of ${Object.keys(DTYPES).join(', ')}`, value);
    shape.dtype = value as DTypeName;
  } else if (key === 'arch') {
    const known = ARCHITECTURES.find((name) => name === value);
    if (!known) throw invalid(key, `one of ${ARCHITECTURES.join(', ')}`, value);
    shape.architecture = known;
  } else if (key === 'theta') {
    const number = Number(value);
    if (!(number > 1 && Number.isFinite(number))) throw invalid(key, 'a number above 1', value);
    shape.theta = number;
  } else if (key === 'tied') {
    if (value !== 'true' && value !== 'false') throw invalid(key, 'true or false', value);
    shape.tied = value === 'true';
  } else {
    const keys = [...Object.keys(SIZE_KEYS), 'dtype', 'arch', 'theta', 'tied'];
    throw invalid('shape', `keys ${keys.join(', ')}`, key);
  }
}

function checkShape(shape: SyntheticShape): void {
  if (shape.hidden % 32 !== 0) throw invalid('hidden', 'a multiple of 32', shape.hidden);
  if (shape.intermediate % 32 !== 0)
    throw invalid('intermediate', 'a multiple of 32', shape.intermediate);
  if (!Number.isInteger(shape.headDim) || shape.headDim % 2 !== 0) {
    throw invalid('head_dim', 'an even number (hidden / heads unless given)', shape.headDim);
  }
  if ((shape.heads * shape.headDim) % 32 !== 0) {
    throw invalid('heads', 'heads * head_dim a multiple of 32', shape.heads * shape.headDim);
  }
  if (shape.heads % shape.kvHeads !== 0)
    throw invalid('kv_heads', `a divisor of ${shape.heads}`, shape.kvHeads);
  if (shape.architecture === 'gemma3' && shape.window === 0) shape.window = 512;
}

function invalid(part: string, expected: string, found: unknown): EngineError {
  return new EngineError(
    'ERR_INVALID_REQUEST',
    `synthetic ${part}: expected ${expected}, received ${String(found)}`,
  );
}

/** RoPE parameters of a shape's full-attention layers. */
export function shapeRope(shape: SyntheticShape): RopeParameters {
  const plain = { theta: shape.theta, dim: shape.headDim };
  if (shape.ropeFactor === 1) return { type: 'default', ...plain };
  return {
    type: 'llama3',
    ...plain,
    factor: shape.ropeFactor,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    originalMaxPosition: 8192,
  };
}

export function syntheticConfig(shape: SyntheticShape): NativeModelConfig {
  const gemma = shape.architecture === 'gemma3';
  const style = shape.architecture === 'llama' ? 0 : 1;
  const rope = (parameters: RopeParameters): NativeModelConfig['ropes'][number] => ({
    style,
    dim: parameters.dim,
    ...computeRope(parameters, 'synthetic'),
  });
  const ropes = [rope(shapeRope(shape))];
  if (gemma) ropes.push(rope({ type: 'default', theta: 10_000, dim: shape.headDim }));
  return {
    architecture: shape.architecture,
    vocabSize: shape.vocab,
    hiddenSize: shape.hidden,
    intermediateSize: shape.intermediate,
    numHeads: shape.heads,
    numKvHeads: shape.kvHeads,
    headDim: shape.headDim,
    maxPosition: shape.context,
    rmsNormEps: Math.fround(gemma ? 1e-6 : 1e-5), // as a file's F32 would hold it
    softmaxScale: 1 / Math.sqrt(shape.headDim),
    embeddingScale: gemma ? Math.fround(Math.sqrt(shape.hidden)) : 1,
    logitSoftcap: 0,
    attentionSoftcap: 0,
    activation: gemma ? 1 : 0,
    qkvBias: shape.architecture === 'qwen2',
    qkNorm: gemma || shape.architecture === 'qwen3',
    postNorms: gemma,
    tiedEmbeddings: shape.tied,
    normWeightOffset: 0,
    ropes,
    layers: Array.from({ length: shape.layers }, (_, i) => {
      const local = gemma ? (i + 1) % 6 !== 0 : shape.window > 0;
      return { window: local ? shape.window : 0, ropeIndex: gemma && local ? 1 : 0 };
    }),
  };
}

/** What a type falls back to where rows are no multiple of its block, as quantizers do. */
const NARROW: Partial<Record<DTypeName, DTypeName>> = { Q4_K: 'Q5_0', Q5_K: 'Q5_1', Q6_K: 'Q8_0' };

/** The type of one tensor: vectors in F32, the vocabulary's tables in 8 bits at least. */
export function tensorType(
  shape: SyntheticShape,
  name: string,
  rows: number,
  cols: number,
): DTypeName {
  if (rows === 1) return 'F32';
  const wide = shape.dtype === 'F32' || shape.dtype === 'F16' || shape.dtype === 'BF16';
  if (!wide && (name === 'token_embedding' || name === 'lm_head')) return 'Q8_0';
  const [elements] = DTYPE_BLOCKS[shape.dtype];
  return cols % elements === 0 ? shape.dtype : NARROW[shape.dtype]!;
}

/** The model with tensors that native code fills from `seed` (file -1). */
export function syntheticModel(shape: SyntheticShape, seed: number): NativeModel {
  const config = syntheticConfig(shape);
  const tensors: NativeModel['tensors'] = [];
  let index = 0;
  for (const [name, [rows, cols]] of expectedTensors(config)) {
    const dtype = DTYPES[tensorType(shape, name, rows, cols)];
    const own = (seed + Math.imul(++index, 0x9e37_79b1)) >>> 0;
    tensors.push({ name, dtype, rows, cols, file: -1, offset: 0, seed: own });
  }
  return { config, files: [], tensors };
}

const TEMPLATE =
  "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + " +
  "'<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/** Every byte has a token, so that any text encodes; all further ids are readable made-up words. */
export function syntheticTokenizer(vocab: number): TokenizerDescription {
  const texts: string[] = [...SPECIAL_TOKENS, ...BYTE_CHARACTERS];
  for (let i = 0; texts.length < vocab; i++) texts.push(madeUpWord(i));
  const types = new Uint8Array(vocab).fill(TOKEN_NORMAL);
  types.fill(TOKEN_CONTROL, 0, SPECIAL_TOKENS.length);
  const tokens = StringTable.from(texts);
  return {
    spec: {
      kind: 'bpe',
      tokenBytes: tokens.bytes,
      tokenOffsets: tokens.offsets,
      tokenTypes: types,
      scores: null,
      mergeBytes: new Uint8Array(0),
      mergeOffsets: new Uint32Array(1),
      preTokenizer: 'gpt2',
      ignoreMerges: false,
      spacePrefix: 'none',
      unknownTokenId: 0,
    },
    bosTokenId: 1,
    eosTokenIds: [0, 2],
    addBos: false,
    addEos: false,
    chatTemplate: TEMPLATE,
    bosToken: SPECIAL_TOKENS[1],
    eosToken: SPECIAL_TOKENS[2],
  };
}

const CONSONANTS = 'bdfghjklmnprstvz';
const VOWELS = 'aeiou';

/** Word i with a space before it: base-80 digits as syllables, at least two, all different. */
function madeUpWord(i: number): string {
  let word = '';
  for (let rest = i, n = 0; n < 2 || rest > 0; n++) {
    const digit = rest % 80;
    rest = Math.floor(rest / 80);
    word += CONSONANTS[digit % 16]! + VOWELS[Math.floor(digit / 16)]!;
  }
  return `\u0120${word}`;
}
