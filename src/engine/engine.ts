/**
 * The engine in this process: takes requests, runs the step loop on a native engine, and turns
 * what the scheduler reports into each request's events. Owns queue limits, deadlines, abort,
 * drain and failure; which tokens run when is the scheduler's business.
 *
 * Invariant: every accepted request ends with exactly one terminal event, whatever happens.
 */
import type { NativeEngineHandle } from '../binding/addon.js';
import { EngineError, toEngineError } from '../errors.js';
import { rootHash } from '../kv/block-hash.js';
import { BlockManager } from '../kv/block-manager.js';
import { BlockPool } from '../kv/block-pool.js';
import { PrefixCache } from '../kv/prefix-cache.js';
import type { FinishReason, SamplingParams, TokenWithLogprobs } from '../types.js';
import type {
  Engine,
  EngineLimits,
  EngineObserver,
  EngineStats,
  GenerationEvent,
  GenerationRequest,
  GenerationStream,
} from './engine-types.js';
import { RequestChecker } from './request-checker.js';
import { Scheduler, type SchedulerListener } from './scheduler.js';
import { Sequence } from './sequence.js';
import { runOverlappedLoop, runPlainLoop, type StepLoopHost } from './step-loop.js';
import { TokenStream } from './token-stream.js';

export interface LocalEngineOptions {
  /** Gap between a stream's tokens that prefill chunks are sized for. */
  itlTargetMs: number;
  /** Requests and prompt tokens that may wait; 0 is no limit. */
  maxQueueRequests: number;
  maxQueueTokens: number;
  prefixCache: boolean;
  overlap: boolean;
  /** Full integrity check after each step. */
  check: boolean;
}

export interface LocalEngineSetup {
  native: NativeEngineHandle;
  options: LocalEngineOptions;
  /** Of the model; identifies K/V together with element type and arithmetic path. */
  fingerprint: string;
  observer: EngineObserver | null;
  /** Told once when the engine fails, with the step plan that native code failed on, if it was one. */
  onFailure?: (error: EngineError, plan: Int32Array | null) => void;
}

/** setTimeout's largest delay. */
const TIMEOUT_MS_MAX = 0x7fffffff;
/** Length of work over which the measured prefill rate is averaged. */
const RATE_TIME_CONSTANT_MS = 2000;
const RETRY_SECONDS_MAX = 600;
/** What a failed step may be blamed on; anything else (a refused plan) is a fault of ours. */
const FAULT_CODES: readonly string[] = ['ERR_DEVICE', 'ERR_OUT_OF_MEMORY', 'ERR_INTERNAL'];

/** What the engine keeps of a live request. */
interface LiveRequest {
  sequence: Sequence;
  stream: TokenStream;
  deadlineTimer: NodeJS.Timeout | null;
}

export class LocalEngine implements Engine {
  readonly limits: EngineLimits;
  private readonly native: NativeEngineHandle;
  private readonly options: LocalEngineOptions;
  private readonly fingerprint: string;
  private readonly observer: EngineObserver | null;
  private readonly onFailure: LocalEngineSetup['onFailure'];
  private readonly pool: BlockPool;
  private readonly manager: BlockManager;
  private readonly scheduler: Scheduler;
  private readonly checker: RequestChecker;
  private readonly live = new Map<Sequence, LiveRequest>();
  private readonly loop: Promise<void>;
  private nextArrival = 0;
  private stepCount = 0;
  private prefillRate: number | null = null;
  private failed: EngineError | null = null;
  private failedPlan: Int32Array | null = null;
  private isDraining = false;
  private isClosed = false;
  private wake: (() => void) | null = null;
  private drained: Array<() => void> = [];

  constructor(setup: LocalEngineSetup) {
    const { native, options, fingerprint, observer } = setup;
    const { info } = native;
    this.onFailure = setup.onFailure;
    this.native = native;
    this.options = options;
    this.observer = observer;
    // K/V of another element type or arithmetic path are other K/V.
    this.fingerprint = JSON.stringify([fingerprint, info.backend, info.isa, info.kvDtype]);
    this.pool = new BlockPool(info.numBlocks);
    const cache = options.prefixCache
      ? new PrefixCache(this.pool, info.blockSize, info.groupWindows.length)
      : null;
    this.manager = new BlockManager(this.pool, cache, info);
    this.scheduler = new Scheduler(
      this.manager,
      {
        maxNumSeqs: info.maxNumSeqs,
        maxNumBatchedTokens: info.maxNumBatchedTokens,
        vocabSize: info.vocabSize,
        itlTargetMs: options.itlTargetMs,
      },
      this.listener(),
    );
    this.limits = {
      maxModelLen: info.maxModelLen,
      maxNumSeqs: info.maxNumSeqs,
      maxNumBatchedTokens: info.maxNumBatchedTokens,
      vocabSize: info.vocabSize,
      kvTokens: this.manager.maxSequenceTokens,
    };
    this.checker = new RequestChecker(this.limits);
    this.loop = this.run();
  }

