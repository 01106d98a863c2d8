/** The shape of a report, as written by `--json`. */
import type { Machine } from '../bench/machine.js';
import { ConfigError } from '../config.js';
import type { Interval } from './intervals.js';

/** One answer. `context_id` names the context; items with the same one share all its tokens. */
export interface ReportItem {
  task: string;
  length: number;
  context_id: string;
  item: number;
  seed: number;
  attention: string;
  sparsity: number | null;
  kept_tokens: number | null;
  budget_measured: number;
  answer: string;
  /** Texts that a right answer contains; none where only the likelihood counts. */
  expected: readonly string[];
  /** 0 to 100; null where nothing is expected. */
  score: number | null;
  /** Of the expected answer, teacher-forced: nats a token. */
  nll: number;
  num_expected_tokens: number;
  num_context_tokens: number;
  /** Where in the context the fact lies, 0 to 1; null where that has no meaning. */
  depth: number | null;
}

export interface SummaryRow {
  /** A task's name; a group of tasks ('retrieval', …) or 'all' pools their items. */
  task: string;
  /** Null pools all lengths. */
  length: number | null;
  attention: string;
  sparsity: number | null;
  kept_tokens: number | null;
  num_contexts: number;
  num_items: number;
  budget_measured: number;
  /** Points; null where nothing is scored. */
  score: Interval | null;
  /** Nats a token. */
  nll: Interval;
  /** This setting minus exact attention on the same items; null for exact itself or without it. */
  paired: {
    num_items: number;
    nll_difference: Interval;
    score_difference: Interval | null;
  } | null;
}

/**
 * Items of a report that a run like `now` would make again, bit for bit. Throws ConfigError naming
 * what differs.
 */
export function resumableItems(
  earlier: EvalReport,
  now: Omit<EvalReport, 'summary' | 'items' | 'resolution' | 'complete' | 'machine'>,
): ReportItem[] {
  const clean = (commit: string | null): string | null => commit?.replace(/-dirty$/, '') ?? null;
  const sides = [earlier, now] as const;
  for (const field of FIXED_FIELDS) {
    const [was, is] = sides.map((side) => JSON.stringify(side[field])) as [string, string];
    if (was !== is) throw new ConfigError('--resume', `a report with ${field} ${is}`, was);
  }
  const [was, is] = sides.map(({ commit }) => clean(commit));
  if (was !== is) throw new ConfigError('--resume', `a report of commit ${is}`, was);
  for (const [task, knobs] of Object.entries(now.knobs)) {
    const [theirs, ours] = [earlier.knobs[task], knobs].map((value) => JSON.stringify(value));
    if (theirs !== undefined && theirs !== ours) {
      throw new ConfigError('--resume', `a report with ${task} ${ours}`, theirs);
    }
  }
  return earlier.items;
}

/** What decides items beside commit and knobs. A question depends on how many there are. */
const FIXED_FIELDS = [
  'model',
  'isa',
  'kv_dtype',
  'seed',
  'items_per_context',
  'texts_sha256',
] as const;

/** Whether exact attention leaves room for a difference to show. */
export interface Resolution {
  can_tell: boolean;
  /** Tasks where exact attention scores from 40 to 90 points. */
  tasks_in_range: string[];
  message: string;
}

export interface EvalReport {
  machine: Machine;
  isa: string;
  commit: string | null;
  model: string;
  kv_dtype: string;
  seed: number;
  /** Questions a context, at most. */
  items_per_context: number;
  /** Of the texts that tasks draw from. */
  texts_sha256: string;
  /** Difficulty of each task. */
  knobs: Record<string, Record<string, number>>;
  /** False when the run was interrupted: then it has fewer contexts than were asked for. */
  complete: boolean;
  resolution: Resolution;
  summary: SummaryRow[];
  items: ReportItem[];
}
