import t from 'tap';
import { END_OF_TURN, THE } from '../../support/fake-text-service.js';
import { events, makeServer } from './harness.js';

const URL = '/v1/chat/completions';
const messages = [{ role: 'user', content: 'hi' }];
// <bos>user:hi\nassistant:
const PROMPT_TOKENS = 1 + 'user:hi\nassistant:'.length;

t.test('a whole answer has exactly the documented fields', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => {
    stream.cachedTokens = 4;
    stream.tokens('Hé').tokens([THE, END_OF_TURN]).finish('stop', END_OF_TURN);
  };
  const response = await post(URL, { model: 'fake', messages });
  t.equal(response.statusCode, 200);
  t.match(response.headers['content-type'], /^application\/json/);
  const body = response.json();
  t.match(body.id, /^chatcmpl-[0-9a-f]{32}$/);
  t.ok(Math.abs(body.created - Date.now() / 1000) < 60);
  t.strictSame(
    { ...body, id: 'ID', created: 0 },
    {
      id: 'ID',
      object: 'chat.completion',
      created: 0,
      model: 'fake',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Héthe ', refusal: null },
          logprobs: null,
          finish_reason: 'stop',
          stop_reason: null,
        },
      ],
      usage: {
        prompt_tokens: PROMPT_TOKENS,
        completion_tokens: 5,
        total_tokens: PROMPT_TOKENS + 5,
        prompt_tokens_details: { cached_tokens: 4 },
      },
    },
  );
});

t.test('a stream is exactly these bytes', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) =>
    stream
      .progress(4, PROMPT_TOKENS)
      .tokens([0xe2, 0x82])
      .tokens([0xac])
      .tokens('b')
      .finish('length');
  const response = await post(URL, {
    messages,
    stream: true,
    stream_options: { include_usage: true },
  });
  t.equal(response.statusCode, 200);
  t.equal(response.headers['content-type'], 'text/event-stream; charset=utf-8');
  t.equal(response.headers['cache-control'], 'no-cache');
  const head = JSON.parse(response.body.split('\n')[0]!.slice('data: '.length));
  const chunk = (choice: string, usage = 'null') =>
    `data: {"id":"${head.id}","object":"chat.completion.chunk","created":${head.created},` +
    `"model":"org/fake","choices":[${choice}],"usage":${usage}}\n\n`;
  const delta = (content: string) =>
    `{"index":0,"delta":${content},"logprobs":null,"finish_reason":null}`;
  t.equal(
    response.body,
    chunk(delta('{"role":"assistant","content":""}')) +
      chunk(delta('{"content":"€"}')) +
      chunk(delta('{"content":"b"}')) +
      chunk('{"index":0,"delta":{},"logprobs":null,"finish_reason":"length","stop_reason":null}') +
      chunk(
        '',
        `{"prompt_tokens":${PROMPT_TOKENS},"completion_tokens":4,"total_tokens":${PROMPT_TOKENS + 4},` +
          '"prompt_tokens_details":{"cached_tokens":0}}',
      ) +
      'data: [DONE]\n\n',
  );
});

t.test('progress events come only when asked for', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.progress(3, 9).progress(9, 9).tokens('a').finish();
  const stream = async (options: object) =>
    events((await post(URL, { messages, stream: true, stream_options: options })).body);
  t.strictSame((await stream({ include_progress: true })).slice(0, 2), [
    { longhaul: { progress: { computed: 3, total: 9 } } },
    { longhaul: { progress: { computed: 9, total: 9 } } },
  ]);
  t.notOk((await stream({})).some((event) => (event as { longhaul?: unknown }).longhaul));
});

t.test('sampling fields reach the engine', async (t) => {
  const { engine, post } = await makeServer(
    t.teardown,
    {},
    {
      model: {
        id: 'm',
        aliases: [],
        createdSeconds: 0,
        maxModelLen: 100,
        defaults: { temperature: 0.6, topP: 0.9, topK: 20, repetitionPenalty: 1.1 },
      },
    },
  );
  engine.script = (stream) => stream.tokens('x').finish();
  await post(URL, { messages });
  t.match(engine.streams[0]!.request, {
    priority: 0,
    cacheSalt: '',
    deadlineMs: null,
    sampling: {
      temperature: 0.6,
      topP: 0.9,
      topK: 20,
      repetitionPenalty: 1.1,
      numLogprobs: -1,
      numPromptLogprobs: -1,
      minTokens: 0,
      // Until the context is full.
      maxTokens: 100 - PROMPT_TOKENS,
      stopTokenIds: [257, 258],
    },
  });
  await post(URL, {
    messages,
    temperature: 0,
    top_p: 0.5,
    top_k: -1,
    min_p: 0.1,
    repetition_penalty: 1.2,
    frequency_penalty: -2,
    presence_penalty: 2,
    seed: -1,
    logit_bias: { 7: -100, 259: 3.5 },
    min_tokens: 2,
    max_tokens: 50,
    max_completion_tokens: 9,
    stop_token_ids: [1, 258],
    ignore_eos: true,
    priority: -3,
    cache_salt: 'tenant',
    logprobs: true,
    top_logprobs: 2,
    user: 'ignored',
    unknown_field: { anything: [1] },
    tools: [],
    tool_choice: 'auto',
    response_format: { type: 'text' },
    n: null,
  });
  t.strictSame(engine.streams[1]!.request.sampling, {
    numLogprobs: 2,
    numPromptLogprobs: -1,
    temperature: 0,
    topP: 0.5,
    minP: 0.1,
    topK: 0,
    repetitionPenalty: 1.2,
    frequencyPenalty: -2,
    presencePenalty: 2,
    logitBias: [
      [7, -100],
      [259, 3.5],
    ],
    minTokens: 2,
    stopTokenIds: [1, 258],
    seed: 2n ** 64n - 1n,
    maxTokens: 9,
  });
  t.equal(engine.streams[1]!.request.priority, -3);
  t.equal(engine.streams[1]!.request.cacheSalt, 'tenant');
});