  submit(request: GenerationRequest): GenerationStream {
    if (this.failed) throw this.failed;
    if (this.isDraining) throw shuttingDown();
    const sampling = this.checker.check(request);
    this.checkQueue(request.promptTokens.length);
    const sequence = this.createSequence(request, sampling);
    const stream = new TokenStream(request.requestId, {
      onAbort: (reason) => this.abort(sequence, reason),
      onResume: () => this.resume(sequence),
    });
    const deadlineTimer = this.startDeadline(sequence, request.deadlineMs);
    this.live.set(sequence, { sequence, stream, deadlineTimer });
    this.scheduler.add(sequence);
    this.wakeLoop();
    return stream;
  }

  stats(): EngineStats {
    return {
      numRunning: this.scheduler.running.length,
      numWaiting: this.scheduler.waiting.length,
      waitingTokens: this.scheduler.numWaitingTokens,
      stepCount: this.stepCount,
      hasWork: !this.failed && this.scheduler.hasWork,
      prefillTokensPerSecond: this.prefillRate,
      blocks: this.pool.blockCounts(),
      failed: this.failed,
    };
  }

  checkIntegrity(): void {
    this.scheduler.checkIntegrity();
    const known = this.scheduler.running.length + this.scheduler.waiting.length;
    if (known !== this.live.size) {
      throw new Error(`${this.live.size} live requests, ${known} scheduled sequences`);
    }
  }

