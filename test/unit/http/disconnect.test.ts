/** A client that leaves is noticed in every phase, and its request still ends exactly once. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import t from 'tap';
import { makeServer, rawPost, until } from './harness.js';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'hi' }];

const LEAVING: Record<string, (socket: Socket) => unknown> = {
  'half-close': (socket) => socket.end(),
  close: (socket) => socket.destroy(),
  reset: (socket) => socket.resetAndDestroy(),
};

for (const [way, leave] of Object.entries(LEAVING)) {
  for (const stream of [true, false]) {
    for (const phase of ['queue', 'prefill', 'decode']) {
      t.test(`${way} in ${phase}, ${stream ? 'streaming' : 'whole answer'}`, async (t) => {
        const { app, engine, logs, listen, metrics } = await makeServer(t.teardown);
        const socket = await rawPost(await listen(), CHAT, { messages, stream });
        const [sequence] = await engine.submitted(1);
        if (phase !== 'queue') sequence!.progress(1, 9);
        if (phase === 'decode') sequence!.tokens('abc');
        await new Promise((resolve) => setImmediate(resolve));
        t.equal(sequence!.abortedAs, null);
        leave(socket);
        await until(() => sequence!.abortedAs === 'abort');
        await until(() => logs.length > 0);
        t.match(logs, [
          {
            event: 'request',
            status: 499,
            finish_reason: 'abort',
            error_code: 'ERR_ABORTED',
            completion_tokens: phase === 'decode' ? 3 : 0,
          },
        ]);
        t.match(
          await metrics.exposition(),
          'longhaul_http_requests_total{route="/v1/chat/completions",code="499"} 1',
        );
        t.equal((await app.inject('/health/live')).statusCode, 200);
        t.equal(logs.length, 1);
      });
    }
  }

  t.test(`${way} while the prompt is tokenized: the engine never sees the request`, async (t) => {
    const { app, engine, logs, text, listen } = await makeServer(t.teardown);
    let isClosed = false;
    app.server.on('connection', (connection) => {
      connection.once('close', () => {
        isClosed = true;
      });
    });
    let open = () => {};
    text.gate = new Promise((resolve) => {
      open = resolve;
    });
    const socket = await rawPost(await listen(), CHAT, { messages });
    await until(() => text.numOpenEncodes === 1);
    leave(socket);
    await until(() => isClosed);
    await new Promise((resolve) => setImmediate(resolve));
    open();
    await until(() => logs.length > 0);
    t.match(logs, [{ status: 499, error_code: 'ERR_ABORTED' }]);
    t.equal(engine.streams.length, 0);
  });
}

t.test('a client that leaves after the answer aborts nothing', async (t) => {
  const { engine, logs, listen } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').finish();
  const socket = await rawPost(await listen(), CHAT, { messages });
  await new Promise((resolve) => socket.once('data', resolve));
  socket.destroy();
  await until(() => logs.length > 0);
  t.match(logs, [{ status: 200, finish_reason: 'stop' }]);
  t.equal(engine.streams[0]!.abortedAs, null);
});

t.test('a closing server ends connections that never sent a request', async (t) => {
  const { app, engine, listen } = await makeServer(t.teardown);
  const url = new URL(await listen());
  const spare = connect(Number(url.port), url.hostname);
  await once(spare, 'connect');
  const socket = await rawPost(url.href, CHAT, { messages });
  const [sequence] = await engine.submitted(1);
  app.drain();
  const spareClosed = once(spare, 'close');
  const closed = app.close();
  await spareClosed;
  t.equal(sequence!.abortedAs, null, 'the running request goes on');
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  const answered = once(socket, 'close');
  sequence!.tokens('abc');
  sequence!.finish('stop');
  await Promise.all([closed, answered]);
  t.match(answer, /200 OK[\s\S]*"finish_reason":"stop"/);
});
