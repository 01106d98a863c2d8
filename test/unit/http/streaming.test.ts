/** Streams over real sockets: early headers, heartbeats, back-pressure, late errors and answers. */
import { once } from 'node:events';
import { request } from 'node:http';
import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { LONG, LONG_TEXT } from '../../support/fake-text-service.js';
import { events, makeServer, rawPost, until } from './harness.js';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'hi' }];

t.test('headers leave at once, heartbeats follow, tokens end the silence', async (t) => {
  const { engine, listen } = await makeServer(t.teardown, { heartbeatMs: 10 });
  const url = await listen();
  const response = await fetch(url + CHAT, {
    method: 'POST',
    body: JSON.stringify({ messages, stream: true }),
  });
  // Nothing has been computed yet.
  t.equal(response.status, 200);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  while (!text.includes(': heartbeat\n\n: heartbeat\n\n'))
    text += (await reader.read()).value ?? '';
  t.match(text, /^(: heartbeat\n\n)+$/);
  engine.streams[0]!.tokens('a').finish();
  for (let part = await reader.read(); !part.done; part = await reader.read()) text += part.value;
  t.equal(events(text.replaceAll(': heartbeat\n\n', '')).length, 4);
  t.match(text, /data: \[DONE\]\n\n$/);
});

t.test('an error after the headers is the last event', async (t) => {
  const { engine, logs, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').fail(new EngineError('ERR_DEVICE', 'device lost'));
  const response = await post(CHAT, { messages, stream: true });
  t.equal(response.statusCode, 200);
  t.strictSame(events(response.body).at(-1), {
    error: {
      message: 'device lost',
      type: 'server_error',
      param: null,
      code: null,
      longhaul_code: 'ERR_DEVICE',
    },
  });
  t.notMatch(response.body, '[DONE]');
  await until(() => logs.length > 0);
  t.match(logs[0], { status: 200, error_code: 'ERR_DEVICE', finish_reason: 'error' });
});

t.test('a slow reader pauses its own stream only', async (t) => {
  const { engine, listen } = await makeServer(t.teardown);
  const url = await listen();
  const slow = await rawPost(url, CHAT, { messages, stream: true });
  slow.pause();
  const [stalled] = await engine.submitted(1);
  const NUM_TOKENS = 500;
  for (let step = 0; step < NUM_TOKENS; step += 1) stalled!.tokens([LONG]);
  // The socket's buffers fill; then reading from the engine stops well before the end.
  let before = -1;
  while (stalled!.numRead === 0 || before !== stalled!.numRead) {
    before = stalled!.numRead;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  t.ok(stalled!.numRead > 0);
  t.ok(stalled!.numRead < NUM_TOKENS, `${stalled!.numRead} of ${NUM_TOKENS} were read`);

  engine.script = (stream) => stream.tokens('quick').finish();
  const other = await fetch(url + CHAT, { method: 'POST', body: JSON.stringify({ messages }) });
  t.equal(
    ((await other.json()) as { choices: [{ message: { content: string } }] }).choices[0].message
      .content,
    'quick',
  );

  stalled!.finish();
  const parts: Buffer[] = [];
  slow.on('data', (data) => parts.push(data));
  slow.resume();
  await until(() => String(parts.at(-1)).endsWith('data: [DONE]\n\n\r\n0\r\n\r\n'));
  t.equal(stalled!.numRead, NUM_TOKENS);
  const received = Buffer.concat(parts).toString();
  t.equal(received.split(LONG_TEXT).length - 1, NUM_TOKENS);
  slow.destroy();
});

t.test('a client that leaves while its stream is paused is noticed', async (t) => {
  const { engine, listen } = await makeServer(t.teardown);
  const slow = await rawPost(await listen(), CHAT, { messages, stream: true });
  slow.pause();
  const [stalled] = await engine.submitted(1);
  for (let step = 0; step < 500; step += 1) stalled!.tokens([LONG]);
  await until(() => stalled!.numRead > 0);
  slow.destroy();
  await until(() => stalled!.abortedAs === 'abort');
  // Everything is read to the terminal event, so that nothing is left behind.
  await until(() => stalled!.numRead === 500);
});

t.test('a late JSON answer sends its headers and blanks first', async (t) => {
  const { engine, listen } = await makeServer(
    t.teardown,
    { heartbeatMs: 5 },
    { earlyHeadersMs: 10 },
  );
  const url = await listen();
  await t.test('and then the answer', async (t) => {
    const response = await fetch(url + CHAT, {
      method: 'POST',
      body: JSON.stringify({ messages }),
    });
    t.equal(response.status, 200);
    t.equal(response.headers.get('content-type'), 'application/json; charset=utf-8');
    t.ok(response.headers.get('x-request-id'));
    engine.streams[0]!.tokens('late').finish();
    const text = await response.text();
    t.match(text, /^ +\{/);
    t.equal(JSON.parse(text).choices[0].message.content, 'late');
  });
  await t.test('or the error, in a body whose status has left', async (t) => {
    const response = await fetch(url + CHAT, {
      method: 'POST',
      body: JSON.stringify({ messages }),
    });
    engine.streams[1]!.fail(new EngineError('ERR_DEVICE', 'device lost'));
    t.match(JSON.parse(await response.text()), { error: { longhaul_code: 'ERR_DEVICE' } });
  });
  await t.test('and notices a client that leaves meanwhile', async (t) => {
    const client = request(url + CHAT, { method: 'POST' });
    client.on('error', () => {});
    client.end(JSON.stringify({ messages }));
    await once(client, 'response');
    client.destroy();
    await until(() => engine.streams[2]?.abortedAs === 'abort');
    t.equal(engine.streams.length, 3);
  });
});

t.test('a stream waits for its tokens and is then a stream, however long that takes', async (t) => {
  const { engine, text, post } = await makeServer(t.teardown, {}, { earlyHeadersMs: 5 });
  text.gate = new Promise((resolve) => setTimeout(resolve, 30));
  engine.script = (stream) => stream.tokens('a').finish();
  const response = await post(CHAT, { messages, stream: true });
  t.equal(response.headers['content-type'], 'text/event-stream; charset=utf-8');
  t.equal(events(response.body).at(-1), '[DONE]');
});
