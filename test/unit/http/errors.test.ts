import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { makeServer } from './harness.js';

const CHAT = '/v1/chat/completions';
const COMPLETIONS = '/v1/completions';
const messages = [{ role: 'user', content: 'hi' }];

t.test('a wrong field is named, with what was expected and what came', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  const cases: Array<[url: string, body: unknown, param: string, message: string]> = [
    [CHAT, {}, 'messages', 'messages: expected a non-empty array of messages, received nothing'],
    [
      CHAT,
      { messages: [] },
      'messages',
      'messages: expected a non-empty array of messages, received an empty array',
    ],
    [
      CHAT,
      { messages: 'hi' },
      'messages',
      'messages: expected a non-empty array of messages, received "hi" (string)',
    ],
    [
      CHAT,
      { messages: [{ content: 'x' }] },
      'messages[0].role',
      'messages[0].role: expected a non-empty string, received nothing',
    ],
    [
      CHAT,
      { messages: [{ role: 'user', content: 3 }] },
      'messages[0].content',
      'messages[0].content: expected a string, null or an array of content parts, each with a type, received 3 (number)',
    ],
    [
      CHAT,
      { messages: [{ role: 'user', content: [{ type: 'text' }] }] },
      'messages[0].content[0].text',
      'messages[0].content[0].text: expected a string, received nothing',
    ],
    [
      CHAT,
      { messages, temperature: 'hot' },
      'temperature',
      'temperature: expected a number from 0 to 2, received "hot" (string)',
    ],
    [
      CHAT,
      { messages, temperature: 2.5 },
      'temperature',
      'temperature: expected a number from 0 to 2, received 2.5 (number)',
    ],
    [
      CHAT,
      { messages, top_p: 0 },
      'top_p',
      'top_p: expected a number above 0 and up to 1, received 0 (number)',
    ],
    [
      CHAT,
      { messages, top_k: 1.5 },
      'top_k',
      'top_k: expected an integer of at least -1, received 1.5 (number)',
    ],
    [CHAT, { messages, n: 0 }, 'n', 'n: expected an integer from 1 to 128, received 0 (number)'],
    [
      CHAT,
      { messages, stream: 'yes' },
      'stream',
      'stream: expected true or false, received "yes" (string)',
    ],
    [
      CHAT,
      { messages, stream_options: { include_usage: 1 } },
      'stream_options.include_usage',
      'stream_options.include_usage: expected true or false, received 1 (number)',
    ],
    [
      CHAT,
      { messages, max_tokens: 0 },
      'max_tokens',
      'max_tokens: expected an integer of at least 1, received 0 (number)',
    ],
    [
      CHAT,
      { messages, logprobs: true, top_logprobs: 21 },
      'top_logprobs',
      'top_logprobs: expected an integer from 0 to 20, received 21 (number)',
    ],
    [
      CHAT,
      { messages, top_logprobs: 1 },
      'top_logprobs',
      'top_logprobs: expected logprobs to be true beside it, received nothing',
    ],
    [
      CHAT,
      { messages, stop: [''] },
      'stop',
      'stop: expected a non-empty string or an array of up to 64 non-empty strings, received an array of 1',
    ],
    [
      CHAT,
      { messages, logit_bias: { a: 1 } },
      'logit_bias',
      'logit_bias: expected token ids as keys, received "a" (string)',
    ],
    [
      CHAT,
      { messages, logit_bias: { 5: 101 } },
      'logit_bias[5]',
      'logit_bias[5]: expected a number from -100 to 100, received 101 (number)',
    ],
    [
      CHAT,
      { messages, logit_bias: { 261: 1 } },
      'logit_bias',
      'logit_bias: expected a token id below the vocabulary size 261, received 261 (number)',
    ],
    [
      CHAT,
      { messages, stop_token_ids: [1, 999] },
      'stop_token_ids',
      'stop_token_ids[1]: expected a token id below the vocabulary size 261, received 999 (number)',
    ],
    [
      CHAT,
      { messages, min_tokens: 5, max_tokens: 4 },
      'min_tokens',
      'min_tokens: expected at most max_tokens (4), received 5 (number)',
    ],
    [
      CHAT,
      { messages, stream: true, prompt_logprobs: 1 },
      'prompt_logprobs',
      'prompt_logprobs: expected to be absent when stream is true, received 1 (number)',
    ],
    [
      CHAT,
      { messages, add_generation_prompt: true, continue_final_message: true },
      'continue_final_message',
      'continue_final_message: expected add_generation_prompt to be false beside it, received true (boolean)',
    ],
    [
      CHAT,
      { messages, seed: 1e30 },
      'seed',
      'seed: expected a 64-bit integer, received 1e+30 (number)',
    ],
    [CHAT, '[1]', 'body', 'body: expected a JSON object, received an array of 1'],
    [CHAT, 'null', 'body', 'body: expected a JSON object, received null'],
    [
      COMPLETIONS,
      {},
      'prompt',
      'prompt: expected a string, an array of token ids, or a non-empty array of either, received nothing',
    ],
    [
      COMPLETIONS,
      { prompt: ['a', 1] },
      'prompt',
      'prompt: expected a string, an array of token ids, or a non-empty array of either, received an array of 2',
    ],
    [
      COMPLETIONS,
      { prompt: [] },
      'prompt',
      'prompt: expected a string, an array of token ids, or a non-empty array of either, received an empty array',
    ],
    [
      COMPLETIONS,
      { prompt: [[1], []] },
      'prompt[1]',
      'prompt[1]: expected at least one token, received an empty array',
    ],
    [
      COMPLETIONS,
      { prompt: [1, 261] },
      'prompt',
      'prompt[1]: expected a token id below the vocabulary size 261, received 261 (number)',
    ],
    [
      COMPLETIONS,
      { prompt: '', add_special_tokens: false },
      'prompt',
      'prompt: expected at least one token, received an empty array',
    ],
    [
      COMPLETIONS,
      { prompt: 'a', max_tokens: 0 },
      'max_tokens',
      'max_tokens: expected an integer of at least 1, or echo to be true, received 0 (number)',
    ],
    ['/tokenize', {}, 'prompt', 'prompt: expected a string, or messages, received nothing'],
    [
      '/tokenize',
      { prompt: 'a', messages },
      'prompt',
      'prompt: expected to be absent beside messages, received "a" (string)',
    ],
    [
      '/detokenize',
      { tokens: [-1] },
      'tokens[0]',
      'tokens[0]: expected an integer of at least 0, received -1 (number)',
    ],
    [
      '/detokenize',
      { tokens: [261] },
      'tokens',
      'tokens[0]: expected a token id below the vocabulary size 261, received 261 (number)',
    ],
  ];
  for (const [url, body, param, message] of cases) {
    const response = await post(url, body);
    t.equal(response.statusCode, 400, message);
    t.strictSame(response.json(), {
      error: {
        message,
        type: 'invalid_request_error',
        param,
        code: null,
        longhaul_code: 'ERR_INVALID_REQUEST',
      },
    });
  }
  t.equal(engine.streams.length, 0);
});

