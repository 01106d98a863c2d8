/**
 * A server-sent event stream over one response: headers at once, back-pressure, heartbeats.
 * Writes nothing after the client has gone; the caller learns of that from its abort signal.
 */
import type { FastifyReply } from 'fastify';
import { rawHeaders } from './raw-reply.js';

export class EventStream {
  readonly #reply: FastifyReply;
  readonly #heartbeat: NodeJS.Timeout;
  #drained: Promise<void> | null = null;
  #closed: boolean;

  /** Takes the response over from Fastify and sends its headers. */
  constructor(reply: FastifyReply, heartbeatMs: number) {
    this.#reply = reply;
    reply.hijack();
    reply.raw.writeHead(200, {
      ...rawHeaders(reply),
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache',
      // nginx would otherwise collect events into its own buffer.
      'x-accel-buffering': 'no',
    });
    reply.raw.flushHeaders();
    // A comment line keeps proxies and clients from giving up while nothing else is to be said.
    this.#heartbeat = setInterval(() => {
      if (this.#drained === null) this.#write(': heartbeat\n\n');
    }, heartbeatMs).unref();
    this.#closed = reply.raw.destroyed;
    reply.raw.once('close', () => {
      this.#closed = true;
      clearInterval(this.#heartbeat);
    });
  }

  /**
   * An event of this data; a text goes as it is. Undefined where the client can take more at once,
   * as it nearly always can: streams are many and tokens frequent. Otherwise resolves after a drain,
   * or when the client has gone.
   */
  send(data: object | string): Promise<void> | undefined {
    this.#write(`data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
    this.#heartbeat.refresh();
    return this.#drained ?? undefined;
  }

  end(): void {
    clearInterval(this.#heartbeat);
    this.#reply.raw.end();
  }

  #write(bytes: string): void {
    const raw = this.#reply.raw;
    if (this.#closed || raw.writableEnded) return;
    if (raw.write(bytes) || this.#drained !== null) return;
    this.#drained = new Promise((resolve) => {
      const resume = (): void => {
        raw.off('drain', resume);
        raw.off('close', resume);
        this.#drained = null;
        resolve();
      };
      raw.on('drain', resume);
      raw.on('close', resume);
    });
  }
}
