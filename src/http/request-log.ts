/**
 * One log line a request, written when both its response has closed and its work has ended, so
 * that a client who left still shows what the engine did for it.
 */
import type { Logger } from 'pino';
import type { EngineError } from '../errors.js';
import type { Generation } from './generation.js';
import type { GenerationTask } from './generation-task.js';

/** What a client that left before its answer is counted as (nginx's number). */
export const STATUS_CLIENT_CLOSED = 499;

export class RequestRecord {
  readonly requestId: string;
  /** The route's pattern. */
  route: string;
  status = 0;
  readonly #logger: Logger;
  readonly #logPrompts: boolean;
  readonly #startedAt = performance.now();
  #task: GenerationTask | null = null;
  #generation: Generation | null = null;
  #error: EngineError | null = null;
  #numPending = 1;

  constructor(requestId: string, route: string, logger: Logger, logPrompts: boolean) {
    this.requestId = requestId;
    this.route = route;
    this.#logger = logger;
    this.#logPrompts = logPrompts;
  }

  began(task: GenerationTask, generation: Generation): void {
    this.#task = task;
    this.#generation = generation;
  }

  failed(error: EngineError): void {
    this.#error ??= error;
  }

  /** The line waits for one more `done`. */
  hold(): void {
    this.#numPending += 1;
  }

  /** The last one writes the line. */
  done(): void {
    this.#numPending -= 1;
    if (this.#numPending === 0) this.#write();
  }

  #write(): void {
    const fields = {
      event: 'request',
      request_id: this.requestId,
      route: this.route,
      status: this.status,
      duration_ms: rounded(performance.now() - this.#startedAt),
      ...this.#generationFields(),
      ...this.#errorFields(),
    };
    // A fault is ours even where the status had left as 200.
    if (this.status === 500 || this.#error?.status === 500) {
      this.#logger.error({ ...fields, err: this.#error?.cause ?? this.#error }, 'request');
    } else if (isProbe(this.route)) {
      this.#logger.debug(fields, 'request');
    } else {
      this.#logger.info(fields, 'request');
    }
  }

  #errorFields(): Record<string, unknown> {
    if (this.#error === null) return {};
    const { code, param, message } = this.#error;
    // Messages about a bad request quote it.
    const quotes = code === 'ERR_INVALID_REQUEST' && !this.#logPrompts;
    return { error_code: code, ...(quotes ? { param } : { error: message }) };
  }

  #generationFields(): Record<string, unknown> {
    const task = this.#task;
    const generation = this.#generation;
    if (task === null || generation === null) return {};
    const { promptTokens, completionTokens, cachedTokens } = generation.usage;
    const outcomes = [...new Set(generation.choices.map((choice) => choice.outcome))];
    const longest = (name: 'queueMs' | 'prefillMs' | 'decodeMs'): number | null => {
      const times = generation.choices.map((choice) => choice.timings[name]);
      const known = times.filter((time) => time !== null);
      return known.length === 0 ? null : rounded(Math.max(...known));
    };
    return {
      completion_id: task.job.id,
      model: task.model,
      stream: task.stream,
      choices: generation.choices.length,
      prompt_tokens: promptTokens,
      completion_tokens: completionTokens,
      cached_tokens: cachedTokens,
      queue_ms: longest('queueMs'),
      prefill_ms: longest('prefillMs'),
      decode_ms: longest('decodeMs'),
      finish_reason: outcomes.join(','),
      ...(this.#logPrompts && {
        prompts: task.job.prompts.map((prompt) => prompt.text ?? Array.from(prompt.tokens)),
      }),
    };
  }
}

/** Routes that are asked every few seconds: their lines are for debugging only. */
const isProbe = (route: string): boolean => /^\/(health|metrics|debug)/.test(route);

const rounded = (ms: number): number => Math.round(ms * 10) / 10;
