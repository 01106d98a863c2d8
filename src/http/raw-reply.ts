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
  const onClose = (): void => {
    if (!reply.raw.writableFinished) controller.abort();
  };
  // A client may be gone before anybody listens: during the upload's last event, for one.
  if (reply.raw.destroyed) onClose();
  else reply.raw.once('close', onClose);
  return controller.signal;
}
