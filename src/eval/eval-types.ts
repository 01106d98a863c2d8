/**
 * The vocabulary of quality measurements: what a task makes, what an engine is asked, what comes
 * back. Items of one context share its tokens, so an engine may prepare a context once (read it,
 * index it) and answer every question from there.
 */

/** One way of attending over a context; the names are the engine's own. */
export interface AttentionSetting {
  /** 'exact' is the reference that every other setting is compared with. */
  attention: string;
  /** Share of the context's keys to leave out, from 0 to below 1; null: not asked for. */
  sparsity: number | null;
  /** Keys to keep, an absolute number; null: not asked for. */
  keptTokens: number | null;
}

export interface EvalQuestion {
  /** Follow the context's tokens; at least one. */
  tokens: Int32Array;
  /** A right answer, for teacher forcing; at least one. */
  expected: Int32Array;
  /** Longest greedy answer; 0 asks for none. */
  maxTokens: number;
  stopTokenIds: readonly number[];
}

export interface EvalAnswer {
  /** Greedy, without the stop token. */
  tokens: number[];
  /** Natural log of each expected token's probability, given those before it. */
  logprobs: number[];
  /** Bytes read over the bytes exact attention would have read, index included. */
  budgetMeasured: number;
}

/** A context that is ready to be asked. */
export interface EvalContext {
  /** One answer a question, in their order, whatever runs beside what. Rejects with EngineError. */
  ask(
    questions: readonly EvalQuestion[],
    setting: AttentionSetting,
    signal: AbortSignal,
  ): Promise<EvalAnswer[]>;
  /** Gives back what the context holds. */
  close(): Promise<void>;
}

/** What the harness needs of an engine. */
export interface EvalEngine {
  /** Longest sequence: context, question and answer together. */
  readonly maxLength: number;
  /** Throws ERR_UNSUPPORTED for a setting that this engine would not compute as asked. */
  checkSetting(setting: AttentionSetting): void;
  /** `settings` are those that will be asked for. Rejects with EngineError. */
  openContext(
    tokens: Int32Array,
    settings: readonly AttentionSetting[],
    signal: AbortSignal,
  ): Promise<EvalContext>;
}

/** Retrieval finds facts, aggregation counts over the whole context, continuation predicts text. */
export type TaskGroup = 'retrieval' | 'aggregation' | 'continuation';

export interface TaskItem {
  /** Follows the context; ends where the answer begins. */
  question: string;
  /** What a right answer reads, from its first character on (a space, mostly). */
  answer: string;
  /** Texts that a right answer contains; none: only the likelihood of `answer` counts. */
  expected: readonly string[];
  /** Where the fact lies, 0 the context's beginning and 1 its end; null where that has no meaning. */
  depth: number | null;
  /** The answer is more than one line; otherwise it ends with its first. */
  isMultiline?: boolean;
}

export interface TaskContext {
  text: string;
  items: TaskItem[];
}

/** Difficulty of a task, by knob: counts and lengths, all whole numbers. */
export type Knobs = Readonly<Record<string, number>>;

/** Counts tokens as the model under test does, without special ones. */
export type CountTokens = (text: string) => Promise<number>;
