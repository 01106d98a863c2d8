/** Every failure leaves in one shape: `{error: {message, type, param, code, longhaul_code}}`. */
import type { Socket } from 'node:net';
import type { FastifyError, FastifyReply } from 'fastify';
import { EngineError, errorBody, toEngineError } from '../errors.js';
import { clampSeconds } from './admission.js';
import { STATUS_CLIENT_CLOSED } from './request-log.js';

/** HTTP status of an error; one without an answer (client gone) still needs a number to count. */
export function httpStatus(error: EngineError): number {
  if (error.status !== 0) return error.status;
  return error.code === 'ERR_ABORTED' ? STATUS_CLIENT_CLOSED : 500;
}

/** Fastify's own failures and anything thrown by a route, as one of ours. */
export function fromFastify(error: unknown, bodyLimitBytes: number): EngineError {
  const { code, statusCode } = error as Partial<FastifyError>;
  if (code === 'FST_ERR_CTP_BODY_TOO_LARGE') {
    return new EngineError(
      'ERR_BODY_TOO_LARGE',
      `The request body is larger than this server's limit of ${bodyLimitBytes} bytes.`,
    );
  }
  if (!(error instanceof EngineError) && statusCode && statusCode >= 400 && statusCode < 500) {
    return new EngineError('ERR_INVALID_REQUEST', (error as Error).message, { cause: error });
  }
  return toEngineError(error);
}

/** Sets status and headers of an error answer; the body is errorBody(error). */
export function errorHeaders(reply: FastifyReply, error: EngineError): FastifyReply {
  if (error.status === 429 || error.status === 503) {
    reply.header('retry-after', String(clampSeconds(error.retryAfterSeconds ?? 1)));
  }
  return reply.code(httpStatus(error));
}

/** Bytes that are not HTTP never reach a route; they too get our shape before the socket closes. */
export function onClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, reason] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large']
      : error.code === 'ERR_HTTP_REQUEST_TIMEOUT'
        ? [408, 'Request Timeout']
        : [400, 'Bad Request'];
  const body = JSON.stringify(
    errorBody(new EngineError('ERR_INVALID_REQUEST', `${reason}: the request is not valid HTTP.`)),
  );
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
}
