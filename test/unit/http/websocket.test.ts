import { once } from 'node:events';
import t from 'tap';
import { WebSocket } from 'ws';
import { EngineError } from '../../../src/errors.js';
import { LONG } from '../../support/fake-text-service.js';
import { type Harness, makeServer, until } from './harness.js';

type Frame = { type: string; id?: string; data?: unknown; error?: Record<string, unknown> };

class Client {
  readonly frames: Frame[] = [];
  readonly socket: WebSocket;

  constructor(socket: WebSocket) {
    this.socket = socket;
    socket.on('message', (data) => this.frames.push(JSON.parse(String(data))));
    socket.on('error', () => {});
  }

  send(frame: unknown): void {
    this.socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
  }

  generate(id: string, body: object, endpoint = 'completions'): void {
    this.send({ type: 'generate', id, endpoint, body });
  }

  of(id: string): Frame[] {
    return this.frames.filter((frame) => frame.id === id);
  }

  /** Resolves with a generation's frames once it has ended. */
  async ended(id: string): Promise<Frame[]> {
    await until(() => this.of(id).some(({ type }) => type === 'done' || type === 'error'));
    return this.of(id);
  }

  async next(count = 1): Promise<Frame> {
    await until(() => this.frames.length >= count);
    return this.frames[count - 1]!;
  }
}