  /** `deadlineMs` counts from now. */
  async drain(deadlineMs: number): Promise<void> {
    this.isDraining = true;
    if (this.live.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    const timeout = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, Math.min(Math.max(0, deadlineMs), TIMEOUT_MS_MAX));
    });
    await Promise.race([timeout, new Promise<void>((resolve) => this.drained.push(resolve))]);
    clearTimeout(timer);
    this.endAll(shuttingDown());
  }

  async close(): Promise<void> {
    this.isDraining = true;
    this.endAll(shuttingDown());
    this.isClosed = true;
    this.wakeLoop();
    // Native first: it rejects or finishes what the loop waits for.
    await this.native.close();
    await this.loop;
  }

  // --- requests -----------------------------------------------------------------------------

  private createSequence(request: GenerationRequest, sampling: SamplingParams): Sequence {
    const root = rootHash({
      modelFingerprint: this.fingerprint,
      cacheSalt: request.cacheSalt,
      adapterId: -1,
      attentionFingerprint: '',
    });
    return new Sequence({
      arrival: this.nextArrival++,
      promptTokens: request.promptTokens,
      sampling,
      promptLogprobsFrom: request.promptLogprobsFrom,
      priority: request.priority,
      blocks: this.manager.createSequence(root),
      nowMs: performance.now(),
    });
  }

  /** Throws ERR_QUEUE_FULL when the queue has no room for one more prompt. */
  private checkQueue(numPromptTokens: number): void {
    const { maxQueueRequests, maxQueueTokens } = this.options;
    const { waiting, running, numWaitingTokens } = this.scheduler;
    // What a free slot will take at the next step does not wait for anything.
    const freeSlots = this.limits.maxNumSeqs - running.length;
    if (maxQueueRequests > 0 && waiting.length >= maxQueueRequests + freeSlots) {
      throw this.queueFull(`${waiting.length} requests wait, the limit is ${maxQueueRequests}`);
    }
    // A single prompt longer than the limit must be able to run at all.
    const wouldWait = numWaitingTokens + numPromptTokens;
    if (maxQueueTokens > 0 && waiting.length > 0 && wouldWait > maxQueueTokens) {
      throw this.queueFull(`${wouldWait} prompt tokens would wait, the limit is ${maxQueueTokens}`);
    }
  }

  private queueFull(what: string): EngineError {
    let tokens = this.scheduler.numWaitingTokens;
    for (const sequence of this.scheduler.running) {
      tokens += Math.max(0, sequence.numPromptTokens - sequence.numCommittedTokens);
    }
    const seconds = this.prefillRate ? Math.ceil(tokens / this.prefillRate) : 1;
    return new EngineError('ERR_QUEUE_FULL', `The queue is full: ${what}.`, {
      retryAfterSeconds: Math.min(Math.max(1, seconds), RETRY_SECONDS_MAX),
    });
  }

  private abort(sequence: Sequence, reason: 'abort' | 'stop'): void {
    const error = new EngineError('ERR_ABORTED', 'The request was aborted.');
    this.endWithError(sequence, error, reason);
  }

  private startDeadline(sequence: Sequence, deadlineMs: number | null): NodeJS.Timeout | null {
    if (deadlineMs === null) return null;
    const left = deadlineMs - Date.now();
    const timer = setTimeout(
      () => {
        if (deadlineMs - Date.now() > 0) {
          const request = this.live.get(sequence);
          if (request) request.deadlineTimer = this.startDeadline(sequence, deadlineMs);
          return;
        }
        const message = 'The deadline of the request has passed.';
        this.endWithError(sequence, new EngineError('ERR_DEADLINE', message), 'error');
      },
      Math.min(Math.max(0, left), TIMEOUT_MS_MAX),
    );
    timer.unref();
    return timer;
  }

  private resume(sequence: Sequence): void {
    sequence.isPaused = false;
    this.wakeLoop();
  }

  /** Takes the sequence from the scheduler, frees what it holds and ends its stream. */
  private endWithError(
    sequence: Sequence,
    error: EngineError,
    reason: 'abort' | 'error' | 'stop',
  ): void {
    if (!this.live.has(sequence)) return;
    const computing = this.scheduler.remove(sequence);
    if (computing) this.native.abort(computing.slot, computing.sequenceId);
    this.end(sequence, reason, (usage, timings) => ({ type: 'error', error, usage, timings }));
    // Blocks and a slot came free: somebody may have waited for them.
    this.wakeLoop();
  }

  private endAll(error: EngineError): void {
    for (const sequence of [...this.live.keys()]) this.endWithError(sequence, error, 'error');
  }

  /** The one place where a request ends. */
  private end(
    sequence: Sequence,
    reason: FinishReason | 'abort' | 'error',
    terminal: (
      usage: ReturnType<Sequence['usage']>,
      timings: ReturnType<Sequence['timings']>,
    ) => GenerationEvent,
  ): void {
    const request = this.live.get(sequence);
    if (!request) throw new Error(`sequence ${sequence.arrival} ends twice`);
    this.live.delete(sequence);
    if (request.deadlineTimer) clearTimeout(request.deadlineTimer);
    sequence.finishedMs = performance.now();
    const usage = sequence.usage();
    const timings = sequence.timings();
    request.stream.push(terminal(usage, timings));
    this.observer?.onFinish({
      reason,
      usage,
      timings,
      e2eSeconds: (sequence.finishedMs - sequence.arrivedMs) / 1000,
      maxTokens: sequence.sampling.maxTokens,
    });
    if (this.live.size === 0) for (const resolve of this.drained.splice(0)) resolve();
  }

  // --- the scheduler's reports ----------------------------------------------------------------

  private listener(): SchedulerListener {
    return {
      onAdmit: (sequence, queriedTokens) => {
        if (this.options.prefixCache) {
          this.observer?.onPrefixCache(queriedTokens, sequence.numCachedTokens);
        }
      },
      onPreempt: () => this.observer?.onPreemption(),
      onProgress: (sequence) => {
        const computed = sequence.reportedProgress;
        this.push(sequence, { type: 'progress', computed, total: sequence.numPromptTokens });
      },
      onPromptLogprobs: (sequence, entries) =>
        this.push(sequence, { type: 'promptLogprobs', entries }),
      onTokens: (sequence, tokens) => this.onTokens(sequence, tokens),
      onFinish: (sequence, reason, stopTokenId) =>
        this.end(sequence, reason, (usage, timings) => ({
          type: 'finish',
          reason,
          stopTokenId,
          usage,
          timings,
        })),
      onError: (sequence, error) =>
        this.end(sequence, 'error', (usage, timings) => ({ type: 'error', error, usage, timings })),
    };
  }

  private onTokens(sequence: Sequence, tokens: TokenWithLogprobs[]): void {
    const now = performance.now();
    if (sequence.lastTokenMs === null) {
      const queueMs = (sequence.admittedMs ?? now) - sequence.arrivedMs;
      this.observer?.onFirstToken({
        ttftSeconds: (now - sequence.arrivedMs) / 1000,
        queueSeconds: queueMs / 1000,
      });
    } else {
      this.observer?.onToken((now - sequence.lastTokenMs) / 1000, tokens.length);
    }
    this.push(sequence, { type: 'tokens', tokens });
  }

  private push(sequence: Sequence, event: GenerationEvent): void {
    const stream = this.live.get(sequence)!.stream;
    stream.push(event);
    if (stream.isPaused) sequence.isPaused = true;
  }

  // --- the loop -------------------------------------------------------------------------------

  private async run(): Promise<void> {
    const host = this.loopHost();
    // After the constructor and whatever is submitted in the same turn.
    await Promise.resolve();
    try {
      await (this.options.overlap ? runOverlappedLoop(host) : runPlainLoop(host));
    } catch (error) {
      this.fail(toEngineError(error));
    }
  }

  private loopHost(): StepLoopHost {
    const engine = this;
    return {
      get isRunning() {
        return !engine.isClosed;
      },
      schedule: () => this.scheduler.schedule(performance.now()),
      submit: (words) => this.submitPlan(words),
      commit: (result) => this.commit(result),
      waitForWork: () => this.waitForWork(),
    };
  }

  private async submitPlan(words: Int32Array): Promise<Int32Array> {
    // The buffer is reused by the next step; a few KiB a step buy a report that can be replayed.
    const plan = words.slice();
    try {
      return await this.native.submit(words);
    } catch (error) {
      this.failedPlan ??= plan;
      throw error;
    }
  }

  private waitForWork(): Promise<void> {
    if (this.isClosed) return Promise.resolve();
    // Better a loud end than requests that hang: some sequence can always run.
    if (this.scheduler.hasWork) throw new Error('the scheduler has work but planned no step');
    return new Promise((resolve) => {
      this.wake = resolve;
    });
  }

  private commit(result: Int32Array): void {
    const outcome = this.scheduler.commit(result, performance.now());
    this.stepCount++;
    this.measurePrefill(outcome.prefillTokens, outcome.elapsedMs);
    this.observer?.onStep({
      seconds: outcome.elapsedMs / 1000,
      numTokens: outcome.numTokens,
      numSequences: outcome.numSequences,
      prefillTokens: outcome.prefillTokens,
    });
    if (this.options.check) this.checkIntegrity();
  }

  /** A moving average over about RATE_TIME_CONSTANT_MS of steps that prefilled. */
  private measurePrefill(prefillTokens: number, elapsedMs: number): void {
    if (prefillTokens === 0 || elapsedMs <= 0) return;
    const rate = (prefillTokens / elapsedMs) * 1000;
    const weight = this.prefillRate === null ? 1 : 1 - Math.exp(-elapsedMs / RATE_TIME_CONSTANT_MS);
    this.prefillRate = (this.prefillRate ?? 0) * (1 - weight) + rate * weight;
  }

  /** The device or our own code is broken: every stream gets the error, nothing more is taken. */
  private fail(error: EngineError): void {
    // close() makes native code reject what was queued: that is no failure.
    if (this.isClosed) return;
    this.failed = FAULT_CODES.includes(error.code)
      ? error
      : new EngineError('ERR_INTERNAL', error.message, { cause: error });
    this.onFailure?.(this.failed, this.failedPlan);
    for (const sequence of [...this.live.keys()]) this.endFailed(sequence, this.failed);
  }

  private endFailed(sequence: Sequence, error: EngineError): void {
    try {
      this.scheduler.remove(sequence);
    } catch {
      // A fault inside the scheduler may have left it inconsistent; the streams end all the same.
    }
    this.end(sequence, 'error', (usage, timings) => ({ type: 'error', error, usage, timings }));
  }

  private wakeLoop(): void {
    const wake = this.wake;
    this.wake = null;
    wake?.();
  }
}

function shuttingDown(): EngineError {
  return new EngineError('ERR_SHUTTING_DOWN', 'The server is shutting down.');
}
