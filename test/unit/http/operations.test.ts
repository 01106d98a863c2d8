/** Models, tokenize, probes, drain, metrics, debug routes and the request log. */
import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { HealthMonitor } from '../../../src/http/health-monitor.js';
import { FakeEngine } from '../../support/fake-engine.js';
import { makeServer, rawPost, until } from './harness.js';

const CHAT = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'secret words' }];

t.test('models', async (t) => {
  const { app } = await makeServer(t.teardown);
  const card = (id: string) => ({
    id,
    object: 'model',
    created: 1_700_000_000,
    owned_by: 'longhaul',
    root: 'org/fake',
    parent: null,
    max_model_len: 256,
  });
  const get = async (url: string) => (await app.inject(url)).json();
  t.strictSame(await get('/v1/models'), { object: 'list', data: [card('org/fake'), card('fake')] });
  t.strictSame(await get('/v1/models/org/fake'), card('org/fake'));
  t.strictSame(await get('/v1/models/org%2Ffake'), card('org/fake'));
  t.strictSame(await get('/v1/models/fake'), card('fake'));
  t.equal((await app.inject('/v1/models/org')).statusCode, 404);
  t.equal((await get('/v1/models/org')).error.code, 'model_not_found');
});

t.test('the context a model card shows is what a sequence can really use', async (t) => {
  const engine = new FakeEngine();
  engine.limits = { ...engine.limits, kvTokens: 100 };
  const { app } = await makeServer(t.teardown, {}, { engine });
  t.equal((await app.inject('/v1/models')).json().data[0].max_model_len, 100);
});

t.test('tokenize and detokenize', async (t) => {
  const { post } = await makeServer(t.teardown);
  const ask = async (url: string, body: unknown) => (await post(url, body)).json();
  t.strictSame(await ask('/tokenize', { prompt: 'hé' }), {
    count: 4,
    max_model_len: 256,
    tokens: [256, 0x68, 0xc3, 0xa9],
    token_strs: null,
  });
  t.match(
    await ask('/tokenize', { prompt: 'a', add_special_tokens: false, return_token_strs: true }),
    { count: 1, tokens: [97], token_strs: ['a'] },
  );
  const text = 'user:a\nassistant:';
  t.strictSame(
    (await ask('/tokenize', { model: 'fake', messages: [{ role: 'user', content: 'a' }] })).tokens,
    [256, ...Buffer.from(text)],
  );
  t.equal(
    (
      await ask('/tokenize', {
        messages: [{ role: 'user', content: 'a' }],
        add_generation_prompt: false,
      })
    ).count,
    1 + 'user:a\n'.length,
  );
  t.strictSame(await ask('/detokenize', { tokens: [256, 0x68, 0xc3, 0xa9] }), {
    prompt: '<bos>hé',
  });
  t.strictSame(await ask('/detokenize', { tokens: [] }), { prompt: '' });
  t.equal((await ask('/detokenize', { model: 'x', tokens: [] })).error.code, 'model_not_found');
});

t.test('probes', async (t) => {
  const { app, engine } = await makeServer(t.teardown);
  const get = async (url: string) => {
    const response = await app.inject(url);
    return [response.statusCode, response.json()];
  };
  t.strictSame(await get('/health/live'), [200, { status: 'live' }]);
  t.strictSame(await get('/health/ready'), [200, { status: 'ready' }]);
  t.strictSame(await get('/health'), [200, { status: 'ready' }]);
  t.match(await get('/version'), [200, { version: /^\d+\.\d+\.\d+/ }]);
  t.strictSame(await get('/health/progress'), [
    200,
    {
      step: 7,
      has_work: false,
      running: 0,
      waiting: 0,
      status: 'ready',
      seconds_since_step: 0,
    },
  ]);
  engine.statsOverrides.failed = new EngineError('ERR_DEVICE', 'device lost');
  t.strictSame(await get('/health/ready'), [503, { status: 'failed', error: 'device lost' }]);
  t.equal((await get('/health/live'))[0], 200);
  t.match(await get('/health/progress'), [503, { status: 'failed' }]);
});

t.test('a failed engine answers 503 with advice', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.statsOverrides.failed = new EngineError('ERR_DEVICE', 'device lost');
  const response = await post(CHAT, { messages });
  t.equal(response.statusCode, 503);
  t.equal(response.headers['retry-after'], '30');
});

