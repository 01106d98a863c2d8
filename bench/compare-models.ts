/** The models and rows of bench/compare.ts. */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { describeWorkload, listWorkloads, type Workload } from '../src/bench/workload.js';
import { ConfigError } from '../src/config.js';
import { cacheFolder } from '../src/models/cache.js';
import { writeSyntheticGguf } from '../src/models/gguf-writer.js';
import { resolveModel } from '../src/models/sources.js';
import { parseShape } from '../src/models/synthetic.js';

export interface CompareModel {
  key: string;
  /** As it stands in the report. */
  title: string;
  /** What `longhaul pull` understands, or a synthetic shape written to a file all engines read. */
  source: { pull: string } | { shape: string };
  depths: readonly number[];
}

/** Depth of the batched decode. */
const BATCH_DEPTH = 1024;

export const COMPARE_MODELS: readonly CompareModel[] = [
  {
    key: 'smollm2',
    title: 'SmolLM2-135M-Instruct Q4_1',
    source: { pull: 'smollm2-135m-instruct' },
    depths: [0, 4096], // its context ends at 8192
  },
  {
    key: 'smollm2-128k-q4_1',
    title: 'SmolLM2 shape, random Q4_1, 128K context',
    source: { shape: 'smollm2,dtype=Q4_1' },
    depths: [0, 4096, 16_384],
  },
  {
    key: 'smollm2-128k-q8_0',
    title: 'SmolLM2 shape, random Q8_0, 128K context',
    source: { shape: 'smollm2,dtype=Q8_0' },
    depths: [0, 4096, 16_384],
  },
  {
    key: 'gemma3-270m',
    title: 'Gemma 3 270M Q4_K_M',
    source: { pull: 'gemma3-270m' },
    depths: [0, 4096],
  },
  {
    key: 'llama-1b',
    title: 'Llama 1B shape, random Q4_0',
    source: { shape: 'llama-1b,dtype=Q4_0' },
    depths: [0, 4096],
  },
];

/** Models by key, or by the path of a GGUF file; all for null. Throws ConfigError. */
export function chooseModels(list: string | null): CompareModel[] {
  if (list === null) return [...COMPARE_MODELS];
  return list.split(',').map((key) => {
    const known = COMPARE_MODELS.find((model) => model.key === key);
    if (known) return known;
    if (key.endsWith('.gguf')) {
      const name = basename(key, '.gguf');
      return { key: name, title: name, source: { pull: key }, depths: [0, 4096] };
    }
    const keys = COMPARE_MODELS.map((model) => model.key).join(', ');
    throw new ConfigError('--models', `a .gguf file, or some of ${keys}`, key);
  });
}

export interface RowOptions {
  prompt: number;
  generate: number;
  /** Instead of the model's own. */
  depths: readonly number[] | null;
  /** Sequences of the batched rows; 1 leaves them out. */
  batch: number;
}

/** Rows of one sequence and rows of many, apart: their caches differ by far in size. */
export function compareRows(model: CompareModel, options: RowOptions): Workload[][] {
  const { prompt, generate, batch } = options;
  const common = { prompt, generate, together: false };
  const single = listWorkloads({
    ...common,
    depths: options.depths ?? model.depths,
    batches: [1],
  });
  if (batch === 1) return [single];
  const batched: Workload[] = [
    { work: 'both', prompt, generate, depth: 0, batch },
    { work: 'decode', prompt, generate, depth: BATCH_DEPTH, batch },
  ];
  return [single, batched];
}

/** Rows whose description contains one of these words; all for null. */
export function selectRows(
  rows: readonly Workload[],
  words: readonly string[] | null,
): readonly Workload[] {
  if (words === null) return rows;
  return rows.filter((row) => words.some((word) => describeWorkload(row).includes(word)));
}

const SEED = 1;

/** The model's file, fetched or written when it is not there. Throws EngineError. */
export async function modelFile(model: CompareModel, folder: string): Promise<string> {
  if ('shape' in model.source) {
    const shape = parseShape(model.source.shape);
    // A shape that changes must not find its predecessor's file.
    const hash = createHash('sha256').update(JSON.stringify(shape)).digest('hex').slice(0, 8);
    const path = join(folder, `${model.key}-${hash}.gguf`);
    mkdirSync(folder, { recursive: true });
    if (!existsSync(path)) writeSyntheticGguf(shape, path, SEED);
    return path;
  }
  const resolved = await resolveModel(model.source.pull, {
    cache: cacheFolder(),
    signal: new AbortController().signal,
    onProgress: () => {},
  });
  return resolved.path;
}
