/**
 * One request inside the engine: its tokens, how far they are computed, what it holds while it
 * runs, and its times. Decides when a token ends it; who runs when is the scheduler's business.
 *
 *   tokens:    |––––––– prompt –––––––|–– output ––|  numTokens
 *   computed:  |–––– committed ––––|–– in flight ––|  numComputedTokens (planned)
 *
 * `numComputedTokens` moves when a step is planned, `numCommittedTokens` when it has finished. In
 * the overlapped loop a planned step may sample a token that is not known yet: those are
 * `numPendingSamples`, and they count as tokens when the next step is planned.
 */
import type { SequenceBlocks } from '../kv/block-manager.js';
import type { FinishReason, SamplingParams, TokenWithLogprobs } from '../types.js';
import type { GenerationTimings, GenerationUsage } from './engine-types.js';

export type SequenceStatus = 'waiting' | 'running' | 'finished';

export interface SequenceOptions {
  /** Order of arrival; unique. */
  arrival: number;
  promptTokens: Int32Array;
  /** maxTokens is finite here. */
  sampling: SamplingParams;
  /** 1 when absent. */
  promptLogprobsFrom?: number | undefined;
  /** Lower runs first. */
  priority: number;
  blocks: SequenceBlocks;
  /** Milliseconds of the engine's clock. */
  nowMs: number;
}

export interface SequenceEnd {
  reason: FinishReason;
  stopTokenId: number | null;
}

const NO_ENTRY = -1;

export class Sequence {
  readonly arrival: number;
  readonly priority: number;
  readonly sampling: SamplingParams;
  readonly numPromptTokens: number;
  readonly blocks: SequenceBlocks;
  private readonly stopTokenIds: ReadonlySet<number>;

  status: SequenceStatus = 'waiting';
  /** [numTokens]; spare capacity behind it. */
  tokens: Int32Array;
  numTokens: number;
  numComputedTokens = 0;
  numCommittedTokens = 0;
  /** Of the prompt, taken from the prefix cache when it was first admitted. */
  numCachedTokens = 0;
  numPendingSamples = 0;
  /** The reader is behind: not scheduled until it has caught up. */
  isPaused = false;

  /** Held from admission until release; −1 = none. */
  slot = NO_ENTRY;
  /** Names this stay in the slot to native code; a new one after each preemption. */
  nativeId = NO_ENTRY;
  /** Native code has been told of the slot. */
  isOpen = false;
  /** The last step that has a row of this sequence, and the last that preempted it. */
  scheduledStepId = NO_ENTRY;
  preemptedStepId = NO_ENTRY;
  numPreemptions = 0;
  /** Blocks there were room for when it last was not admitted. */
  roomWhenRefused = -1;

  /** Prompt tokens that counted as computed work already: recomputed ones do not count again. */
  numPrefillCounted = 0;
  reportedProgress = 0;
  /** Entry i is prompt token i; the first stays null. Null when none were asked for. */
  promptLogprobs: Array<TokenWithLogprobs | null> | null;
  promptLogprobsSent = false;
  /** Entries before this one are not wanted. */
  readonly promptLogprobsFrom: number;

  readonly arrivedMs: number;
  admittedMs: number | null = null;
  firstTokenMs: number | null = null;
  lastTokenMs: number | null = null;
  finishedMs: number | null = null;

  constructor(options: SequenceOptions) {
    this.arrival = options.arrival;
    this.priority = options.priority;
    this.sampling = options.sampling;
    this.stopTokenIds = new Set(options.sampling.stopTokenIds);
    this.numPromptTokens = options.promptTokens.length;
    this.numTokens = this.numPromptTokens;
    // A copy: the caller's array may change, and outputs are appended.
    this.tokens = new Int32Array(this.numTokens + Math.min(options.sampling.maxTokens, 64));
    this.tokens.set(options.promptTokens);
    this.blocks = options.blocks;
    this.arrivedMs = options.nowMs;
    const wantsPrompt = options.sampling.numPromptLogprobs >= 0;
    this.promptLogprobsFrom = options.promptLogprobsFrom ?? 1;
    this.promptLogprobs = wantsPrompt ? new Array(this.numPromptTokens).fill(null) : null;
  }

  get numOutputTokens(): number {
    return this.numTokens - this.numPromptTokens;
  }

  /** Tokens a step planned now could compute; 0 when only a result in flight can add more. */
  get numRemainingTokens(): number {
    const pending = this.numPendingSamples;
    // The sample in flight is the last one it may draw: nothing would read its K/V.
    if (pending > 0 && this.numOutputTokens + pending >= this.sampling.maxTokens) return 0;
    return this.numTokens + pending - this.numComputedTokens;
  }

  /** Prompt logprobs are still owed, so the prompt's rows must be computed, not taken over. */
  get owesPromptLogprobs(): boolean {
    return this.promptLogprobs !== null && !this.promptLogprobsSent;
  }

  get hasPenalty(): boolean {
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = this.sampling;
    return repetitionPenalty !== 1 || frequencyPenalty !== 0 || presencePenalty !== 0;
  }

  /** Lower ranks run first and are preempted last: priority, then arrival. */
  ranksBefore(other: Sequence): boolean {
    if (this.priority !== other.priority) return this.priority < other.priority;
    return this.arrival < other.arrival;
  }

  /** Takes one sampled token; says whether it ends the sequence. */
  appendToken(tokenId: number): SequenceEnd | null {
    if (this.numTokens === this.tokens.length) {
      const grown = new Int32Array(this.numTokens * 2);
      grown.set(this.tokens);
      this.tokens = grown;
    }
    this.tokens[this.numTokens++] = tokenId;
    if (this.numOutputTokens > this.sampling.minTokens && this.stopTokenIds.has(tokenId)) {
      return { reason: 'stop', stopTokenId: tokenId };
    }
    if (this.numOutputTokens >= this.sampling.maxTokens) {
      return { reason: 'length', stopTokenId: null };
    }
    return null;
  }

  /** Back to having computed nothing: blocks and slot are gone, tokens stay. */
  resetProgress(): void {
    this.numComputedTokens = 0;
    this.numCommittedTokens = 0;
    this.slot = NO_ENTRY;
    this.nativeId = NO_ENTRY;
    this.isOpen = false;
  }

  usage(): GenerationUsage {
    return {
      promptTokens: this.numPromptTokens,
      completionTokens: this.numOutputTokens,
      cachedTokens: this.numCachedTokens,
    };
  }

  timings(): GenerationTimings {
    const between = (from: number | null, to: number | null): number | null =>
      from === null || to === null ? null : to - from;
    return {
      queueMs: between(this.arrivedMs, this.admittedMs),
      prefillMs: between(this.admittedMs, this.firstTokenMs),
      decodeMs: between(this.firstTokenMs, this.finishedMs),
    };
  }
}

/** Keeps `list` sorted, best rank first. */
export function insertByRank(list: Sequence[], sequence: Sequence): void {
  let low = 0;
  let high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle]!.ranksBefore(sequence)) low = middle + 1;
    else high = middle;
  }
  list.splice(low, 0, sequence);
}

export function removeFrom(list: Sequence[], sequence: Sequence): void {
  const index = list.indexOf(sequence);
  if (index < 0) throw new Error(`sequence ${sequence.arrival} is not where its status says`);
  list.splice(index, 1);
}
