/** A server on fakes, with its log lines, for the HTTP tests. */
import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import type { FastifyInstance, LightMyRequestResponse as Response } from 'fastify';
import type { ServeConfig } from '../../../src/config.js';
import { buildServer, type ServerOptions } from '../../../src/http/server.js';
import { createLogger } from '../../../src/log.js';
import { Metrics } from '../../../src/metrics/metrics.js';
import { FakeEngine } from '../../support/fake-engine.js';
import { FakeTextService } from '../../support/fake-text-service.js';

export interface Harness {
  app: FastifyInstance;
  engine: FakeEngine;
  text: FakeTextService;
  metrics: Metrics;
  logs: Array<Record<string, unknown>>;
  /** Listens on a free port; the base URL. */
  listen(): Promise<string>;
  post(url: string, body: unknown, headers?: Record<string, string>): Promise<Response>;
}

const CONFIG: ServeConfig = {
  model: 'fake',
  servedModelName: null,
  host: '127.0.0.1',
  port: 0,
  backend: 'cpu',
  threads: 1,
  isaLimit: 'scalar',
  kvMemoryBytes: 0,
  kvDtype: 'f16',
  blockSize: 4,
  maxModelLen: 256,
  maxNumSeqs: 8,
  maxNumBatchedTokens: 64,
  itlTargetMs: 50,
  maxQueueRequests: 4,
  maxQueueTokens: 1000,
  bodyLimitBytes: 1 << 20,
  chatTemplateFile: null,
  prefixCache: true,
  overlap: true,
  check: false,
  seed: null,
  synthetic: null,
  debugRoutes: false,
  logLevel: 'info',
  logPrompts: false,
  drainTimeoutMs: 5000,
  heartbeatMs: 60_000,
};

export async function makeServer(
  teardown: (close: () => Promise<unknown>) => void,
  config: Partial<ServeConfig> = {},
  options: Partial<Omit<ServerOptions, 'engine'>> & { engine?: FakeEngine } = {},
): Promise<Harness> {
  const engine = options.engine ?? new FakeEngine();
  const text = new FakeTextService();
  const metrics = new Metrics({ modelName: 'org/fake', maxModelLen: 256 });
  metrics.attach(engine, { blockSize: 4, numBlocks: 10, kvDtype: 'f16', prefixCache: true });
  const logs: Array<Record<string, unknown>> = [];
  const app = await buildServer({
    text,
    metrics,
    config: { ...CONFIG, ...config },
    model: {
      id: 'org/fake',
      aliases: ['fake'],
      createdSeconds: 1_700_000_000,
      maxModelLen: 256,
      defaults: {},
    },
    logger: createLogger({
      level: config.logLevel ?? 'info',
      destination: { write: (line) => void logs.push(JSON.parse(line)) },
    }),
    ...options,
    engine,
  });
  teardown(async () => {
    for (const stream of engine.streams) if (!stream.ended) stream.finish();
    await app.close();
  });
  return {
    app,
    engine,
    text,
    metrics,
    logs,
    listen: async () => {
      await app.listen({ port: 0, host: '127.0.0.1' });
      return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`;
    },
    post: (url, body, headers = {}) =>
      app.inject({
        method: 'POST',
        url,
        headers: { 'content-type': 'application/json', ...headers },
        payload: typeof body === 'string' ? body : JSON.stringify(body),
      }),
  };
}

/** The `data:` payloads of an event stream, in order. */
export function events(stream: string): unknown[] {
  return stream
    .split('\n\n')
    .filter((event) => event.startsWith('data: '))
    .map((event) => event.slice('data: '.length))
    .map((data) => (data === '[DONE]' ? data : JSON.parse(data)));
}

/** Sends a POST over a bare socket, so that tests decide what is read and when it breaks. */
export async function rawPost(baseUrl: string, path: string, body: unknown): Promise<Socket> {
  const { hostname, port } = new URL(baseUrl);
  const socket = connect(Number(port), hostname);
  await once(socket, 'connect');
  const payload = JSON.stringify(body);
  socket.write(
    `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n` +
      `Content-Length: ${Buffer.byteLength(payload)}\r\n\r\n${payload}`,
  );
  socket.on('error', () => {});
  return socket;
}

/** Polls until `condition` holds; a test that never gets there fails by its runner's timeout. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}
