/**
 * One request's events between the engine, which pushes, and one reader, which iterates. Memory
 * is bounded: token events that nobody has read yet are joined, progress replaces progress, and
 * above PAUSE_TOKENS unread tokens the stream asks its sequence to pause until the reader has
 * caught up. So a slow reader slows its own generation only.
 */
import type { GenerationEvent, GenerationStream } from './engine-types.js';

const PAUSE_TOKENS = 1024;

export interface TokenStreamOwner {
  onAbort(reason: 'abort' | 'stop'): void;
  /** The reader has caught up after isPaused was true. */
  onResume(): void;
}

export class TokenStream implements GenerationStream {
  readonly requestId: string;
  /** True while the reader is too far behind for more tokens to be made. */
  isPaused = false;
  private readonly owner: TokenStreamOwner;
  private readonly events: GenerationEvent[] = [];
  private numUnreadTokens = 0;
  private isEnded = false;
  private isDone = false;
  private waiting: Array<(result: IteratorResult<GenerationEvent>) => void> = [];

  constructor(requestId: string, owner: TokenStreamOwner) {
    this.requestId = requestId;
    this.owner = owner;
  }

  abort(reason?: 'stop'): void {
    if (!this.isEnded) this.owner.onAbort(reason ?? 'abort');
  }

  /** Engine side. Events after a terminal one are a mistake of the caller. */
  push(event: GenerationEvent): void {
    if (this.isEnded) throw new Error(`request ${this.requestId}: event after its terminal event`);
    this.isEnded = event.type === 'finish' || event.type === 'error';
    const reader = this.waiting.shift();
    if (reader) {
      this.isDone = this.isEnded;
      reader({ value: event, done: false });
      if (this.isDone) this.releaseReaders();
      return;
    }
    this.enqueue(event);
  }

  [Symbol.asyncIterator](): AsyncIterator<GenerationEvent> {
    return {
      next: () => this.next(),
      // A reader that leaves its loop early no longer wants the rest.
      return: async () => {
        this.abort();
        this.isDone = true;
        this.events.length = 0;
        this.releaseReaders();
        return { value: undefined, done: true };
      },
    };
  }

  private next(): Promise<IteratorResult<GenerationEvent>> {
    const event = this.events.shift();
    if (!event) {
      if (this.isDone) return Promise.resolve({ value: undefined, done: true });
      return new Promise((resolve) => this.waiting.push(resolve));
    }
    if (event.type === 'finish' || event.type === 'error') this.isDone = true;
    if (event.type === 'tokens') this.numUnreadTokens -= event.tokens.length;
    if (this.isPaused && this.numUnreadTokens <= PAUSE_TOKENS) {
      this.isPaused = false;
      this.owner.onResume();
    }
    return Promise.resolve({ value: event, done: false });
  }

  private enqueue(event: GenerationEvent): void {
    const last = this.events[this.events.length - 1];
    if (event.type === 'tokens') {
      this.numUnreadTokens += event.tokens.length;
      this.isPaused ||= this.numUnreadTokens > PAUSE_TOKENS;
      if (last?.type === 'tokens') {
        last.tokens.push(...event.tokens);
        return;
      }
    }
    if (event.type === 'progress' && last?.type === 'progress') {
      this.events[this.events.length - 1] = event;
      return;
    }
    this.events.push(event);
  }

  private releaseReaders(): void {
    for (const resolve of this.waiting.splice(0)) resolve({ value: undefined, done: true });
  }
}