t.test('n choices are n submits, answered in index order', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  const answer = post(URL, { messages, n: 3, seed: 5 });
  const streams = await engine.submitted(3);
  t.strictSame(
    streams.map((stream) => stream.request.sampling.seed),
    [5n, 6n, 7n],
  );
  t.equal(new Set(streams.map((stream) => stream.requestId)).size, 3);
  streams[2]!.tokens('c').finish();
  streams[0]!.tokens('a').finish('length');
  streams[1]!.tokens('bb').finish();
  const body = (await answer).json();
  t.strictSame(
    body.choices.map((choice: { index: number; message: { content: string } }) => [
      choice.index,
      choice.message.content,
    ]),
    [
      [0, 'a'],
      [1, 'bb'],
      [2, 'c'],
    ],
  );
  t.equal(body.usage.prompt_tokens, PROMPT_TOKENS);
  t.equal(body.usage.completion_tokens, 4);
});

t.test('seeds: random without one, reproducible from the server seed', async (t) => {
  const seedsOf = async (seed: bigint | null) => {
    const { engine, post } = await makeServer(t.teardown, { seed });
    engine.script = (stream) => stream.finish();
    for (let request = 0; request < 3; request += 1) await post(URL, { messages });
    return engine.streams.map((stream) => stream.request.sampling.seed);
  };
  const fixed = await seedsOf(42n);
  t.strictSame(await seedsOf(42n), fixed);
  t.equal(new Set(fixed).size, 3);
  t.notSame(await seedsOf(null), await seedsOf(null));
});

t.test('stop strings across token borders', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  await t.test('cut the text, abort the engine as a stop, count what was used', async (t) => {
    const answer = post(URL, { messages, stop: ['<|end|>'] });
    const [stream] = await engine.submitted(1);
    stream!.tokens('ab<|e').tokens('nd').tokens('|>never seen');
    const body = (await answer).json();
    t.equal(body.choices[0].message.content, 'ab');
    t.equal(body.choices[0].finish_reason, 'stop');
    t.equal(body.choices[0].stop_reason, '<|end|>');
    t.equal(body.usage.completion_tokens, 'ab<|end|>'.length);
    t.equal(stream!.abortedAs, 'stop');
  });
  await t.test('text that only looked like one is not lost', async (t) => {
    engine.script = (stream) => stream.tokens('ab<|e').tokens('gg').tokens('<|en').finish('length');
    const body = (await post(URL, { messages, stop: '<|end|>' })).json();
    t.equal(body.choices[0].message.content, 'ab<|egg<|en');
    t.equal(body.choices[0].finish_reason, 'length');
    t.equal(body.choices[0].stop_reason, null);
  });
  await t.test('a natural end that races with the abort is still the stop string', async (t) => {
    engine.script = (stream) => {
      stream.endsOnAbort = false;
      stream.tokens('a.').tokens('zz').finish('length');
    };
    const body = (await post(URL, { messages, stop: '.' })).json();
    t.equal(body.choices[0].message.content, 'a');
    t.equal(body.choices[0].stop_reason, '.');
    t.equal(body.usage.completion_tokens, 2);
  });
  await t.test('include_stop_str_in_output, min_tokens, stop_token_ids', async (t) => {
    engine.script = (stream) => stream.tokens('a.b.').finish('length');
    const ask = async (body: object) => (await post(URL, { messages, ...body })).json().choices[0];
    t.equal((await ask({ stop: '.', include_stop_str_in_output: true })).message.content, 'a.');
    t.equal((await ask({ stop: '.', min_tokens: 2 })).message.content, 'a.b');
    t.equal((await ask({ stop: '.', min_tokens: 4 })).message.content, 'a.b.');
    engine.script = (stream) => stream.tokens('ab!').finish('stop', 33);
    const stopped = await ask({ stop_token_ids: [33] });
    t.equal(stopped.message.content, 'ab');
    t.equal(stopped.stop_reason, 33);
    const shown = await ask({ stop_token_ids: [33], include_stop_str_in_output: true });
    t.equal(shown.message.content, 'ab!');
  });
  await t.test('streams hold back what may be a stop string', async (t) => {
    engine.script = (stream) => stream.tokens('a<|').tokens('b<|').tokens('end|>').finish('length');
    const body = (await post(URL, { messages, stream: true, stop: '<|end|>' })).body;
    const deltas = events(body)
      .slice(1, -2)
      .map(
        (event) =>
          (event as { choices: [{ delta: { content: string } }] }).choices[0].delta.content,
      );
    t.strictSame(deltas, ['a', '<|b']);
  });
});