t.test('drain: red at once, running requests finish', async (t) => {
  const { app, engine, post, listen } = await makeServer(t.teardown, { drainTimeoutMs: 2500 });
  const url = await listen();
  const running = fetch(url + CHAT, {
    method: 'POST',
    body: JSON.stringify({ messages, stream: true }),
  });
  const [stream] = await engine.submitted(1);
  app.drain();
  const ready = await app.inject('/health/ready');
  t.equal(ready.statusCode, 503);
  t.equal(ready.headers['retry-after'], '3');
  t.strictSame(ready.json(), { status: 'draining' });
  t.equal((await app.inject('/health/live')).statusCode, 200);
  const refused = await post(CHAT, { messages });
  t.equal(refused.statusCode, 503);
  t.equal(refused.headers['retry-after'], '3');
  t.equal(refused.json().error.longhaul_code, 'ERR_SHUTTING_DOWN');
  t.equal(stream!.abortedAs, null);
  stream!.tokens('done').finish();
  t.match(await (await running).text(), /"done".*\[DONE\]\n\n$/s);
});

t.test('a request that was being tokenized when the drain began is refused', async (t) => {
  const { app, engine, text, post } = await makeServer(t.teardown);
  let open = () => {};
  text.gate = new Promise((resolve) => {
    open = resolve;
  });
  const answer = post(CHAT, { messages });
  await until(() => text.numOpenEncodes === 1);
  app.drain();
  open();
  t.equal((await answer).statusCode, 503);
  t.equal(engine.streams.length, 0);
});

t.test('progress: stuck only when work stands still past the deadline', async (t) => {
  const engine = new FakeEngine();
  let now = 1000;
  const monitor = new HealthMonitor(engine, 500, () => now);
  const look = (ms: number, stepCount: number, hasWork: boolean) => {
    now += ms;
    Object.assign(engine.statsOverrides, { stepCount, hasWork });
    const { stuck, secondsSinceStep } = monitor.sample();
    return [stuck, secondsSinceStep];
  };
  t.strictSame(look(10_000, 3, false), [false, 0], 'idle is not stuck');
  t.strictSame(look(10, 3, true), [false, 0.01], 'work has just appeared');
  t.strictSame(look(490, 3, true), [false, 0.5]);
  t.strictSame(look(1, 3, true), [true, 0.501]);
  t.strictSame(look(10, 4, true), [false, 0], 'it moves again');
  t.strictSame(look(600, 4, true), [true, 0.6]);
  t.strictSame(look(10, 4, false), [false, 0], 'the work has gone');

  const { app } = await makeServer(t.teardown, {}, { engine, progressDeadlineMs: 0 });
  Object.assign(engine.statsOverrides, { stepCount: 9, hasWork: true });
  await app.inject('/health/progress');
  await new Promise((resolve) => setTimeout(resolve, 5));
  const stuck = await app.inject('/health/progress');
  t.equal(stuck.statusCode, 503);
  t.match(stuck.json(), { status: 'stuck', has_work: true, step: 9 });
});

t.test('the integrity route exists only where debug routes are on', async (t) => {
  t.equal((await (await makeServer(t.teardown)).app.inject('/debug/integrity')).statusCode, 404);
  const { app, engine } = await makeServer(t.teardown, { debugRoutes: true });
  const good = await app.inject('/debug/integrity');
  t.equal(good.statusCode, 200);
  t.strictSame(good.json(), { ok: true, owned: 0, cached: 2, free: 8, moving: 0 });
  engine.integrityError = new Error('block 3 is free and owned');
  const bad = await app.inject('/debug/integrity');
  t.equal(bad.statusCode, 500);
  t.match(bad.json(), { ok: false, error: 'block 3 is free and owned' });
});

