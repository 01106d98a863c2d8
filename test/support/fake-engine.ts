/**
 * An Engine whose streams a test plays by hand, or by a script. Keeps the seam's promises: one
 * terminal event a stream, abort included, and it throws when a script breaks them.
 */
import type {
  Engine,
  EngineLimits,
  EngineStats,
  GenerationEvent,
  GenerationRequest,
  GenerationStream,
  GenerationTimings,
} from '../../src/engine/engine-types.js';
import { EngineError } from '../../src/errors.js';
import type { FinishReason, TokenWithLogprobs } from '../../src/types.js';

const TIMINGS: GenerationTimings = { queueMs: 1, prefillMs: 2, decodeMs: 3 };

/** A token with made-up log-probabilities that tests can predict. */
export function token(tokenId: number, numTop = 0): TokenWithLogprobs {
  return {
    tokenId,
    logprob: -0.5,
    rank: 1,
    top: Array.from({ length: numTop }, (_, rank) => ({
      tokenId: (tokenId + rank) % 256,
      logprob: -0.5 - rank,
    })),
  };
}

export class FakeStream implements GenerationStream, AsyncIterableIterator<GenerationEvent> {
  readonly requestId: string;
  readonly request: GenerationRequest;
  cachedTokens = 0;
  /** Tokens pushed and tokens read: how far a reader lags. */
  numPushed = 0;
  numRead = 0;
  abortedAs: 'abort' | 'stop' | null = null;
  /** False: an abort is only noted, and the test ends the stream itself. */
  endsOnAbort = true;
  ended = false;
  readonly #queue: GenerationEvent[] = [];
  readonly #waiters: Array<() => void> = [];

  constructor(request: GenerationRequest) {
    this.requestId = request.requestId;
    this.request = request;
  }

  /** Tokens of one step; a string is its UTF-8 bytes. */
  tokens(content: string | number[]): this {
    const ids = typeof content === 'string' ? [...Buffer.from(content)] : content;
    const numTop = Math.max(0, this.request.sampling.numLogprobs);
    this.numPushed += ids.length;
    return this.push({ type: 'tokens', tokens: ids.map((id) => token(id, numTop)) });
  }

  progress(computed: number, total: number): this {
    return this.push({ type: 'progress', computed, total });
  }

  promptLogprobs(): this {
    const numTop = Math.max(0, this.request.sampling.numPromptLogprobs);
    return this.push({
      type: 'promptLogprobs',
      entries: Array.from(this.request.promptTokens, (id, index) =>
        index === 0 ? null : token(id, numTop),
      ),
    });
  }

  finish(reason: FinishReason = 'stop', stopTokenId: number | null = null): this {
    return this.push({
      type: 'finish',
      reason,
      stopTokenId,
      usage: this.#usage(),
      timings: TIMINGS,
    });
  }

  fail(error: EngineError): this {
    return this.push({ type: 'error', error, usage: this.#usage(), timings: TIMINGS });
  }

  push(event: GenerationEvent): this {
    if (this.ended) throw new Error(`${this.requestId}: event after the terminal one`);
    if (event.type === 'finish' || event.type === 'error') this.ended = true;
    this.#queue.push(event);
    this.#waiters.shift()?.();
    return this;
  }

  abort(reason?: 'stop'): void {
    if (this.ended) return;
    this.abortedAs ??= reason ?? 'abort';
    if (!this.endsOnAbort) return;
    this.fail(new EngineError('ERR_ABORTED', 'The request was aborted.'));
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<GenerationEvent>> {
    while (this.#queue.length === 0) {
      if (this.ended) return { done: true, value: undefined };
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    const event = this.#queue.shift()!;
    if (event.type === 'tokens') this.numRead += event.tokens.length;
    return { done: false, value: event };
  }

  async return(): Promise<IteratorResult<GenerationEvent>> {
    this.abort();
    return { done: true, value: undefined };
  }

  #usage() {
    return {
      promptTokens: this.request.promptTokens.length,
      completionTokens: this.numPushed,
      cachedTokens: this.cachedTokens,
    };
  }
}

export class FakeEngine implements Engine {
  limits: EngineLimits = {
    maxModelLen: 256,
    maxNumSeqs: 8,
    maxNumBatchedTokens: 64,
    vocabSize: 261,
    kvTokens: 1024,
  };
  readonly streams: FakeStream[] = [];
  /** Plays a stream as soon as it is submitted; without one the test plays it. */
  script: ((stream: FakeStream) => void) | null = null;
  /** Thrown by the next submits. */
  refusal: EngineError | null = null;
  /** Lets this many submits through before `refusal` applies. */
  numBeforeRefusal = 0;
  integrityError: Error | null = null;
  readonly statsOverrides: Partial<EngineStats> = {};
  readonly #waiters: Array<{ count: number; resolve: () => void }> = [];

  submit(request: GenerationRequest): FakeStream {
    if (this.refusal !== null && this.numBeforeRefusal-- <= 0) throw this.refusal;
    if (this.streams.some((live) => !live.ended && live.requestId === request.requestId)) {
      throw new Error(`duplicate request id ${request.requestId}`);
    }
    const stream = new FakeStream(request);
    this.streams.push(stream);
    this.script?.(stream);
    for (const waiter of this.#waiters.splice(0)) {
      if (this.streams.length >= waiter.count) waiter.resolve();
      else this.#waiters.push(waiter);
    }
    return stream;
  }

  /** Resolves with the streams once `count` have been submitted. */
  async submitted(count = 1): Promise<FakeStream[]> {
    if (this.streams.length < count) {
      await new Promise<void>((resolve) => this.#waiters.push({ count, resolve }));
    }
    return this.streams;
  }

  stats(): EngineStats {
    const numLive = this.streams.filter((stream) => !stream.ended).length;
    return {
      numRunning: numLive,
      numWaiting: 0,
      waitingTokens: 0,
      stepCount: 7,
      hasWork: numLive > 0,
      prefillTokensPerSecond: null,
      blocks: { owned: numLive, cached: 2, free: 8 - numLive, moving: 0 },
      failed: null,
      ...this.statsOverrides,
    };
  }

  checkIntegrity(): void {
    if (this.integrityError !== null) throw this.integrityError;
  }

  async drain(): Promise<void> {}
  async close(): Promise<void> {}
}
