/**
 * The engine as HTTP sees it: tokens in, token events out. No text, no blocks.
 */
import type { EngineError } from '../errors.js';
import type { FinishReason, SamplingParams, TokenWithLogprobs } from '../types.js';

export interface GenerationRequest {
  /** Unique among live requests; the HTTP request id with the choice's index. */
  requestId: string;
  promptTokens: Int32Array;
  sampling: SamplingParams;
  /** Lower runs first; 0 is the default. */
  priority: number;
  /** Separates prefix-cache entries of different tenants; '' is shared. */
  cacheSalt: string;
  /** Milliseconds since the epoch after which the request fails with ERR_DEADLINE; null = none. */
  deadlineMs: number | null;
  /**
   * With sampling.numPromptLogprobs: the first prompt token whose log-probability is wanted, 1
   * when absent. What lies before it may come from the prefix cache; its entries are null.
   */
  promptLogprobsFrom?: number;
}

export interface GenerationUsage {
  promptTokens: number;
  completionTokens: number;
  /** Prompt tokens whose K/V came from the prefix cache. */
  cachedTokens: number;
}

/** Milliseconds, of one request; null until it happened. */
export interface GenerationTimings {
  queueMs: number | null;
  prefillMs: number | null;
  decodeMs: number | null;
}

export type GenerationEvent =
  | { type: 'progress'; computed: number; total: number }
  /** Before the first token, when asked for: entry i is prompt token i; the first is null. */
  | { type: 'promptLogprobs'; entries: Array<TokenWithLogprobs | null> }
  /** One or more tokens of one step. A stop token is the last one of its event. */
  | { type: 'tokens'; tokens: TokenWithLogprobs[] }
  /** Terminal. stopTokenId is set when a stop token ended the sequence. */
  | {
      type: 'finish';
      reason: FinishReason;
      stopTokenId: number | null;
      usage: GenerationUsage;
      timings: GenerationTimings;
    }
  /** Terminal. */
  | { type: 'error'; error: EngineError; usage: GenerationUsage; timings: GenerationTimings };

/** Ends with exactly one terminal event ('finish' or 'error'), abort included (ERR_ABORTED). */
export interface GenerationStream extends AsyncIterable<GenerationEvent> {
  readonly requestId: string;
  /**
   * Idempotent; the stream then ends with an ERR_ABORTED error event. With 'stop' the caller has
   * seen a stop string: the observer is told the reason 'stop' rather than 'abort'.
   */
  abort(reason?: 'stop'): void;
}

export interface EngineStats {
  numRunning: number;
  numWaiting: number;
  waitingTokens: number;
  /** Advances once a step. */
  stepCount: number;
  hasWork: boolean;
  /** Measured, tokens a second; null before the first measurement. */
  prefillTokensPerSecond: number | null;
  blocks: { owned: number; cached: number; free: number; moving: number };
  failed: EngineError | null;
}

export interface EngineLimits {
  maxModelLen: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  vocabSize: number;
  /** Tokens the KV pool holds for one sequence of full attention. */
  kvTokens: number;
}

export interface Engine {
  readonly limits: EngineLimits;
  /**
   * Queues a request. Throws EngineError: ERR_CONTEXT_TOO_LONG, ERR_QUEUE_FULL (with
   * retryAfterSeconds), ERR_SHUTTING_DOWN, ERR_INVALID_REQUEST.
   */
  submit(request: GenerationRequest): GenerationStream;
  stats(): EngineStats;
  /** Full check of the block bookkeeping; throws an Error that says what is wrong. */
  checkIntegrity(): void;
  /** Takes no more requests; resolves when the running ones ended or `deadlineMs` passed (the
   * rest then end with ERR_SHUTTING_DOWN). */
  drain(deadlineMs: number): Promise<void>;
  close(): Promise<void>;
}

/** What the engine tells the metrics room. Implemented by src/metrics/metrics.ts. */
export interface EngineObserver {
  onStep(step: {
    seconds: number;
    numTokens: number;
    numSequences: number;
    /** Prompt tokens computed, and prompt tokens taken from the prefix cache, this step. */
    prefillTokens: number;
  }): void;
  onFirstToken(request: { ttftSeconds: number; queueSeconds: number }): void;
  onToken(gapSeconds: number, count: number): void;
  onPrefixCache(queriedTokens: number, hitTokens: number): void;
  onPreemption(): void;
  onFinish(request: {
    reason: FinishReason | 'abort' | 'error';
    usage: GenerationUsage;
    timings: GenerationTimings;
    e2eSeconds: number;
    maxTokens: number;
  }): void;
}