async function open(harness: Harness, teardown: (close: () => void) => void): Promise<Client> {
  const url = await harness.listen();
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/stream`, {
    headers: { 'x-request-id': 'socket-1' },
  });
  const client = new Client(socket);
  teardown(() => socket.terminate());
  await once(socket, 'open');
  return client;
}

t.test('a generation is accepted, chunks like the event stream, done', async (t) => {
  const harness = await makeServer(t.teardown);
  harness.engine.script = (stream) =>
    stream.progress(1, 2).tokens('a').tokens('b').finish('length');
  const client = await open(harness, t.teardown);
  client.generate('g1', {
    prompt: 'hi',
    stream_options: { include_usage: true, include_progress: true },
  });
  const frames = await client.ended('g1');
  t.strictSame(frames[0], { type: 'accepted', id: 'g1', request_id: 'socket-1-1' });
  t.strictSame(frames[1], {
    type: 'chunk',
    id: 'g1',
    data: { longhaul: { progress: { computed: 1, total: 2 } } },
  });
  const { id, created } = frames[2]!.data as { id: string; created: number };
  const chunk = (choices: unknown[], usage: unknown) => ({
    type: 'chunk',
    id: 'g1',
    data: { id, object: 'text_completion', created, model: 'org/fake', choices, usage },
  });
  const choice = (text: string, finish_reason: string | null) => ({
    index: 0,
    text,
    logprobs: null,
    finish_reason,
    stop_reason: null,
  });
  const usage = {
    prompt_tokens: 3,
    completion_tokens: 2,
    total_tokens: 5,
    prompt_tokens_details: { cached_tokens: 0 },
  };
  t.strictSame(frames.slice(2), [
    chunk([choice('a', null)], null),
    chunk([choice('b', null)], null),
    chunk([choice('', 'length')], null),
    chunk([], usage),
    { type: 'done', id: 'g1', usage },
  ]);
  await until(() => harness.logs.length > 0);
  t.match(harness.logs, [
    { route: '/v1/stream', request_id: 'socket-1-1', status: 200, finish_reason: 'length' },
  ]);
});

t.test('several at once, both endpoints, each with its own end', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  client.generate('a', { prompt: 'a' });
  client.generate('b', { messages: [{ role: 'user', content: 'b' }] }, 'chat.completions');
  client.generate('c', { prompt: 'c', n: 2 });
  const streams = await harness.engine.submitted(4);
  const byPrompt = (text: string) =>
    streams.filter((stream) => Buffer.from(stream.request.promptTokens).includes(text));
  byPrompt('user:b')[0]!.tokens('B').finish();
  t.match((await client.ended('b')).at(-1), { type: 'done', usage: { completion_tokens: 1 } });
  t.notOk(client.of('a').some(({ type }) => type === 'done'));
  for (const stream of streams) if (!stream.ended) stream.tokens('x').finish('length');
  t.match((await client.ended('a')).at(-1), { type: 'done' });
  t.match((await client.ended('c')).at(-1), { type: 'done', usage: { completion_tokens: 2 } });
  for (const id of ['a', 'b', 'c']) {
    const ends = client.of(id).filter(({ type }) => type === 'done' || type === 'error');
    t.equal(ends.length, 1, id);
    t.equal(client.of(id)[0]!.type, 'accepted');
  }
});

t.test('cancel ends with one error; cancelling what is not there says nothing', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  client.generate('a', { prompt: 'a' });
  const [stream] = await harness.engine.submitted(1);
  client.send({ type: 'cancel', id: 'nobody' });
  client.send({ type: 'cancel', id: 'a' });
  client.send({ type: 'cancel', id: 'a' });
  t.match((await client.ended('a')).at(-1), {
    type: 'error',
    id: 'a',
    error: { longhaul_code: 'ERR_ABORTED' },
  });
  t.equal(stream!.abortedAs, 'abort');
  // The id is free again.
  harness.engine.script = (again) => again.finish('length');
  client.generate('a', { prompt: 'a' });
  await until(() => client.of('a').some(({ type }) => type === 'done'));
  t.equal(client.of('a').filter(({ type }) => type === 'error').length, 1);
  t.equal(client.of('nobody').length, 0);
});

t.test('cancel while the prompt is tokenized', async (t) => {
  const harness = await makeServer(t.teardown);
  let openGate = () => {};
  harness.text.gate = new Promise((resolve) => {
    openGate = resolve;
  });
  const client = await open(harness, t.teardown);
  client.generate('a', { prompt: 'a' });
  await until(() => harness.text.numOpenEncodes === 1);
  client.send({ type: 'cancel', id: 'a' });
  client.send('{}');
  await client.next();
  openGate();
  t.match(
    (await client.ended('a')).map(({ type }) => type),
    ['error'],
  );
  t.equal(harness.engine.streams.length, 0);
});

t.test('a duplicate id is an error, the running generation goes on', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  client.generate('a', { prompt: 'a' });
  const [stream] = await harness.engine.submitted(1);
  client.generate('a', { prompt: 'other' });
  t.match((await client.ended('a')).at(-1), {
    type: 'error',
    error: {
      message: 'id: expected an id that no running generation has, received "a" (string)',
      param: 'id',
    },
  });
  stream!.tokens('x').finish();
  await until(() => client.of('a').some(({ type }) => type === 'done'));
  t.equal(harness.engine.streams.length, 1);
});

t.test('bad frames are answered and the socket stays', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  const cases: Array<[frame: unknown, id: string | undefined, message: string]> = [
    ['{', undefined, 'frame: expected JSON, received "{" (string)'],
    ['[]', undefined, 'frame: expected a JSON object, received an empty array'],
    ['null', undefined, 'frame: expected a JSON object, received null'],
    ['{}', undefined, 'type: expected "generate" or "cancel", received nothing'],
    [
      { type: 'talk', id: 'x' },
      'x',
      'type: expected "generate" or "cancel", received "talk" (string)',
    ],
    [
      { type: 'generate', id: 7, endpoint: 'completions', body: {} },
      undefined,
      'id: expected a non-empty string, received 7 (number)',
    ],
    [{ type: 'cancel' }, undefined, 'id: expected a non-empty string, received nothing'],
    [
      { type: 'generate', id: 'y', endpoint: 'embeddings', body: {} },
      'y',
      'endpoint: expected "chat.completions" or "completions", received "embeddings" (string)',
    ],
    [
      { type: 'generate', id: 'y', endpoint: 'completions', body: [] },
      'y',
      'body: expected a JSON object, received an empty array',
    ],
    [
      { type: 'generate', id: 'z', endpoint: 'completions', body: { prompt: 5 } },
      'z',
      'prompt: expected a string, an array of token ids, or a non-empty array of either, received 5 (number)',
    ],
    [
      {
        type: 'generate',
        id: 'z',
        endpoint: 'chat.completions',
        body: { messages: [], tools: [1] },
      },
      'z',
      'tools: this value is known but not supported by this server',
    ],
  ];
  let count = 0;
  for (const [frame, id, message] of cases) {
    client.send(frame);
    count += 1;
    const answer = await client.next(count);
    t.equal(answer.type, 'error', message);
    t.equal(answer.id, id);
    t.equal(answer.error?.message, message);
    t.strictSame(Object.keys(answer.error ?? {}), [
      'message',
      'type',
      'param',
      'code',
      'longhaul_code',
    ]);
  }
  client.socket.send(Buffer.from('{}'), { binary: true });
  t.match((await client.next(count + 1)).error?.message, /^frame: expected a text frame/);

  harness.engine.script = (stream) => stream.finish('length');
  client.generate('ok', { prompt: 'still here' });
  t.match((await client.ended('ok')).at(-1), { type: 'done' });
});

t.test('errors of the engine, at the door and later', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  harness.engine.refusal = new EngineError('ERR_QUEUE_FULL', 'full', { retryAfterSeconds: 1 });
  client.generate('a', { prompt: 'a' });
  t.match(await client.ended('a'), [{ type: 'error', error: { code: 'rate_limit_exceeded' } }]);
  harness.engine.refusal = null;
  harness.engine.script = (stream) =>
    stream.tokens('x').fail(new EngineError('ERR_DEVICE', 'lost'));
  client.generate('b', { prompt: 'a' });
  t.strictSame(
    (await client.ended('b')).map(({ type }) => type),
    ['accepted', 'chunk', 'error'],
  );
  harness.app.drain();
  client.generate('c', { prompt: 'a' });
  t.match(await client.ended('c'), [
    { type: 'error', error: { longhaul_code: 'ERR_SHUTTING_DOWN' } },
  ]);
});

t.test('closing the socket aborts everything on it', async (t) => {
  for (const leave of ['close', 'terminate'] as const) {
    const harness = await makeServer(t.teardown);
    const client = await open(harness, t.teardown);
    client.generate('a', { prompt: 'a' });
    client.generate('b', { prompt: 'b', n: 2 });
    const streams = await harness.engine.submitted(3);
    client.socket[leave]();
    await until(() => streams.every((stream) => stream.abortedAs === 'abort'));
    await until(() => harness.logs.length === 2);
    t.match(harness.logs, [
      { status: 499, finish_reason: 'abort' },
      { status: 499, finish_reason: 'abort' },
    ]);
  }
});

t.test('a slow reader pauses its own generations, other sockets go on', async (t) => {
  const harness = await makeServer(t.teardown);
  const slow = await open(harness, t.teardown);
  const url = `ws://127.0.0.1:${(harness.app.server.address() as { port: number }).port}/v1/stream`;
  slow.socket.pause();
  slow.generate('slow', { prompt: 'a', max_tokens: 200 });
  const [stalled] = await harness.engine.submitted(1);
  const NUM_TOKENS = 500;
  for (let step = 0; step < NUM_TOKENS; step += 1) stalled!.tokens([LONG]);
  let before = -1;
  while (stalled!.numRead === 0 || before !== stalled!.numRead) {
    before = stalled!.numRead;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  t.ok(stalled!.numRead > 0 && stalled!.numRead < NUM_TOKENS, `${stalled!.numRead} were read`);

  const socket = new WebSocket(url);
  t.teardown(() => socket.terminate());
  const quick = new Client(socket);
  await once(socket, 'open');
  harness.engine.script = (stream) => stream.tokens('x').finish('length');
  quick.generate('quick', { prompt: 'a' });
  t.match((await quick.ended('quick')).at(-1), { type: 'done' });

  stalled!.finish('length');
  slow.socket.resume();
  t.equal((await slow.ended('slow')).filter(({ type }) => type === 'chunk').length, NUM_TOKENS + 1);
});

