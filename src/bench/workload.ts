/** What an engine benchmark measures: one row of its table. */
import { ConfigError } from '../config.js';

export interface Workload {
  /**
   * prefill: `prompt` new tokens in each of `batch` sequences that hold `depth` tokens already.
   * decode: `generate` tokens, one a step, in each of them. both: a prefill, then a decode.
   */
  work: 'prefill' | 'decode' | 'both';
  prompt: number;
  generate: number;
  depth: number;
  batch: number;
}

/** Tokens that a measurement of this row counts. */
export function workloadTokens({ work, prompt, generate, batch }: Workload): number {
  return batch * ((work === 'decode' ? 0 : prompt) + (work === 'prefill' ? 0 : generate));
}

/** Positions a sequence of this row reaches. */
export function workloadLength({ work, prompt, generate, depth }: Workload): number {
  return depth + (work === 'decode' ? 0 : prompt) + (work === 'prefill' ? 0 : generate);
}

export function describeWorkload({ work, prompt, generate, depth, batch }: Workload): string {
  const tokens = { prefill: `${prompt}`, decode: `${generate}`, both: `${prompt}+${generate}` }[
    work
  ];
  return `${work} ${batch > 1 ? `${batch} × ` : ''}${tokens} at ${depth}`;
}

export interface WorkloadLists {
  prompt: number;
  generate: number;
  depths: readonly number[];
  batches: readonly number[];
  /** Adds a row of both kinds of work for each depth and batch. */
  together: boolean;
}

/** Depths ascending, so that filling the cache for one depth serves the next. */
export function listWorkloads(lists: WorkloadLists): Workload[] {
  const { prompt, generate, together } = lists;
  const ascending = (values: readonly number[]): number[] =>
    [...new Set(values)].sort((left, right) => left - right);
  const rows: Workload[] = [];
  for (const depth of ascending(lists.depths)) {
    for (const batch of ascending(lists.batches)) {
      const row = { prompt, generate, depth, batch };
      if (prompt > 0) rows.push({ work: 'prefill', ...row });
      if (generate > 0) rows.push({ work: 'decode', ...row });
      if (together && prompt > 0 && generate > 0) rows.push({ work: 'both', ...row });
    }
  }
  return rows;
}

/** A whole number; throws ConfigError naming the flag. */
export function parseCount(flag: string, text: string, min: number, max = 2 ** 31 - 1): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new ConfigError(flag, `a whole number from ${min} to ${max}`, text);
  }
  return value;
}

/** Comma-separated whole numbers; throws ConfigError naming the flag. */
export function parseCounts(flag: string, text: string, min: number): number[] {
  return text.split(',').map((part) => parseCount(flag, part.trim(), min));
}