t.test('numbers that JSON can write and no double can hold', async (t) => {
  const { post } = await makeServer(t.teardown);
  const huge = await post(CHAT, '{"messages": [{"role": "user"}], "temperature": 1e400}');
  t.equal(
    huge.json().error.message,
    'temperature: expected a number from 0 to 2, received Infinity (number)',
  );
});

t.test('bodies that are not JSON', async (t) => {
  const { app, post } = await makeServer(t.teardown);
  t.match((await post(CHAT, '{"messages": [')).json().error, {
    message: /^body: expected JSON, received something else: /,
    longhaul_code: 'ERR_INVALID_REQUEST',
  });
  const empty = await app.inject({ method: 'POST', url: CHAT });
  t.equal(empty.statusCode, 400);
  t.equal(empty.json().error.message, 'body: expected a JSON object, received nothing');
  const nested = `{"messages": ${'['.repeat(50_000)}${']'.repeat(50_000)}}`;
  t.equal((await post(CHAT, nested)).statusCode, 400);
  const deepField = `{"messages":[{"role":"user","content":"a","x":${'['.repeat(50_000)}${']'.repeat(50_000)}}]}`;
  t.equal(
    (await post(CHAT, deepField)).json().error.message,
    'messages: expected at most 100 levels of nesting, received more',
  );
});

t.test('JSON is read whatever the content type says', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').finish();
  for (const type of [
    'text/plain',
    'application/x-www-form-urlencoded',
    'application/json; charset=utf-8',
  ]) {
    const response = await post(CHAT, { messages }, { 'content-type': type });
    t.equal(response.statusCode, 200, type);
  }
});

