/**
 * The gate in front of the engine: who may come in, and when a refused client should try again.
 * The engine bounds its own queue; this gate also bounds the requests that are still being
 * tokenized, and closes while the server drains or has failed.
 */
import type { ServeConfig } from '../config.js';
import type { Engine } from '../engine/engine-types.js';
import { EngineError } from '../errors.js';

export type ServerState = 'ready' | 'draining' | 'failed';

const RETRY_SECONDS_MAX = 600;
/** A failed engine needs a restart; half a minute is a usual restart with a model on disk. */
const RETRY_SECONDS_FAILED = 30;

export class Admission {
  readonly #engine: Engine;
  readonly #config: ServeConfig;
  #draining = false;
  #numPreparing = 0;

  constructor(engine: Engine, config: ServeConfig) {
    this.#engine = engine;
    this.#config = config;
  }

  get state(): ServerState {
    if (this.#draining) return 'draining';
    return this.#engine.stats().failed === null ? 'ready' : 'failed';
  }

  /** From now on no generation is admitted; running ones go on. */
  drain(): void {
    this.#draining = true;
  }

  /**
   * Runs `prepare` (a long prompt's rendering and tokenizing) inside the gate, then `start`, which
   * hands the request to the engine. Throws ERR_SHUTTING_DOWN or ERR_QUEUE_FULL besides what they
   * throw.
   */
  async admit<Prepared, Started>(
    prepare: () => Promise<Prepared>,
    start: (prepared: Prepared) => Started,
  ): Promise<Started> {
    this.#checkOpen();
    const limit = this.#config.maxQueueRequests;
    const numAhead = this.#engine.stats().numWaiting + this.#numPreparing;
    if (limit > 0 && numAhead >= limit) {
      throw new EngineError(
        'ERR_QUEUE_FULL',
        `The queue is full: ${numAhead} of ${limit} requests wait.`,
        { retryAfterSeconds: this.#secondsUntilRoom() },
      );
    }
    this.#numPreparing += 1;
    try {
      const prepared = await prepare();
      // The state may have changed while a long prompt was tokenized.
      this.#checkOpen();
      return start(prepared);
    } finally {
      this.#numPreparing -= 1;
    }
  }

  #checkOpen(): void {
    const state = this.state;
    if (state === 'ready') return;
    throw new EngineError(
      'ERR_SHUTTING_DOWN',
      state === 'draining'
        ? 'The server is shutting down and takes no new requests.'
        : 'The engine has failed and takes no requests until the server is restarted.',
      { retryAfterSeconds: this.retryAfterSeconds(state) },
    );
  }

  /** Seconds for Retry-After of a server in `state`. */
  retryAfterSeconds(state: ServerState): number {
    if (state === 'draining') return clampSeconds(this.#config.drainTimeoutMs / 1000);
    return state === 'failed' ? RETRY_SECONDS_FAILED : this.#secondsUntilRoom();
  }

  #secondsUntilRoom(): number {
    const { waitingTokens, prefillTokensPerSecond } = this.#engine.stats();
    return clampSeconds(prefillTokensPerSecond ? waitingTokens / prefillTokensPerSecond : 1);
  }
}

/** A whole number of seconds a client can be asked to wait. */
export function clampSeconds(seconds: number): number {
  return Math.min(RETRY_SECONDS_MAX, Math.max(1, Math.ceil(seconds)));
}
