/** Reads the committed references of test/golden; the folder is found from the compiled file up. */
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The five most likely ids and their natural log-probabilities, likeliest first. */
export type Top = [ids: number[], logprobs: number[]];

export interface GreedyCase {
  text: string;
  ids: number[];
  tokens: number[];
  top: Top[];
}

export interface AccuracyFixture {
  source: { file: string; sha256: string };
  /** llama.cpp's distance from the reference on the same file, over 4096 tokens. */
  llama: { tokens: number; mean_kl: number; top1_agreement: number; rms_logit_error: number };
  text: {
    ids: number[];
    /** Entry i belongs to ids[i + 1]. */
    logprobs: number[];
    /** Five likeliest ids after ids[i]. */
    top: number[][];
    llama: { mean_target_error: number; mean_kl: number; top1_agreement: number };
  };
  greedy: GreedyCase[];
}

export interface TinyCase extends GreedyCase {
  logprobs: number[];
  prompt_top: Top[];
}

export function goldenFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'test', 'golden', 'accuracy'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error('test/golden was not found above this file');
    folder = parent;
  }
  return join(folder, 'test', 'golden');
}

const readJson = (path: string): unknown => JSON.parse(readFileSync(path, 'utf8'));

export function readAccuracy(name: 'smollm2' | 'gemma3'): AccuracyFixture {
  return readJson(join(goldenFolder(), 'accuracy', `${name}.json`)) as AccuracyFixture;
}

export const TINY_FAMILIES = ['llama', 'qwen2', 'qwen3', 'mistral', 'gemma3'] as const;

export function tinyModelFolder(family: string): string {
  return join(goldenFolder(), 'models', family);
}

export function readTinyCases(family: string): TinyCase[] {
  return readJson(join(tinyModelFolder(family), 'expected.json')) as TinyCase[];
}

export function readText(name: 'python-source' | 'python-reference'): string {
  return readFileSync(join(goldenFolder(), 'texts', `${name}.txt`), 'utf8');
}
