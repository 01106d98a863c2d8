/**
 * A llama-bench given by path, one process a measurement. Batched rows need llama-batched-bench in
 * the same folder; without it they are not measured.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Workload } from '../../src/bench/workload.js';
import { workloadTokens } from '../../src/bench/workload.js';

const run = promisify(execFile);
const OUTPUT_MAX = 64 * 2 ** 20;

export interface LlamaBenchSettings {
  modelPath: string;
  threads: number;
  flashAttention: boolean;
  /** f16, bf16 or q8_0. */
  kv: string;
}

/** llama-bench's arguments for a row of one sequence. */
export function llamaBenchArguments(settings: LlamaBenchSettings, workload: Workload): string[] {
  const { modelPath, threads, flashAttention, kv } = settings;
  const { work, prompt, generate, depth } = workload;
  const tokens = {
    prefill: ['-p', `${prompt}`, '-n', '0'],
    decode: ['-p', '0', '-n', `${generate}`],
    both: ['-p', '0', '-n', '0', '-pg', `${prompt},${generate}`],
  }[work];
  const flash = flashAttention ? '1' : '0';
  return [
    ...['-m', modelPath, '-t', `${threads}`, '-fa', flash, '-ctk', kv, '-ctv', kv],
    ...[...tokens, '-d', `${depth}`, '-r', '1', '-ngl', '0', '-o', 'json'],
  ];
}

/** Seconds of a row from llama-bench's JSON, whose avg_ts counts tokens a second. */
export function llamaBenchSeconds(output: string, workload: Workload): number {
  const results = JSON.parse(output) as Array<{ avg_ts?: number }>;
  const speed = results.at(-1)?.avg_ts;
  if (!speed) throw new Error('llama-bench: no avg_ts in its output');
  return workloadTokens(workload) / speed;
}

/** llama-batched-bench's arguments: prompts of `npp` tokens, then `ntg` steps of `npl` sequences. */
export function batchedBenchArguments(settings: LlamaBenchSettings, workload: Workload): string[] {
  const { modelPath, threads, flashAttention, kv } = settings;
  const { work, prompt, generate, depth, batch } = workload;
  const before = work === 'decode' ? depth : prompt;
  const context = batch * (before + generate);
  return [
    ...['-m', modelPath, '-t', `${threads}`, '-fa', flashAttention ? 'on' : 'off'],
    ...['-ctk', kv, '-ctv', kv, '-c', `${context}`, '-b', '2048', '-ub', '512'],
    ...['-npp', `${before}`, '-ntg', `${generate}`, '-npl', `${batch}`, '-ngl', '0'],
    ...['--output-format', 'jsonl'],
  ];
}

/** Seconds of a row from llama-batched-bench's JSON line. */
export function batchedBenchSeconds(output: string, workload: Workload): number {
  const line = output.split('\n').find((text) => text.startsWith('{'));
  if (!line) throw new Error('llama-batched-bench: no JSON line in its output');
  const { t_pp: prefill, t_tg: decode } = JSON.parse(line) as { t_pp: number; t_tg: number };
  return { prefill, decode, both: prefill + decode }[workload.work];
}

/** Null where these programs cannot measure the row. Throws an Error when one fails. */
export async function measureLlamaBench(
  path: string,
  settings: LlamaBenchSettings,
  workload: Workload,
): Promise<number | null> {
  if (workload.batch === 1) {
    const { stdout } = await run(path, llamaBenchArguments(settings, workload), {
      maxBuffer: OUTPUT_MAX,
    });
    return llamaBenchSeconds(stdout, workload);
  }
  const batched = join(dirname(path), 'llama-batched-bench');
  const fromEmpty = workload.work === 'decode' || workload.depth === 0;
  if (!fromEmpty || !existsSync(batched)) return null;
  const { stdout } = await run(batched, batchedBenchArguments(settings, workload), {
    maxBuffer: OUTPUT_MAX,
  });
  return batchedBenchSeconds(stdout, workload);
}
