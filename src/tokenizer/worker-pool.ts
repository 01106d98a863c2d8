/**
 * Worker threads that render and encode off the event loop. Each takes one job at a time; jobs
 * wait in order, except that the last free worker is kept for short ones: a few huge prompts must
 * not hold up every conversation. A worker whose rendering exceeds its time, or that dies, is replaced, and only the
 * job it had fails. Idle workers do not keep the process alive.
 */
import { Worker } from 'node:worker_threads';
import { EngineError } from '../errors.js';
import type { Job, JobResult, WorkerReply, WorkerSetup } from './worker-protocol.js';

export interface WorkerPoolOptions {
  size: number;
  /** Most milliseconds one chat template may run. */
  renderTimeoutMs: number;
  /** Heap of one worker. A prompt of 64 MiB takes about ten times that while it is rendered. */
  heapMb: number;
}

/** UTF-16 units from which a job counts as long; about 0.1 s, seconds where all is one word. */
const LONG_JOB_LENGTH = 1 << 20;

interface Task {
  job: Job;
  long: boolean;
  resolve(result: JobResult): void;
  reject(error: EngineError): void;
}

export class WorkerPool {
  readonly #setup: WorkerSetup;
  readonly #options: WorkerPoolOptions;
  readonly #slots = new Set<Slot>();
  readonly #waiting: Task[] = [];
  #closed = false;

  constructor(setup: WorkerSetup, options: WorkerPoolOptions) {
    this.#setup = setup;
    this.#options = options;
  }

  run(job: Job): Promise<JobResult> {
    if (this.#closed) return Promise.reject(closedError());
    return new Promise((resolve, reject) => {
      this.#waiting.push({ job, long: jobLength(job) >= LONG_JOB_LENGTH, resolve, reject });
      this.#dispatch();
    });
  }

  /** Starts a worker ahead of the first job. */
  warmUp(): void {
    if (this.#slots.size === 0 && !this.#closed) this.#start();
  }

  /** Jobs not finished reject with ERR_SHUTTING_DOWN. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    for (const task of this.#waiting.splice(0)) task.reject(closedError());
    await Promise.all([...this.#slots].map((slot) => slot.stop(closedError())));
  }

  #dispatch(): void {
    for (const slot of this.#slots) {
      if (!slot.isFree) continue;
      const task = this.#next();
      if (task === null) return;
      slot.take(task);
    }
    const starting = [...this.#slots].filter((slot) => slot.isStarting).length;
    const wanted = this.#waiting.length - starting;
    for (let i = 0; i < wanted && this.#slots.size < this.#options.size; i++) this.#start();
  }

  /** Takes the first waiting task that may run now off the list. */
  #next(): Task | null {
    const longRunning = [...this.#slots].filter((slot) => slot.hasLongTask).length;
    const longMax = Math.max(1, this.#options.size - 1);
    const at = this.#waiting.findIndex((task) => !task.long || longRunning < longMax);
    return at < 0 ? null : this.#waiting.splice(at, 1)[0]!;
  }

  #start(): void {
    const slot: Slot = new Slot(this.#setup, this.#options, {
      onFree: () => this.#dispatch(),
      onGone: (cause) => {
        this.#slots.delete(slot);
        // A worker that cannot even start would be replaced for ever: its jobs fail instead.
        if (cause) for (const task of this.#waiting.splice(0)) task.reject(cause);
        if (!this.#closed) this.#dispatch();
      },
    });
    this.#slots.add(slot);
  }
}

interface SlotEvents {
  onFree(): void;
  /** `cause` is set when the worker never became ready. */
  onGone(cause: EngineError | null): void;
}

/** One worker thread and the job it has. */
class Slot {
  readonly #worker: Worker;
  readonly #renderTimeoutMs: number;
  readonly #heapMb: number;
  readonly #events: SlotEvents;
  #ready = false;
  #gone = false;
  #task: Task | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(setup: WorkerSetup, options: WorkerPoolOptions, events: SlotEvents) {
    this.#renderTimeoutMs = options.renderTimeoutMs;
    this.#heapMb = options.heapMb;
    this.#events = events;
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: setup,
      resourceLimits: { maxOldGenerationSizeMb: options.heapMb },
    });
    this.#worker.on('message', (reply: WorkerReply) => this.#receive(reply));
    this.#worker.on('error', (error) => void this.stop(this.#failure(error)));
    this.#worker.on('exit', (code) => {
      void this.stop(new EngineError('ERR_INTERNAL', `Text worker ended with code ${code}`));
    });
  }

  get isFree(): boolean {
    return this.#ready && this.#task === null && !this.#gone;
  }

  get hasLongTask(): boolean {
    return this.#task?.long ?? false;
  }

  get isStarting(): boolean {
    return !this.#ready && !this.#gone;
  }

  take(task: Task): void {
    this.#task = task;
    this.#worker.ref();
    if (task.job.type === 'chat') {
      this.#timer = setTimeout(() => this.#overrun(), this.#renderTimeoutMs);
    }
    try {
      this.#worker.postMessage(task.job);
    } catch (error) {
      this.#settle()?.reject(
        new EngineError('ERR_INVALID_REQUEST', `messages: ${(error as Error).message}`),
      );
    }
  }

  /** Ends the thread; its job, if any, rejects with `error`. */
  async stop(error: EngineError): Promise<void> {
    if (this.#gone) return;
    this.#gone = true;
    const task = this.#settle();
    task?.reject(error);
    this.#events.onGone(this.#ready ? null : error);
    await this.#worker.terminate();
  }

  #receive(reply: WorkerReply): void {
    if (this.#gone) return;
    switch (reply.type) {
      case 'ready':
        this.#ready = true;
        this.#worker.unref();
        break;
      case 'rendered':
        this.#stopTimer();
        return;
      case 'done':
        this.#settle()?.resolve(reply.result);
        break;
      case 'failed':
        this.#settle()?.reject(
          new EngineError(
            reply.code,
            reply.message,
            reply.param === null ? {} : { param: reply.param },
          ),
        );
        break;
    }
    this.#events.onFree();
  }

  #failure(error: Error & { code?: unknown }): EngineError {
    if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') {
      const message = `The text needs more than the ${this.#heapMb} MiB a text worker may use.`;
      return new EngineError('ERR_INVALID_REQUEST', message, { cause: error });
    }
    return new EngineError('ERR_INTERNAL', `Text worker failed: ${error.message}`, {
      cause: error,
    });
  }

  #overrun(): void {
    const message =
      `The model's chat template did not finish within ${this.#renderTimeoutMs} ms ` +
      'on these messages.';
    void this.stop(new EngineError('ERR_INVALID_REQUEST', message, { param: 'messages' }));
  }

  /** Takes the job off this slot. */
  #settle(): Task | null {
    this.#stopTimer();
    const task = this.#task;
    this.#task = null;
    if (!this.#gone) this.#worker.unref();
    return task;
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}

/** About how much text a job has. */
function jobLength(job: Job): number {
  if (job.type === 'encode') return job.text.length;
  let length = 0;
  for (const { content } of job.request.messages) {
    for (const part of Array.isArray(content) ? content : [content]) {
      const text = typeof part === 'string' ? part : (part as { text?: unknown } | null)?.text;
      if (typeof text === 'string') length += text.length;
    }
  }
  return length;
}

function closedError(): EngineError {
  return new EngineError('ERR_SHUTTING_DOWN', 'The server is shutting down.');
}
