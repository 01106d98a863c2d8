/**
 * Opens a model that is on disk (a GGUF file or a Hugging Face folder) or a synthetic one: what
 * serve hands to native code and to the tokenizer. Reads headers only; weights are mapped or read by
 * native code.
 */
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { NativeModel, NativeTensor } from '../binding/addon.js';
import { DTYPE_BLOCKS, DTYPES, type DTypeName } from '../types.js';
import { readGguf } from './gguf.js';
import { ggufModel } from './gguf-model.js';
import { ggufTokenizer } from './gguf-tokenizer.js';
import { hfModel } from './hf-model.js';
import { hfDefaults, hfTokenizer } from './hf-tokenizer.js';
import { unavailable } from './model-error.js';
import type { ModelDescription } from './model-types.js';
import { parseShape, syntheticModel, syntheticTokenizer } from './synthetic.js';

const SYNTHETIC_SEED = 1;

/** `path` is a .gguf file (any part of a split one) or a folder with config.json. Throws EngineError. */
export function loadModel(path: string, name?: string): ModelDescription {
  if (!existsSync(path)) throw unavailable(`${path}: no such file or folder`);
  if (!statSync(path).isDirectory()) return loadGguf(path, name);
  if (!existsSync(join(path, 'config.json'))) {
    throw unavailable(
      `${path}: a folder without config.json; name the .gguf file or a checkpoint's folder`,
    );
  }
  return loadFolder(path, name);
}

function loadGguf(path: string, name: string | undefined): ModelDescription {
  const gguf = readGguf(path);
  const native = ggufModel(gguf);
  return {
    name: name ?? basename(path).replace(/(-\d{5}-of-\d{5})?\.gguf$/i, ''),
    format: 'gguf',
    native,
    tokenizer: ggufTokenizer(gguf, native.config.vocabSize),
    fingerprint: fingerprint(native),
    defaults: {},
  };
}

function loadFolder(path: string, name: string | undefined): ModelDescription {
  const native = hfModel(path);
  return {
    name: name ?? basename(path),
    format: 'huggingface',
    native,
    tokenizer: hfTokenizer(path),
    fingerprint: fingerprint(native),
    defaults: hfDefaults(path),
  };
}

/** A model of random weights; `shape` as parseShape reads it. */
export function loadSynthetic(shape: string, name?: string): ModelDescription {
  const parsed = parseShape(shape);
  const native = syntheticModel(parsed, SYNTHETIC_SEED);
  return {
    name: name ?? `synthetic-${parsed.name}`,
    format: 'synthetic',
    native,
    tokenizer: syntheticTokenizer(parsed.vocab),
    fingerprint: fingerprint(native),
    defaults: {},
  };
}

const SAMPLE_BYTES = 64;

/**
 * sha256 over config, tensor table and a sample of every tensor's bytes. The samples tell
 * fine-tunes of one shape apart without reading the weights: what is kept of one model's K/V must
 * never be taken for another's.
 */
export function fingerprint(model: NativeModel): string {
  const hash = createHash('sha256');
  const { ropes, ...config } = model.config;
  hash.update(JSON.stringify(config));
  for (const rope of ropes) {
    hash.update(JSON.stringify([rope.style, rope.dim, rope.attentionFactor]));
    hash.update(Buffer.from(rope.invFreq.buffer, rope.invFreq.byteOffset, rope.invFreq.byteLength));
  }
  const fds = model.files.map((path) => openSync(path, 'r'));
  try {
    const sample = Buffer.alloc(SAMPLE_BYTES);
    for (const tensor of [...model.tensors].sort((a, b) => (a.name < b.name ? -1 : 1))) {
      hash.update(
        JSON.stringify([tensor.name, tensor.dtype, tensor.rows, tensor.cols, tensor.seed]),
      );
      if (tensor.file < 0) continue;
      const bytes = tensorBytes(tensor);
      const length = Math.min(SAMPLE_BYTES, bytes);
      const start = tensor.offset + Math.floor((bytes - length) / 2);
      hash.update(sample.subarray(0, readSync(fds[tensor.file]!, sample, 0, length, start)));
    }
  } finally {
    for (const fd of fds) closeSync(fd);
  }
  return hash.digest('hex');
}

const DTYPE_NAMES = Object.keys(DTYPES) as DTypeName[];

function tensorBytes(tensor: NativeTensor): number {
  const name = DTYPE_NAMES.find((candidate) => DTYPES[candidate] === tensor.dtype)!;
  const [elements, blockBytes] = DTYPE_BLOCKS[name];
  return (tensor.cols / elements) * blockBytes * tensor.rows;
}

/** Bytes of all weights as stored. */
export function weightBytes(model: NativeModel): number {
  return model.tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
}
