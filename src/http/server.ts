/**
 * Builds the HTTP server on an engine and a tokenizer. Does not listen, and does not own what it
 * is given: the caller closes engine and tokenizer after the server.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import cors from '@fastify/cors';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyInstance,
  type FastifyReply,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import type { ServeConfig } from '../config.js';
import type { Engine } from '../engine/engine-types.js';
import { EngineError, errorBody } from '../errors.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import { Admission } from './admission.js';
import { errorHeaders, fromFastify, onClientError } from './error-handler.js';
import { generationRoute } from './generation-route.js';
import { HealthMonitor } from './health-monitor.js';
import { watchQuietConnections } from './quiet-connections.js';
import { onResponseEnd } from './raw-reply.js';
import { RequestRecord, STATUS_CLIENT_CLOSED } from './request-log.js';
import { prepareChatCompletion } from './routes/chat-completions.js';
import { prepareCompletion } from './routes/completions.js';
import { healthRoutes } from './routes/health.js';
import { modelRoutes } from './routes/models.js';
import { operationsRoutes } from './routes/operations.js';
import { tokenizeRoutes } from './routes/tokenize.js';
import { seedSource } from './sampling.js';
import type { HttpMetrics, ModelInfo, ServerContext } from './server-context.js';
import { invalid } from './validation.js';
import { packageVersion } from './version.js';
import { websocketRoute } from './websocket.js';

/** Well under the 300 s after which Node's fetch and others give up on a silent response. */
const EARLY_HEADERS_MS = 60_000;
/** No step takes this long on any backend; a counter that stands still this long is stuck. */
const PROGRESS_DEADLINE_MS = 30_000;
const REQUEST_ID_CHARS_MAX = 200;

export interface ServerOptions {
  engine: Engine;
  text: TextService;
  config: ServeConfig;
  model: ModelInfo;
  metrics: HttpMetrics;
  logger: Logger;
  earlyHeadersMs?: number;
  progressDeadlineMs?: number;
}

declare module 'fastify' {
  interface FastifyInstance {
    /** Turns readiness red and refuses new generations at once; running ones go on. */
    drain(): void;
  }
  interface FastifyRequest {
    /** Null for websocket upgrades, which log a line for each generation instead. */
    record: RequestRecord | null;
  }
}

export async function buildServer(options: ServerOptions): Promise<FastifyInstance> {
  const { engine, config, logger, metrics } = options;
  const app: FastifyInstance = Fastify({
    // RequestRecord writes the one line a request gets, and whoever listens says so itself.
    loggerInstance: warningsOnly(logger),
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: config.bodyLimitBytes,
    genReqId: requestId,
    clientErrorHandler: onClientError,
    frameworkErrors: (thrown, _request, reply) => {
      const error = fromFastify(thrown, config.bodyLimitBytes);
      errorHeaders(reply as FastifyReply, error).send(errorBody(error));
    },
    // A drained server's remaining keep-alive connections carry nothing.
    forceCloseConnections: 'idle',
  });
  const context: ServerContext = {
    ...options,
    admission: new Admission(engine, config),
    health: new HealthMonitor(engine, options.progressDeadlineMs ?? PROGRESS_DEADLINE_MS),
    nextSeed: seedSource(config.seed),
    contextLimit: Math.min(
      options.model.maxModelLen,
      engine.limits.maxModelLen,
      engine.limits.kvTokens,
    ),
    version: packageVersion(),
    earlyHeadersMs: options.earlyHeadersMs ?? EARLY_HEADERS_MS,
  };

  const closeQuietConnections = watchQuietConnections(app.server);
  app.addHook('preClose', async () => closeQuietConnections());
  app.decorate('drain', () => context.admission.drain());
  app.decorateRequest('record', null);
  app.addHook('onReady', async () => context.health.start());
  app.addHook('onClose', async () => context.health.stop());

  await app.register(cors, { exposedHeaders: ['x-request-id', 'retry-after'] });
  await websocketRoute(app, context, '/v1/stream');
  addRequestRecords(app, metrics, context);
  addBodyParser(app);
  addErrorAnswers(app, config.bodyLimitBytes);

  generationRoute(app, context, '/v1/chat/completions', prepareChatCompletion);
  generationRoute(app, context, '/v1/completions', prepareCompletion);
  modelRoutes(app, context);
  tokenizeRoutes(app, context);
  healthRoutes(app, context);
  operationsRoutes(app, context);
  return app;
}

function warningsOnly(logger: Logger): FastifyBaseLogger {
  const { warn } = logger.levels.values;
  return logger.child({}, { level: logger.levelVal > (warn ?? 0) ? logger.level : 'warn' });
}

/** The client's own x-request-id where it is fit for headers and logs, else a new one. */
function requestId(request: IncomingMessage): string {
  const given = request.headers['x-request-id'];
  const usable =
    typeof given === 'string' && given.length <= REQUEST_ID_CHARS_MAX && /^[!-~]+$/.test(given);
  return usable ? given : randomUUID();
}

function addRequestRecords(
  app: FastifyInstance,
  metrics: HttpMetrics,
  context: ServerContext,
): void {
  app.addHook('onRequest', (request, reply, done) => {
    reply.header('x-request-id', request.id);
    if (!request.ws) {
      const route = request.routeOptions.url ?? 'unknown';
      const record = new RequestRecord(
        request.id,
        route,
        context.logger,
        context.config.logPrompts,
      );
      request.record = record;
      onResponseEnd(reply, (completed) => {
        record.status = completed ? reply.raw.statusCode : STATUS_CLIENT_CLOSED;
        metrics.onResponse(route, record.status);
        record.done();
      });
    }
    done();
  });
}

/** Any body is read as JSON: clients that forget the content type mean JSON too. */
function addBodyParser(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, JSON.parse(String(body)));
    } catch (error) {
      done(
        body.length === 0
          ? invalid('body', 'a JSON object', undefined)
          : new EngineError(
              'ERR_INVALID_REQUEST',
              `body: expected JSON, received something else: ${(error as Error).message.slice(0, 200)}`,
            ),
      );
    }
  });
}

function addErrorAnswers(app: FastifyInstance, bodyLimitBytes: number): void {
  app.setErrorHandler((thrown, request, reply) => {
    const error = fromFastify(thrown, bodyLimitBytes);
    request.record?.failed(error);
    return errorHeaders(reply, error).send(errorBody(error));
  });

  const methodsByUrl = new Map<string, Set<string>>();
  app.addHook('onRoute', ({ url, method }) => {
    const methods = methodsByUrl.get(url) ?? new Set();
    for (const name of [method].flat()) methods.add(name);
    methodsByUrl.set(url, methods);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0] ?? '';
    const methods =
      methodsByUrl.get(path) ??
      (path.startsWith('/v1/models/') ? methodsByUrl.get('/v1/models/*') : undefined);
    const error =
      methods === undefined
        ? new EngineError('ERR_NOT_FOUND', `There is no ${request.method} ${path.slice(0, 200)}.`)
        : new EngineError(
            'ERR_METHOD_NOT_ALLOWED',
            `${path} takes ${[...methods].join(', ')}, not ${request.method}.`,
          );
    if (methods !== undefined) reply.header('allow', [...methods].join(', '));
    request.record?.failed(error);
    return errorHeaders(reply, error).send(errorBody(error));
  });
}
