/** A kind of task: what a generator is given and what it says of itself. */
import type { Corpus } from './corpus.js';
import type { EvalRandom } from './eval-random.js';
import type { CountTokens, Knobs, TaskContext, TaskGroup, TaskItem } from './eval-types.js';

/** Tokens an answer may be longer than the right one. */
export const ANSWER_SLACK = 8;

export interface TaskRequest {
  /** Questions to make, at most the task's itemsMax. */
  numItems: number;
  knobs: Knobs;
  random: EvalRandom;
  corpus: Corpus;
  count: CountTokens;
  /** Tokens of context, question and answer together. */
  length: number;
}

export interface EvalTask {
  readonly name: string;
  readonly group: TaskGroup;
  /** One line for --help. */
  readonly about: string;
  /** All knobs with the values of the task's definition; presets replace some. */
  readonly knobs: Knobs;
  /** Most questions that make sense on one context. */
  readonly itemsMax: number;
  /** Deterministic in its request. Throws ERR_INVALID_REQUEST when the length is too small. */
  build(request: TaskRequest): Promise<TaskContext>;
}

/** The value of a knob that the task has. */
export function knob(knobs: Knobs, name: string): number {
  const value = knobs[name];
  if (value === undefined) throw new Error(`no knob "${name}"`);
  return value;
}

/** Tokens left for the context when the longest question and its answer have theirs. */
export async function contextTokens(
  request: TaskRequest,
  items: readonly TaskItem[],
): Promise<number> {
  let longest = 0;
  for (const { question, answer } of items) {
    longest = Math.max(longest, await request.count(question + answer));
  }
  return request.length - longest - ANSWER_SLACK - SPECIAL_TOKENS;
}

/** A token that begins a sequence, and one that a split of the text may add. */
const SPECIAL_TOKENS = 2;