t.test('special tokens and incomplete characters', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens([256, 0x61, 0xe2, 0x82]).finish('length');
  const content = async (body: object) =>
    (await post(URL, { messages, ...body })).json().choices[0].message.content;
  t.equal(await content({}), 'a\ufffd');
  t.equal(await content({ skip_special_tokens: false }), '<bos>a\ufffd');
});

t.test('logprobs', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens([0x61, 0xc3, 0xa9]).finish('length');
  const ask = { messages, logprobs: true, top_logprobs: 2 };
  const entry = (text: string, bytes: number[], logprob: number) => ({
    token: text,
    logprob,
    bytes,
  });
  const expected = [
    {
      ...entry('a', [0x61], -0.5),
      top_logprobs: [entry('a', [0x61], -0.5), entry('b', [0x62], -1.5)],
    },
    {
      ...entry('\ufffd', [0xc3], -0.5),
      top_logprobs: [entry('\ufffd', [0xc3], -0.5), entry('\ufffd', [0xc4], -1.5)],
    },
    {
      ...entry('\ufffd', [0xa9], -0.5),
      top_logprobs: [entry('\ufffd', [0xa9], -0.5), entry('\ufffd', [0xaa], -1.5)],
    },
  ];
  t.strictSame((await post(URL, ask)).json().choices[0].logprobs, { content: expected });

  const streamed = events((await post(URL, { ...ask, stream: true })).body).flatMap(
    (event) =>
      (event as { choices?: [{ logprobs: { content: unknown[] } | null }] }).choices?.[0].logprobs
        ?.content ?? [],
  );
  t.strictSame(streamed, expected);

  const none = (await post(URL, { messages, logprobs: true })).json().choices[0].logprobs;
  t.strictSame(none.content[0], { ...entry('a', [0x61], -0.5), top_logprobs: [] });
  const asIds = (
    await post(URL, { messages, logprobs: true, return_tokens_as_token_ids: true })
  ).json();
  t.equal(asIds.choices[0].logprobs.content[0].token, 'token_id:97');
});

t.test('prompt_logprobs and return_token_ids', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.promptLogprobs().tokens('ok').finish('length');
  const body = (await post(URL, { messages, prompt_logprobs: 1, return_token_ids: true })).json();
  t.equal(body.prompt_logprobs.length, PROMPT_TOKENS);
  t.equal(body.prompt_logprobs[0], null);
  t.strictSame(body.prompt_logprobs[1], {
    [String('u'.charCodeAt(0))]: { logprob: -0.5, rank: 1, decoded_token: 'u' },
  });
  t.strictSame(body.prompt_token_ids, [256, ...Buffer.from('user:hi\nassistant:')]);
  t.strictSame(body.choices[0].token_ids, [...Buffer.from('ok')]);

  const chunks = events(
    (await post(URL, { messages, stream: true, return_token_ids: true })).body,
  ) as Array<{ prompt_token_ids?: number[]; choices: [{ token_ids?: number[] }] }>;
  t.strictSame(chunks[0]!.prompt_token_ids, body.prompt_token_ids);
  t.strictSame(chunks[1]!.choices[0].token_ids, [...Buffer.from('ok')]);
});

t.test('messages are handed to the template as it knows them', async (t) => {
  const { engine, text, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.finish();
  await post(URL, {
    messages: [
      { role: 'developer', content: 'rules' },
      {
        role: 'user',
        name: 'Ann',
        content: [
          { type: 'text', text: 'one' },
          { type: 'input_text', text: 'two' },
        ],
      },
      { role: 'assistant', content: [{ type: 'refusal', refusal: 'no' }] },
    ],
    add_generation_prompt: false,
    continue_final_message: true,
    chat_template_kwargs: { enable_thinking: false },
    reasoning_effort: 'low',
  });
  t.strictSame(text.renders, [
    {
      messages: [
        { role: 'system', content: 'rules' },
        {
          role: 'user',
          name: 'Ann',
          content: [
            { type: 'text', text: 'one' },
            { type: 'text', text: 'two' },
          ],
        },
        { role: 'assistant', content: [{ type: 'text', text: 'no' }] },
      ],
      addGenerationPrompt: false,
      continueFinalMessage: true,
      kwargs: { reasoning_effort: 'low', enable_thinking: false },
    },
  ]);
});

t.test('a model without a template says so', async (t) => {
  const { text, post } = await makeServer(t.teardown);
  text.hasChatTemplate = false;
  const response = await post(URL, { messages });
  t.equal(response.statusCode, 400);
  t.equal(response.json().error.longhaul_code, 'ERR_UNSUPPORTED');
});
