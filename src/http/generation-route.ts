/**
 * Runs a prepared completion over HTTP: as an event stream or as one JSON answer. The engine hears
 * at once when the client leaves, whether the request is being tokenized, queued or generated.
 */
import type { FastifyInstance, FastifyReply } from 'fastify';
import { EngineError, errorBody, toEngineError } from '../errors.js';
import { errorHeaders, httpStatus } from './error-handler.js';
import { type Generation, startGeneration } from './generation.js';
import type { GenerationTask, PrepareTask } from './generation-task.js';
import { LateJsonReply } from './json-reply.js';
import { clientGone } from './raw-reply.js';
import type { RequestRecord } from './request-log.js';
import { type Json, progressJson } from './response-shape.js';
import type { ServerContext } from './server-context.js';
import { EventStream } from './sse.js';

export function generationRoute(
  app: FastifyInstance,
  context: ServerContext,
  url: string,
  prepare: PrepareTask,
): void {
  app.post(url, async (request, reply) => {
    const record = request.record;
    record?.hold();
    const gone = clientGone(reply);
    // Counts from here: tokenizing is part of what the client waits for. A stream's headers leave
    // as soon as it is admitted, so only its refusal goes this way.
    const late = new LateJsonReply(
      reply,
      wantsStream(request.body) ? null : context.earlyHeadersMs,
      context.config.heartbeatMs,
    );
    try {
      const { task, generation } = await beginGeneration(context, prepare, request.body, gone);
      record?.began(task, generation);
      if (task.stream) {
        await answerStream(context, reply, task, generation, record);
      } else {
        const body = await collectAnswer(task, generation);
        countChoices(context, generation);
        late.send(200, body);
      }
    } catch (thrown) {
      const error = toEngineError(thrown);
      record?.failed(error);
      if (!late.begun) errorHeaders(reply, error);
      late.send(httpStatus(error), errorBody(error));
    } finally {
      record?.done();
    }
    return reply;
  });
}

/** Read before the body has been checked. */
function wantsStream(body: unknown): boolean {
  return (body as { stream?: unknown } | null)?.stream === true;
}

/** Prepares and submits a request inside the gate. After this the client has been accepted. */
export function beginGeneration(
  context: ServerContext,
  prepare: PrepareTask,
  body: unknown,
  gone: AbortSignal,
): Promise<{ task: GenerationTask; generation: Generation }> {
  return context.admission.admit(
    () => prepare(context, body),
    (task) => {
      if (gone.aborted) throw new EngineError('ERR_ABORTED', 'The client has left.');
      const generation = startGeneration(context.engine, context.text, task.job);
      gone.addEventListener('abort', () => generation.abort(), { once: true });
      return { task, generation };
    },
  );
}

/**
 * Runs a generation as stream chunks, usage last where asked for. With `sendText`, chunks that
 * differ from the one before in their text only come as JSON text. Throws what ended it early.
 */
export async function runAsChunks(
  task: GenerationTask,
  generation: Generation,
  send: (chunk: Json) => Promise<void> | undefined,
  sendText?: (json: string) => Promise<void> | undefined,
): Promise<void> {
  await generation.run((choice, update) => {
    if (update.type === 'progress') {
      if (!task.includeProgress) return undefined;
      return send(progressJson(update.computed, update.total));
    }
    const text = sendText === undefined ? null : task.shape.plainChunk(choice, update);
    if (text === null) return sendAll(task.shape.chunks(choice, update), send);
    return text === '' ? undefined : sendText!(text);
  });
  if (task.includeUsage) await send(task.shape.usageChunk(generation.usage));
}

/** In order, waiting where `send` asks for it. Undefined where it never does. */
function sendAll(
  chunks: readonly Json[],
  send: (chunk: Json) => Promise<void> | undefined,
): Promise<void> | undefined {
  for (const [index, chunk] of chunks.entries()) {
    const taken = send(chunk);
    if (taken !== undefined) return taken.then(() => sendAll(chunks.slice(index + 1), send));
  }
  return undefined;
}

export function countChoices(context: ServerContext, generation: Generation): void {
  const lengths = generation.choices.map((choice) => choice.usage.completionTokens);
  context.metrics.onChoices(lengths.length, Math.max(...lengths));
}

async function answerStream(
  context: ServerContext,
  reply: FastifyReply,
  task: GenerationTask,
  generation: Generation,
  record: RequestRecord | null,
): Promise<void> {
  const stream = new EventStream(reply, context.config.heartbeatMs);
  try {
    const send = (data: Json | string): Promise<void> | undefined => stream.send(data);
    await runAsChunks(task, generation, send, send);
    countChoices(context, generation);
    await stream.send('[DONE]');
  } catch (thrown) {
    // The status has left as 200: the error is the stream's last event.
    const error = toEngineError(thrown);
    record?.failed(error);
    await stream.send(errorBody(error));
  } finally {
    stream.end();
  }
}

async function collectAnswer(task: GenerationTask, generation: Generation): Promise<Json> {
  await generation.run((choice, update) => {
    if (update.type !== 'progress') task.shape.collect(choice, update);
    return undefined;
  });
  return task.shape.body(generation.usage);
}