t.test('a paused socket that closes lets its generations end', async (t) => {
  const harness = await makeServer(t.teardown);
  const slow = await open(harness, t.teardown);
  slow.socket.pause();
  slow.generate('slow', { prompt: 'a' });
  const [stalled] = await harness.engine.submitted(1);
  for (let step = 0; step < 500; step += 1) stalled!.tokens([LONG]);
  await until(() => stalled!.numRead > 0);
  slow.socket.terminate();
  await until(() => harness.logs.length > 0);
  t.equal(stalled!.abortedAs, 'abort');
  t.match(harness.logs, [{ finish_reason: 'abort' }]);
});

t.test('a client that only sends bad frames and never reads is not read either', async (t) => {
  const harness = await makeServer(t.teardown);
  const client = await open(harness, t.teardown);
  client.socket.pause();
  // Answers quote the frame's start and repeat its id: some hundred bytes for each.
  const id = 'x'.repeat(200);
  const bad = JSON.stringify({ type: 'nonsense', id });
  const NUM_FRAMES = 30_000;
  for (let frame = 0; frame < NUM_FRAMES; frame += 1) client.send(bad);
  const [server] = harness.app.websocketServer.clients;
  await until(() => server!.isPaused);
  t.ok(server!.bufferedAmount < 8 << 20, `${server!.bufferedAmount} bytes wait`);
  client.socket.resume();
  await until(() => client.frames.length === NUM_FRAMES);
  t.equal(client.of(id).length, NUM_FRAMES);
});

t.test('pings keep the connection warm', async (t) => {
  const harness = await makeServer(t.teardown, { heartbeatMs: 10 });
  const client = await open(harness, t.teardown);
  await once(client.socket, 'ping');
  await once(client.socket, 'ping');
  t.equal(client.socket.readyState, WebSocket.OPEN);
});

t.test('an oversized frame closes the socket with 1009', async (t) => {
  const harness = await makeServer(t.teardown, { bodyLimitBytes: 1000 });
  const client = await open(harness, t.teardown);
  client.send(' '.repeat(2000));
  const [code] = await once(client.socket, 'close');
  t.equal(code, 1009);
});

t.test('an upgrade elsewhere is refused', async (t) => {
  const harness = await makeServer(t.teardown);
  const url = await harness.listen();
  const socket = new WebSocket(`${url.replace('http', 'ws')}/v1/other`);
  const [error] = await once(socket, 'error');
  t.match((error as Error).message, '404');
});
