/**
 * Types the whole native surface and loads the .node file. Nothing else touches the addon.
 */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { EngineError } from '../errors.js';
import type { KvDtype } from '../types.js';

/** A tensor's bytes: a range of a file, or random values made in memory from a seed. */
export interface NativeTensor {
  /** Canonical name, native/model/weights.h. */
  name: string;
  /** A number of DTYPES. */
  dtype: number;
  rows: number;
  cols: number;
  /** Index into NativeModel.files; -1 for random values. */
  file: number;
  /** Bytes from the start of the file. */
  offset: number;
  /** For file === -1. */
  seed: number;
}

/** ModelConfig as native/model/model_config.h has it, camelCase. */
export interface NativeModelConfig {
  architecture: string;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  maxPosition: number;
  rmsNormEps: number;
  softmaxScale: number;
  embeddingScale: number;
  logitSoftcap: number;
  attentionSoftcap: number;
  /** 0 silu, 1 gelu (tanh). */
  activation: number;
  qkvBias: boolean;
  qkNorm: boolean;
  postNorms: boolean;
  tiedEmbeddings: boolean;
  normWeightOffset: number;
  ropes: Array<{ style: number; dim: number; invFreq: Float32Array; attentionFactor: number }>;
  layers: Array<{ window: number; ropeIndex: number }>;
}

export interface NativeModel {
  config: NativeModelConfig;
  files: string[];
  tensors: NativeTensor[];
}

export interface NativeEngineOptions {
  /** 'auto', 'cpu', 'cuda', 'cuda-emulated'. */
  backend: string;
  /** 0 is automatic. */
  threads: number;
  isaLimit: string;
  /** 0 is the backend's choice: what a GPU has left, or the next where the cache is in host memory. */
  kvMemoryBytes: number;
  kvMemoryDefaultBytes?: number;
  kvDtype: KvDtype;
  blockSize: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  /** 0 is the model's own. */
  maxModelLen: number;
}

export interface NativeEngineInfo {
  backend: string;
  /** Why this backend, for people. */
  backendReason: string;
  /** Name of the GPU; empty on the CPU. */
  device: string;
  isa: string;
  kvDtype: string;
  threads: number;
  blockSize: number;
  blockBytes: number;
  numBlocks: number;
  maxModelLen: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  vocabSize: number;
  numLayers: number;
  weightBytes: number;
  /** One a KV group; 0 is full attention. */
  groupWindows: number[];
}

/** An engine as the addon exposes it; see native/engine.h. */
export interface NativeEngineHandle {
  readonly info: NativeEngineInfo;
  /** Copies `plan`. The promise settles once, plans in order; rejects with an EngineError. */
  submit(plan: Int32Array): Promise<Int32Array>;
  abort(slot: number, sequenceId: number): void;
  /** Finishes the running step, rejects queued ones, joins the thread. Idempotent. */
  close(): Promise<void>;
}

/**
 * Where SentencePiece-style tokenizers put a space in front of what they encode, a segment being
 * the text before, between or after special tokens. 'segments': every segment, whatever it begins
 * with; 'first': the segment that begins the whole text, 'always': every segment, both of them
 * unless a space is there already.
 */
export type SpacePrefix = 'none' | 'segments' | 'first' | 'always';

/** What a tokenizer is built from; see native/tokenizer/tokenizer.h. */
export interface NativeTokenizerSpec {
  /** 'bpe': byte-level BPE with ranked merges; 'spm': SentencePiece-style BPE with scores. */
  kind: 'bpe' | 'spm';
  /** All token strings concatenated as UTF-8, and numTokens + 1 byte offsets. */
  tokenBytes: Uint8Array;
  tokenOffsets: Uint32Array;
  /** One a token: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte (GGUF's). */
  tokenTypes: Uint8Array;
  /** spm only. */
  scores: Float32Array | null;
  /** bpe only: "left right" pairs in rank order, as tokenBytes. */
  mergeBytes: Uint8Array | null;
  mergeOffsets: Uint32Array | null;
  /** Name of a pre-tokenizer native code knows: 'gpt2', 'llama3', 'qwen2', 'smollm', 'tekken', 'none'. */
  preTokenizer: string;
  /** Look a whole pre-token up before merging (tokenizer.json ignore_merges). */
  ignoreMerges: boolean;
  /** spm: where a space is put in front. */
  spacePrefix: SpacePrefix;
  unknownTokenId: number;
}

/** Immutable and shared by all threads of the process: `id` opens it from a worker. */
export interface NativeTokenizer {
  readonly id: number;
  readonly vocabSize: number;
  /**
   * Token ids of a text. With parseSpecial, control and user-defined tokens written out in the
   * text become their ids, except where `breakMark` (one code point, '' = none) has been inserted
   * inside them; the mark itself never reaches the ids. Adds no BOS or EOS.
   */
  encode(text: string, parseSpecial: boolean, breakMark: string): Int32Array;
  /** The bytes a token adds to a text; empty for control tokens unless `withSpecial`. */
  tokenBytes(tokenId: number, withSpecial: boolean): Uint8Array;
}

export interface Addon {
  readonly version: string;
  readonly errorCodes: string[];
  /** Hands over the class native code constructs: new EngineError(code, message). */
  setErrorClass(errorClass: typeof EngineError): void;
  cpuInfo(): { model: string; isa: string; features: string[]; defaultThreads: number };
  /** Opens a backend and closes it again: what it runs on, or why it cannot be used. */
  probeBackend(name: string): { usable: boolean; reason: string };
  /**
   * What this machine could do at best with `threads` (0 = automatic) at an instruction set, for
   * benchmarks: bytes read and operations (a multiply and an add count as two) a second, the latter
   * 0 where no limit is known. Blocks for about six times `seconds`.
   */
  measureLimits(options: {
    threads: number;
    isaLimit: string;
    bufferBytes: number;
    seconds: number;
  }): { readBytesPerSecond: number; operationsPerSecond: number };
  /** Loads weights off the Node thread. Rejects with an EngineError. */
  createEngine(model: NativeModel, options: NativeEngineOptions): Promise<NativeEngineHandle>;
  createTokenizer(spec: NativeTokenizerSpec): NativeTokenizer;
  openTokenizer(id: number): NativeTokenizer;
}

let loaded: Addon | null = null;

/** Loads the addon once a thread. Throws ERR_DEVICE with advice when it was never built. */
export function loadAddon(): Addon {
  if (loaded) return loaded;
  const path = findAddon();
  const require = createRequire(import.meta.url);
  loaded = require(path) as Addon;
  loaded.setErrorClass(EngineError);
  return loaded;
}

function findAddon(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (;;) {
    const candidate = join(folder, 'build', 'Release', 'longhaul.node');
    if (existsSync(candidate)) return candidate;
    const parent = dirname(folder);
    if (parent === folder) break;
    folder = parent;
  }
  throw new EngineError(
    'ERR_DEVICE',
    'The native addon is not built: build/Release/longhaul.node not found. Run "npm run build:native".',
  );
}
