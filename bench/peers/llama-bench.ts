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

/** A llama-bench that has shown that it runs. */
export interface LlamaBenchProgram {
  path: string;
  /** As its output names its build. */
  version: string;
  /** Whether it takes --n-depth; ik_llama.cpp's only generates behind a prompt. */
  takesDepth: boolean;
}

/** Runs the program once, on a few tokens. Throws an Error with its words when that fails. */
export async function openLlamaBench(path: string, modelPath: string): Promise<LlamaBenchProgram> {
  const help = await run(path, ['--help'], { maxBuffer: OUTPUT_MAX });
  const tiny = ['-m', modelPath, '-p', '8', '-n', '0', '-r', '1', '-ngl', '0', '-o', 'json'];
  const { stdout } = await run(path, tiny, { maxBuffer: OUTPUT_MAX });
  const first = parseResults(stdout)[0] ?? {};
  const { build_number: number, build_commit: commit } = first;
  return {
    path,
    version: `build ${number ?? 'unknown'}, commit ${commit ?? 'unknown'}`,
    takesDepth: help.stdout.includes('--n-depth'),
  };
}

interface LlamaBenchResult {
  avg_ts?: number;
  build_number?: number;
  build_commit?: string;
}

/** Some builds print remarks before the JSON. */
function parseResults(output: string): LlamaBenchResult[] {
  return JSON.parse(output.slice(Math.max(0, output.search(/^\[/m)))) as LlamaBenchResult[];
}

/** llama-bench's arguments for a row of one sequence; null where it cannot measure it. */
export function llamaBenchArguments(
  settings: LlamaBenchSettings,
  workload: Workload,
  takesDepth = true,
): string[] | null {
  const { modelPath, threads, flashAttention, kv } = settings;
  const { work, prompt, generate, depth } = workload;
  const behind = depth > 0 && !takesDepth;
  if (behind && work !== 'decode') return null;
  const tokens = {
    prefill: ['-p', `${prompt}`, '-n', '0'],
    decode: behind
      ? ['-p', '0', '-n', '0', '-gp', `${depth},${generate}`]
      : ['-p', '0', '-n', `${generate}`],
    both: ['-p', '0', '-n', '0', '-pg', `${prompt},${generate}`],
  }[work];
  const at = takesDepth ? ['-d', `${depth}`] : [];
  const flash = flashAttention ? '1' : '0';
  return [
    ...['-m', modelPath, '-t', `${threads}`, '-fa', flash, '-ctk', kv, '-ctv', kv],
    ...[...tokens, ...at, '-r', '1', '-ngl', '0', '-o', 'json'],
  ];
}

/** Seconds of a row from llama-bench's JSON, whose avg_ts counts tokens a second. */
export function llamaBenchSeconds(output: string, workload: Workload): number {
  const speed = parseResults(output).at(-1)?.avg_ts;
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
  { path, takesDepth }: Pick<LlamaBenchProgram, 'path' | 'takesDepth'>,
  settings: LlamaBenchSettings,
  workload: Workload,
): Promise<number | null> {
  if (workload.batch === 1) {
    const single = llamaBenchArguments(settings, workload, takesDepth);
    if (!single) return null;
    const { stdout } = await run(path, single, { maxBuffer: OUTPUT_MAX });
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
