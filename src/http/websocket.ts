/**
 * /v1/stream: many generations over one socket. Each `generate` frame ends with exactly one `done`
 * or `error` frame that carries its id. A bad frame is answered, the socket stays open. A slow
 * reader pauses the generations of its own socket; closing the socket aborts them all.
 */
import websocketPlugin from '@fastify/websocket';
import type { FastifyInstance } from 'fastify';
import type { WebSocket } from 'ws';
import { EngineError, errorBody, toEngineError } from '../errors.js';
import { httpStatus } from './error-handler.js';
import { beginGeneration, countChoices, runAsChunks } from './generation-route.js';
import type { PrepareTask } from './generation-task.js';
import { RequestRecord } from './request-log.js';
import { usageJson } from './response-shape.js';
import { prepareChatCompletion } from './routes/chat-completions.js';
import { prepareCompletion } from './routes/completions.js';
import { CancelFrame, GenerateFrame } from './schemas.js';
import type { ServerContext } from './server-context.js';
import { bodyParser, invalid } from './validation.js';

/** Bytes waiting in the socket above which its generations are read no further. */
const BUFFERED_BYTES_MAX = 1 << 20;
/**
 * A peer that answers no ping for this long is gone. Long, because a client that stops reading
 * for a while (a debugger, a stalled page) does not see pings either.
 */
const PONG_DEADLINE_MS = 120_000;

const ENDPOINTS: Record<GenerateFrame['endpoint'], PrepareTask> = {
  'chat.completions': prepareChatCompletion,
  completions: prepareCompletion,
};

const parseGenerate = bodyParser(GenerateFrame);
const parseCancel = bodyParser(CancelFrame);

export async function websocketRoute(
  app: FastifyInstance,
  context: ServerContext,
  url: string,
): Promise<void> {
  await app.register(websocketPlugin, {
    options: { maxPayload: context.config.bodyLimitBytes, perMessageDeflate: false },
    // A broken peer (bad UTF-8, oversized frame) has been answered with a close code by ws.
    errorHandler: (error, socket, request) => {
      context.logger.debug({ err: error, request_id: request.id }, 'websocket error');
      socket.terminate();
    },
  });
  app.route({
    method: 'GET',
    url,
    handler: () => {
      throw new EngineError('ERR_INVALID_REQUEST', `${url}: expected a websocket upgrade.`);
    },
    wsHandler: (socket, request) => {
      context.metrics.onResponse(url, 101);
      new StreamSocket(socket, context, request.id, url).serve();
    },
  });
}

class StreamSocket {
  readonly #socket: WebSocket;
  readonly #context: ServerContext;
  readonly #requestId: string;
  readonly #route: string;
  /** Generations that have not ended, by the client's id. */
  readonly #live = new Map<string, AbortController>();
  #numGenerations = 0;

  constructor(socket: WebSocket, context: ServerContext, requestId: string, route: string) {
    this.#socket = socket;
    this.#context = context;
    this.#requestId = requestId;
    this.#route = route;
  }

  serve(): void {
    this.#socket.on('message', (data, isBinary) => this.#receive(String(data), isBinary));
    const stopPings = this.#keepAlive();
    this.#socket.once('close', () => {
      stopPings();
      for (const controller of this.#live.values()) controller.abort();
    });
  }

  #receive(text: string, isBinary: boolean): void {
    let id: string | undefined;
    try {
      if (isBinary) throw invalid('frame', 'a text frame with JSON', 'a binary frame');
      const frame = parseFrame(text);
      if (typeof frame.id === 'string') id = frame.id;
      if (frame.type === 'generate') {
        const generate = parseGenerate(frame);
        if (this.#live.has(generate.id)) {
          throw invalid('id', 'an id that no running generation has', generate.id);
        }
        void this.#generate(generate);
      } else if (frame.type === 'cancel') {
        // An unknown id is a generation that has just ended: its own frame has said so.
        this.#live.get(parseCancel(frame).id)?.abort();
      } else {
        throw invalid('type', '"generate" or "cancel"', frame.type);
      }
    } catch (error) {
      this.#refuse({
        type: 'error',
        ...(id !== undefined && { id }),
        ...errorBody(toEngineError(error)),
      });
    }
  }

  /**
   * Answers a frame that started nothing. A client that sends such frames without reading the
   * answers is not read from either: what waits for it stays bounded.
   */
  #refuse(frame: object): void {
    const sent = this.#send(frame);
    if (this.#socket.bufferedAmount <= BUFFERED_BYTES_MAX) return;
    this.#socket.pause();
    void sent.then(() => this.#socket.resume());
  }

  async #generate({ id, endpoint, body }: GenerateFrame): Promise<void> {
    const context = this.#context;
    const controller = new AbortController();
    this.#live.set(id, controller);
    this.#numGenerations += 1;
    const record = new RequestRecord(
      `${this.#requestId}-${this.#numGenerations}`,
      this.#route,
      context.logger,
      context.config.logPrompts,
    );
    record.status = 200;
    let accepted = false;
    let last: object;
    try {
      const { task, generation } = await beginGeneration(
        context,
        ENDPOINTS[endpoint],
        // Frames are chunks whatever the body says; what is checked is what a stream can do.
        { ...body, stream: true },
        controller.signal,
      );
      record.began(task, generation);
      accepted = true;
      await this.#send({ type: 'accepted', id, request_id: record.requestId });
      await runAsChunks(task, generation, (data) => this.#send({ type: 'chunk', id, data }));
      countChoices(context, generation);
      last = { type: 'done', id, usage: usageJson(generation.usage) };
    } catch (thrown) {
      const error = toEngineError(thrown);
      record.failed(error);
      record.status = httpStatus(error);
      last = { type: 'error', id, ...errorBody(error) };
    }
    // Free before the last frame leaves: the client may use the id again as soon as it reads it.
    this.#live.delete(id);
    record.done();
    if (accepted) void this.#send(last);
    else this.#refuse(last);
  }

  /** Resolves when more may be sent: at once, or when what waits has gone out or the socket closed. */
  async #send(frame: object): Promise<void> {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return;
    await new Promise<void>((resolve) => {
      // The callback comes when the bytes left for the kernel, or with an error on close.
      socket.send(JSON.stringify(frame), () => resolve());
      if (socket.bufferedAmount <= BUFFERED_BYTES_MAX) resolve();
    });
  }

  /** Pings at the heartbeat's pace; returns the function that ends it. */
  #keepAlive(): () => void {
    const socket = this.#socket;
    let heardAt = performance.now();
    const heard = (): void => {
      heardAt = performance.now();
    };
    socket.on('pong', heard);
    socket.on('message', heard);
    const timer = setInterval(() => {
      if (performance.now() - heardAt > PONG_DEADLINE_MS) socket.terminate();
      else if (socket.readyState === socket.OPEN) socket.ping();
    }, this.#context.config.heartbeatMs).unref();
    return () => clearInterval(timer);
  }
}

function parseFrame(text: string): Record<string, unknown> {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw invalid('frame', 'JSON', text);
  }
  if (typeof frame !== 'object' || frame === null || Array.isArray(frame)) {
    throw invalid('frame', 'a JSON object', frame);
  }
  return frame as Record<string, unknown>;
}
