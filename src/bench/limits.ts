/**
 * How far a measured speed is from what the machine could do: a decode step must read the weights
 * and the cached keys and values once; a prefill must do the multiplications of the products and of
 * attention. Everything else (norms, sampling, activations) counts as overhead.
 */
import type { NativeEngineInfo, NativeModel } from '../binding/addon.js';
import { DTYPE_BLOCKS, DTYPES, type DTypeName } from '../types.js';
import type { Workload } from './workload.js';

export interface MachineLimits {
  readBytesPerSecond: number;
  /** A multiply and an add count as two; 0 = not known. */
  operationsPerSecond: number;
}

const DTYPE_NAMES = Object.keys(DTYPES) as DTypeName[];

/** Bytes of one token's K or V of one head: 16-bit channels, or 8-bit ones and a scale. */
function headBytes(kvDtype: string, headDim: number): number {
  return kvDtype === 'q8' || kvDtype === 'fp8' ? headDim + 4 : 2 * headDim;
}

/** Keys that the token at `position` attends to in a layer of `window` (0 = all). */
function visibleKeys(position: number, window: number): number {
  return window === 0 ? position + 1 : Math.min(position + 1, window);
}

/** Sum of visibleKeys over positions [first, end). */
export function sumVisibleKeys(first: number, end: number, window: number): number {
  const triangle = (n: number): number => (n * (n + 1)) / 2;
  const bend = window === 0 ? end : Math.min(Math.max(window, first), end);
  return triangle(bend) - triangle(first) + (end - bend) * window;
}

/** Bytes of weights that one step reads, whatever the batch. `info` tells the resident size. */
export function weightBytesRead(model: NativeModel, info: { weightBytes: number }): number {
  if (model.config.tiedEmbeddings) return info.weightBytes;
  // The embedding is a table of its own, of which a step reads a row a token.
  const table = model.tensors.find((tensor) => tensor.name === 'token_embedding');
  if (!table) return info.weightBytes;
  const [elements, bytes] = DTYPE_BLOCKS[DTYPE_NAMES.find((name) => DTYPES[name] === table.dtype)!];
  return info.weightBytes - (table.cols / elements) * bytes * table.rows;
}

/** Bytes of keys and values that one sequence's step at `position` reads. */
export function kvBytesRead({ config }: NativeModel, kvDtype: string, position: number): number {
  const perKey = 2 * config.numKvHeads * headBytes(kvDtype, config.headDim);
  return config.layers.reduce((sum, { window }) => sum + visibleKeys(position, window) * perKey, 0);
}

/** Operations of a prefill of positions [first, end) in one sequence, with one row of logits. */
export function prefillOperations(
  { config, tensors }: NativeModel,
  first: number,
  end: number,
): number {
  let perToken = 0;
  for (const { name, rows, cols } of tensors) {
    if (name.startsWith('layers.') && rows > 1) perToken += 2 * rows * cols;
  }
  const logits = 2 * config.vocabSize * config.hiddenSize;
  // Scores and weighted values: a multiply and an add for each element of K and of V.
  const perKey = 4 * config.numHeads * config.headDim;
  const attention = config.layers.reduce(
    (sum, { window }) => sum + sumVisibleKeys(first, end, window) * perKey,
    0,
  );
  return perToken * (end - first) + logits + attention;
}

/** Seconds that a row would take at the machine's limits; null when a limit is not known. */
export function secondsAtLimit(
  workload: Workload,
  model: NativeModel,
  info: Pick<NativeEngineInfo, 'weightBytes' | 'kvDtype'>,
  limits: MachineLimits,
): number | null {
  const { work, prompt, generate, depth, batch } = workload;
  let seconds = 0;
  if (work !== 'decode') {
    if (!(limits.operationsPerSecond > 0)) return null;
    const operations = batch * prefillOperations(model, depth, depth + prompt);
    seconds += operations / limits.operationsPerSecond;
  }
  if (work !== 'prefill') {
    if (!(limits.readBytesPerSecond > 0)) return null;
    const first = work === 'both' ? depth + prompt : depth;
    let bytes = generate * weightBytesRead(model, info);
    for (let i = 0; i < generate; i++) bytes += batch * kvBytesRead(model, info.kvDtype, first + i);
    seconds += bytes / limits.readBytesPerSecond;
  }
  return seconds;
}
