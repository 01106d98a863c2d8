/**
 * A JSON answer that may take long. Clients and proxies give up on a response without headers
 * (Node's fetch after 300 s), so a late answer sends its headers first and then blanks, which
 * JSON allows in front of a value. Quick answers keep their honest status.
 */
import type { FastifyReply } from 'fastify';
import { rawHeaders } from './raw-reply.js';

export class LateJsonReply {
  readonly #reply: FastifyReply;
  readonly #early: NodeJS.Timeout | undefined;
  #heartbeat: NodeJS.Timeout | null = null;

  /** `earlyHeadersMs` null: never early. */
  constructor(reply: FastifyReply, earlyHeadersMs: number | null, heartbeatMs: number) {
    this.#reply = reply;
    if (earlyHeadersMs !== null) {
      this.#early = setTimeout(() => this.#begin(heartbeatMs), earlyHeadersMs).unref();
    }
    reply.raw.once('close', () => this.#stop());
  }

  /** True once the status has gone out; errors can then only be told in the body. */
  get begun(): boolean {
    return this.#heartbeat !== null;
  }

  /** `status` and headers set on the reply count only where nothing has been sent yet. */
  send(status: number, body: object): void {
    this.#stop();
    if (this.begun) this.#reply.raw.end(JSON.stringify(body));
    else if (!this.#reply.sent) this.#reply.code(status).send(body);
  }

  #begin(heartbeatMs: number): void {
    const raw = this.#reply.raw;
    if (raw.destroyed || this.#reply.sent) return;
    this.#reply.hijack();
    raw.writeHead(200, {
      ...rawHeaders(this.#reply),
      'content-type': 'application/json; charset=utf-8',
    });
    raw.write(' ');
    this.#heartbeat = setInterval(() => raw.write(' '), heartbeatMs).unref();
  }

  #stop(): void {
    clearTimeout(this.#early);
    if (this.#heartbeat !== null) clearInterval(this.#heartbeat);
  }
}