t.test('known fields that would change the answer are refused by name', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').finish();
  const chat: Record<string, unknown> = {
    tools: [{ type: 'function', function: { name: 'f' } }],
    tool_choice: 'required',
    functions: [{ name: 'f' }],
    response_format: { type: 'json_object' },
    structured_outputs: { json: {} },
    guided_json: { type: 'object' },
    guided_regex: 'a+',
    guided_choice: ['a'],
    guided_grammar: 'root ::= "a"',
    best_of: 2,
    context: 'ctx-1',
    attention: 'squeezed',
    sparsity: 0.9,
    kept_tokens: 100,
    modalities: ['text', 'audio'],
    audio: { voice: 'x' },
    use_beam_search: true,
    truncate_prompt_tokens: 10,
    logits_processors: ['x'],
    bad_words: ['x'],
    echo: true,
  };
  for (const [field, value] of Object.entries(chat)) {
    const response = await post(CHAT, { messages, [field]: value });
    t.equal(response.statusCode, 400, field);
    t.match(response.json().error, {
      param: field,
      code: 'unsupported_parameter',
      longhaul_code: 'ERR_UNSUPPORTED',
    });
  }
  const suffix = await post(COMPLETIONS, { prompt: 'a', suffix: 'z' });
  t.equal(suffix.json().error.param, 'suffix');
  for (const type of ['image_url', 'input_audio', 'file']) {
    const parts = [{ type: 'text', text: 'a' }, { type }];
    const response = await post(CHAT, { messages: [{ role: 'user', content: parts }] });
    t.match(response.json().error, {
      param: 'messages[0].content[1]',
      code: 'unsupported_parameter',
    });
  }
  t.equal(engine.streams.length, 0);

  const neutral = {
    tools: [],
    tool_choice: 'none',
    response_format: { type: 'text' },
    best_of: 2,
    n: 2,
    attention: 'exact',
    modalities: ['text'],
    use_beam_search: false,
    guided_json: null,
    length_penalty: 1,
    parallel_tool_calls: true,
    store: false,
  };
  t.equal((await post(CHAT, { messages, ...neutral })).statusCode, 200);
  t.equal(
    (await post(COMPLETIONS, { prompt: 'a', suffix: '', attention: 'auto' })).statusCode,
    200,
  );
});

t.test('an unknown model is 404, an alias is not', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').finish();
  const response = await post(CHAT, { model: 'gpt-4', messages });
  t.equal(response.statusCode, 404);
  t.match(response.json().error, {
    code: 'model_not_found',
    param: 'model',
    longhaul_code: 'ERR_MODEL_NOT_FOUND',
  });
  t.equal((await post(CHAT, { model: 'fake', messages })).json().model, 'fake');
});

t.test('a request that cannot fit is refused with both counts', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  const ask = async (promptLength: number, rest: object) => {
    const response = await post(COMPLETIONS, { prompt: new Array(promptLength).fill(1), ...rest });
    return response.statusCode === 200 ? 200 : response.json().error;
  };
  engine.script = (stream) => stream.finish('length');
  t.equal(await ask(200, { max_tokens: 56 }), 200);
  const over = await ask(200, { max_tokens: 57 });
  t.match(over, { code: 'context_length_exceeded', longhaul_code: 'ERR_CONTEXT_TOO_LONG' });
  t.match(over.message, 'holds 256 tokens, but 257 were asked for: 200 in the prompt and 57 to');
  t.equal(await ask(255, {}), 200);
  t.match((await ask(256, {})).message, '257 were asked for: 256 in the prompt and 1 to');
  t.equal(await ask(256, { max_tokens: 0, echo: true }), 200);
  t.match((await ask(257, { max_tokens: 0, echo: true })).code, 'context_length_exceeded');
  const long = await post(CHAT, { messages: [{ role: 'user', content: 'x'.repeat(300) }] });
  t.equal(long.json().error.code, 'context_length_exceeded');
});

t.test('what the engine refuses at the door keeps its status and advice', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.refusal = new EngineError('ERR_QUEUE_FULL', 'full', { retryAfterSeconds: 2.2 });
  const full = await post(CHAT, { messages, stream: true });
  t.equal(full.statusCode, 429);
  t.equal(full.headers['retry-after'], '3');
  t.match(full.json().error, { type: 'rate_limit_error', code: 'rate_limit_exceeded' });

  engine.refusal = new EngineError('ERR_KV_EXHAUSTED', 'no block');
  const exhausted = await post(CHAT, { messages });
  t.equal(exhausted.statusCode, 503);
  t.equal(exhausted.headers['retry-after'], '1');

  engine.refusal = new Error('bug') as EngineError;
  const bug = await post(CHAT, { messages });
  t.equal(bug.statusCode, 500);
  t.equal(bug.json().error.longhaul_code, 'ERR_INTERNAL');
});

