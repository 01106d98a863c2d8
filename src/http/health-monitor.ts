/**
 * Whether the engine moves: the step counter must advance while work exists. Busy is not dead,
 * and a server without work is not stuck, so the clock runs only from when work appeared or the
 * counter last moved.
 */
import type { Engine } from '../engine/engine-types.js';

const SAMPLE_MS = 1000;

export interface Progress {
  step: number;
  hasWork: boolean;
  secondsSinceStep: number;
  stuck: boolean;
}

export class HealthMonitor {
  readonly #engine: Engine;
  readonly #deadlineMs: number;
  readonly #now: () => number;
  #timer: NodeJS.Timeout | null = null;
  #step = -1;
  #movedAt: number;

  constructor(engine: Engine, deadlineMs: number, now: () => number = () => performance.now()) {
    this.#engine = engine;
    this.#deadlineMs = deadlineMs;
    this.#now = now;
    this.#movedAt = now();
  }

  /** Samples the counter between probes, so that the age it reports is the engine's, not the prober's. */
  start(): void {
    this.#timer ??= setInterval(() => this.sample(), SAMPLE_MS).unref();
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  sample(): Progress {
    const { stepCount, hasWork } = this.#engine.stats();
    const now = this.#now();
    if (!hasWork || stepCount !== this.#step) {
      this.#step = stepCount;
      this.#movedAt = now;
    }
    const ageMs = now - this.#movedAt;
    return {
      step: stepCount,
      hasWork,
      secondsSinceStep: Math.round(ageMs) / 1000,
      stuck: hasWork && ageMs > this.#deadlineMs,
    };
  }
}