t.test('request ids', async (t) => {
  const { app, engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.finish();
  const given = await post(CHAT, { messages, stream: true }, { 'x-request-id': 'mine-1' });
  t.equal(given.headers['x-request-id'], 'mine-1');
  const twice = await Promise.all([
    post(CHAT, { messages }, { 'x-request-id': 'same' }),
    post(CHAT, { messages }, { 'x-request-id': 'same' }),
  ]);
  t.strictSame(
    twice.map((response) => [response.statusCode, response.headers['x-request-id']]),
    [
      [200, 'same'],
      [200, 'same'],
    ],
  );
  t.not(twice[0]!.json().id, twice[1]!.json().id);
  for (const unfit of ['a'.repeat(300), 'with space', '\u00e9']) {
    const made = await app.inject({ url: '/nowhere', headers: { 'x-request-id': unfit } });
    t.match(made.headers['x-request-id'], /^[0-9a-f-]{36}$/);
  }
});

t.test('one log line a request', async (t) => {
  const { app, engine, logs, post } = await makeServer(t.teardown);
  engine.script = (stream) => {
    stream.cachedTokens = 2;
    stream.tokens('abc').finish('length');
  };
  const lines = async (count: number) => {
    await until(() => logs.length >= count);
    return logs.splice(0);
  };
  const response = await post(CHAT, { messages, n: 2 }, { 'x-request-id': 'r1' });
  const [line] = await lines(1);
  t.match(line, {
    level: 'info',
    msg: 'request',
    event: 'request',
    request_id: 'r1',
    route: CHAT,
    status: 200,
    completion_id: response.json().id,
    model: 'org/fake',
    stream: false,
    choices: 2,
    prompt_tokens: response.json().usage.prompt_tokens,
    completion_tokens: 6,
    cached_tokens: 2,
    queue_ms: 1,
    prefill_ms: 2,
    decode_ms: 3,
    finish_reason: 'length',
  });
  t.type(line?.duration_ms, 'number');

  await post(CHAT, { messages, temperature: 'secret' });
  const [refused] = await lines(1);
  t.match(refused, { status: 400, error_code: 'ERR_INVALID_REQUEST', param: 'temperature' });
  await post(CHAT, { messages, model: 'nobody' });
  t.match(await lines(1), [{ status: 404, error_code: 'ERR_MODEL_NOT_FOUND' }]);
  await app.inject('/nowhere');
  t.match(await lines(1), [{ status: 404, route: 'unknown', error_code: 'ERR_NOT_FOUND' }]);
  engine.script = (stream) => stream.fail(new EngineError('ERR_DEVICE', 'lost'));
  await post(CHAT, { messages });
  t.match(await lines(1), [{ level: 'error', status: 500, error_code: 'ERR_DEVICE' }]);
  await app.inject('/health/ready');
  await app.inject('/metrics');
  t.strictSame(logs, [], 'probes are for the debug level');
  t.notMatch(JSON.stringify([line, refused]), 'secret');
});

t.test('prompts are logged only when asked for', async (t) => {
  const { engine, logs, post } = await makeServer(t.teardown, { logPrompts: true });
  engine.script = (stream) => stream.finish();
  await post(CHAT, { messages });
  await post('/v1/completions', { prompt: [1, 2] });
  await until(() => logs.length === 2);
  t.match(logs, [{ prompts: ['user:secret words\nassistant:'] }, { prompts: [[1, 2]] }]);
});

t.test('metrics count answers by route', async (t) => {
  const { app, engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('abc').finish();
  await post(CHAT, { messages, n: 2 });
  await post(CHAT, {});
  await app.inject('/v1/models/org/fake');
  await app.inject('/../etc/passwd');
  const response = await app.inject('/metrics');
  t.match(response.headers['content-type'], /^text\/plain; version=0\.0\.4/);
  const line = (route: string, code: number, count: number) =>
    `longhaul_http_requests_total{route="${route}",code="${code}"} ${count}\n`;
  for (const expected of [
    line(CHAT, 200, 1),
    line(CHAT, 400, 1),
    line('/v1/models/*', 200, 1),
    line('unknown', 404, 1),
    'vllm:request_params_n_sum{model_name="org/fake",engine="0"} 2\n',
    'vllm:request_max_num_generation_tokens_sum{model_name="org/fake",engine="0"} 3\n',
    'vllm:num_requests_running{model_name="org/fake",engine="0"} 0\n',
  ]) {
    t.ok(response.body.includes(expected), expected);
  }
});

t.test('bytes that are not HTTP get our shape too', async (t) => {
  const { listen } = await makeServer(t.teardown);
  const url = await listen();
  const socket = await rawPost(url, 'no slash and spaces', {});
  let answer = '';
  socket.on('data', (data) => {
    answer += data;
  });
  await until(() => socket.closed || answer.endsWith('}}'));
  t.match(answer, /^HTTP\/1\.1 400 Bad Request\r\n/);
  t.equal(
    JSON.parse(answer.slice(answer.indexOf('\r\n\r\n'))).error.longhaul_code,
    'ERR_INVALID_REQUEST',
  );
});
