/** A planned step: what the scheduler remembers of it until its result is committed. */
import type { Sequence } from './sequence.js';
import type { StepWork } from './step-cost-model.js';

/** The tokens one sequence computes in a step: numTokens of them from position `start` on. */
export interface StepRow {
  sequence: Sequence;
  slot: number;
  nativeId: number;
  start: number;
  numTokens: number;
  /** The last token's logits give a new token. */
  samples: boolean;
}

/** A planned step. Reused: valid until its result is committed. */
export interface ScheduledStep {
  readonly stepId: number;
  /** The packet; valid until the next schedule(). */
  words: Int32Array;
  readonly rows: StepRow[];
  readonly work: StepWork;
  predictedMs: number;
  numTokens: number;
}

export interface StepOutcome {
  elapsedMs: number;
  numTokens: number;
  numSequences: number;
  /** Prompt tokens computed or taken from the cache for the first time. */
  prefillTokens: number;
}
