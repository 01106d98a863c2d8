/** What leaving Fastify's reply behind needs: its headers, and whether the client is still there. */
import type { OutgoingHttpHeaders } from 'node:http';
import type { FastifyReply } from 'fastify';

/** Headers set so far by hooks (CORS, x-request-id), for a response that is written by hand. */
export function rawHeaders(reply: FastifyReply): OutgoingHttpHeaders {
  return Object.fromEntries(
    Object.entries(reply.getHeaders()).filter(([, value]) => value !== undefined),
  );
}

/** Aborts when the connection closes before the response has been written to its end. */
export function clientGone(reply: FastifyReply): AbortSignal {
  const controller = new AbortController();
  // A client may be gone before anybody listens: during the upload's last event, for one.
  if (reply.raw.destroyed) controller.abort();
  onResponseEnd(reply, (completed) => {
    if (!completed) controller.abort();
  });
  return controller.signal;
}

/**
 * Calls back once when the response is over; `completed` is false where the connection closed
 * first. Unlike Fastify's onResponse this also comes for a client that left half-way.
 */
export function onResponseEnd(reply: FastifyReply, callback: (completed: boolean) => void): void {
  let completed = false;
  reply.raw.once('finish', () => {
    completed = true;
  });
  reply.raw.once('close', () => callback(completed));
}