t.test('when one choice is refused, the others are aborted', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.refusal = new EngineError('ERR_QUEUE_FULL', 'full', { retryAfterSeconds: 1 });
  engine.numBeforeRefusal = 2;
  const response = await post(CHAT, { messages, n: 3 });
  t.equal(response.statusCode, 429);
  t.strictSame(
    engine.streams.map((stream) => stream.abortedAs),
    ['abort', 'abort'],
  );
});

t.test('when one choice fails, the others are aborted and the error answers', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  const answer = post(CHAT, { messages, n: 2 });
  const streams = await engine.submitted(2);
  streams[1]!.tokens('a').fail(new EngineError('ERR_DEVICE', 'lost'));
  const response = await answer;
  t.equal(response.statusCode, 500);
  t.equal(response.json().error.longhaul_code, 'ERR_DEVICE');
  t.equal(streams[0]!.abortedAs, 'abort');
});

t.test('requests that are being tokenized count toward the queue', async (t) => {
  const { engine, text, post } = await makeServer(t.teardown, { maxQueueRequests: 2 });
  let open = () => {};
  text.gate = new Promise((resolve) => {
    open = resolve;
  });
  engine.script = (stream) => stream.finish();
  engine.statsOverrides.numWaiting = 1;
  engine.statsOverrides.waitingTokens = 900;
  engine.statsOverrides.prefillTokensPerSecond = 100;
  const first = post(CHAT, { messages });
  await new Promise((resolve) => setImmediate(resolve));
  const second = await post(CHAT, { messages });
  t.equal(second.statusCode, 429);
  t.equal(second.headers['retry-after'], '9');
  open();
  t.equal((await first).statusCode, 200);
  t.equal((await post(CHAT, { messages })).statusCode, 200);
});

t.test('limits, routes and methods', async (t) => {
  const { app, post } = await makeServer(t.teardown, { bodyLimitBytes: 1000 });
  const large = await post(CHAT, { messages, x: 'a'.repeat(1000) });
  t.equal(large.statusCode, 413);
  t.strictSame(large.json(), {
    error: {
      message: "The request body is larger than this server's limit of 1000 bytes.",
      type: 'invalid_request_error',
      param: null,
      code: null,
      longhaul_code: 'ERR_BODY_TOO_LARGE',
    },
  });
  const missing = await app.inject({ method: 'GET', url: '/v2/nothing?q=1' });
  t.equal(missing.statusCode, 404);
  t.match(missing.json().error, {
    message: 'There is no GET /v2/nothing.',
    longhaul_code: 'ERR_NOT_FOUND',
  });
  const method = await app.inject({ method: 'GET', url: '/v1/chat/completions?x=1' });
  t.equal(method.statusCode, 405);
  t.equal(method.headers.allow, 'POST');
  t.equal(method.json().error.longhaul_code, 'ERR_METHOD_NOT_ALLOWED');
  const models = await app.inject({ method: 'DELETE', url: '/v1/models/org/fake' });
  t.equal(models.statusCode, 405);
  const badUrl = await app.inject({ method: 'GET', url: '/v1/models/%zz' });
  t.equal(badUrl.statusCode, 400);
  t.equal(badUrl.json().error.longhaul_code, 'ERR_INVALID_REQUEST');
  const plain = await app.inject({ method: 'GET', url: '/v1/stream' });
  t.equal(plain.statusCode, 400);
  t.match(plain.json().error.message, 'expected a websocket upgrade');
});

t.test('cross-origin requests are allowed, also on streams', async (t) => {
  const { app, engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.finish();
  const preflight = await app.inject({
    method: 'OPTIONS',
    url: CHAT,
    headers: {
      origin: 'http://page.example',
      'access-control-request-method': 'POST',
      'access-control-request-headers': 'content-type,authorization',
    },
  });
  t.equal(preflight.statusCode, 204);
  t.equal(preflight.headers['access-control-allow-origin'], '*');
  t.equal(preflight.headers['access-control-allow-headers'], 'content-type,authorization');
  for (const stream of [false, true]) {
    const response = await post(CHAT, { messages, stream }, { origin: 'http://page.example' });
    t.equal(response.headers['access-control-allow-origin'], '*');
    t.equal(response.headers['access-control-expose-headers'], 'x-request-id, retry-after');
  }
});
