import t from 'tap';
import { FakeEngine } from '../../support/fake-engine.js';
import { BOS, EOS, THE } from '../../support/fake-text-service.js';
import { events, makeServer } from './harness.js';

const URL = '/v1/completions';

t.test('a whole answer has exactly the documented fields', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('ok').finish('length');
  const body = (await post(URL, { prompt: 'hi' })).json();
  t.match(body.id, /^cmpl-[0-9a-f]{32}$/);
  t.strictSame(
    { ...body, id: 'ID', created: 0 },
    {
      id: 'ID',
      object: 'text_completion',
      created: 0,
      model: 'org/fake',
      choices: [
        { index: 0, text: 'ok', logprobs: null, finish_reason: 'length', stop_reason: null },
      ],
      usage: {
        prompt_tokens: 3,
        completion_tokens: 2,
        total_tokens: 5,
        prompt_tokens_details: { cached_tokens: 0 },
      },
    },
  );
  t.strictSame([...engine.streams[0]!.request.promptTokens], [BOS, ...Buffer.from('hi')]);
  t.equal(engine.streams[0]!.request.sampling.maxTokens, 16);
});

t.test('a stream is exactly these bytes', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens('a').tokens([0xc3]).tokens([0xa9]).finish('stop', EOS);
  const { body } = await post(URL, { prompt: 'hi', stream: true });
  const { id, created } = JSON.parse(body.split('\n')[0]!.slice('data: '.length));
  const chunk = (text: string, finish: string) =>
    `data: {"id":"${id}","object":"text_completion","created":${created},"model":"org/fake",` +
    `"choices":[{"index":0,"text":"${text}","logprobs":null,"finish_reason":${finish},"stop_reason":null}]}\n\n`;
  t.equal(body, `${chunk('a', 'null')}${chunk('é', 'null')}${chunk('', '"stop"')}data: [DONE]\n\n`);
});

t.test('every form of prompt', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) =>
    stream.tokens(`<${stream.request.promptTokens.length}>`).finish('length');
  const ask = async (prompt: unknown, rest: object = {}) => {
    engine.streams.length = 0;
    const body = (await post(URL, { prompt, ...rest })).json();
    return {
      texts: body.choices.map((choice: { text: string }) => choice.text),
      usage: [body.usage.prompt_tokens, body.usage.completion_tokens],
      prompts: engine.streams.map((stream) => [...stream.request.promptTokens]),
    };
  };
  t.strictSame(await ask([5, 6, 7]), { texts: ['<3>'], usage: [3, 3], prompts: [[5, 6, 7]] });
  t.strictSame(await ask(['a', 'bc']), {
    texts: ['<2>', '<3>'],
    usage: [5, 6],
    prompts: [
      [BOS, 97],
      [BOS, 98, 99],
    ],
  });
  t.strictSame(await ask([[1], [2, 3]], { n: 2 }), {
    texts: ['<1>', '<1>', '<2>', '<2>'],
    usage: [3, 12],
    prompts: [[1], [1], [2, 3], [2, 3]],
  });
  t.strictSame((await ask('a', { add_special_tokens: false })).prompts, [[97]]);
  t.strictSame((await ask('')).prompts, [[BOS]]);
});

t.test('choice k of every prompt is drawn with seed + k', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.finish('length');
  await post(URL, { prompt: [[1], [2]], n: 2, seed: 10 });
  t.strictSame(
    engine.streams.map((stream) => stream.request.sampling.seed),
    [10n, 11n, 10n, 11n],
  );
});

t.test('logprobs with text offsets', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.tokens([THE]).tokens('a').finish('length');
  const choice = (await post(URL, { prompt: [1], logprobs: 1 })).json().choices[0];
  t.strictSame(choice.logprobs, {
    tokens: ['the ', 'a'],
    token_logprobs: [-0.5, -0.5],
    // The fake's likeliest alternative of token 259 is token 3.
    top_logprobs: [{ 'the ': -0.5, '\u0003': -0.5 }, { a: -0.5 }],
    text_offset: [0, 4],
  });
  const none = (await post(URL, { prompt: [1], logprobs: 0 })).json().choices[0];
  t.strictSame(none.logprobs.top_logprobs, [{ 'the ': -0.5 }, { a: -0.5 }]);

  const streamed = events((await post(URL, { prompt: [1], logprobs: 1, stream: true })).body);
  t.strictSame(
    streamed
      .slice(0, 2)
      .map((event) => (event as { choices: [{ logprobs: unknown }] }).choices[0].logprobs),
    [
      {
        tokens: ['the '],
        token_logprobs: [-0.5],
        top_logprobs: [{ 'the ': -0.5, '\u0003': -0.5 }],
        text_offset: [0],
      },
      { tokens: ['a'], token_logprobs: [-0.5], top_logprobs: [{ a: -0.5 }], text_offset: [4] },
    ],
  );
});

t.test(
  'a token that only begins a character has its own chunk where tokens are asked for',
  async (t) => {
    const { engine, post } = await makeServer(t.teardown);
    engine.script = (stream) => stream.tokens([0xc3]).tokens([0xa9]).finish('length');
    const pieces = async (rest: object) =>
      (
        events((await post(URL, { prompt: [1], stream: true, ...rest })).body).slice(
          0,
          -1,
        ) as Array<{
          choices: [{ text: string; token_ids?: number[]; logprobs: { tokens: string[] } | null }];
        }>
      ).map(({ choices: [choice] }) => [choice.text, choice.token_ids ?? choice.logprobs?.tokens]);
    t.strictSame(await pieces({}), [
      ['é', undefined],
      ['', undefined],
    ]);
    t.strictSame(await pieces({ return_token_ids: true }), [
      ['', [0xc3]],
      ['é', [0xa9]],
      ['', []],
    ]);
    t.strictSame(await pieces({ logprobs: 0 }), [
      ['', ['\ufffd']],
      ['é', ['\ufffd']],
      ['', undefined],
    ]);
  },
);

t.test('an impossible token is -9999, not null', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) =>
    stream
      .push({
        type: 'tokens',
        tokens: [
          { tokenId: 97, logprob: -Infinity, rank: 260, top: [{ tokenId: 98, logprob: 0 }] },
        ],
      })
      .finish('length');
  const { logprobs } = (await post(URL, { prompt: [1], logprobs: 1 })).json().choices[0];
  t.strictSame(logprobs.token_logprobs, [-9999]);
  t.strictSame(logprobs.top_logprobs, [{ b: 0, a: -9999 }]);
});

t.test('echo', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => {
    if (stream.request.sampling.numPromptLogprobs >= 0) stream.promptLogprobs();
    if (stream.request.sampling.maxTokens > 0) stream.tokens('!');
    stream.finish('length');
  };
  await t.test('repeats the text as written, ids as text', async (t) => {
    t.equal((await post(URL, { prompt: 'hé', echo: true })).json().choices[0].text, 'hé!');
    t.equal((await post(URL, { prompt: [97, 98], echo: true })).json().choices[0].text, 'ab!');
  });
  await t.test('with logprobs scores the prompt too', async (t) => {
    const { logprobs } = (await post(URL, { prompt: 'ab', echo: true, logprobs: 0 })).json()
      .choices[0];
    t.strictSame(logprobs, {
      tokens: ['<bos>', 'a', 'b', '!'],
      token_logprobs: [null, -0.5, -0.5, -0.5],
      top_logprobs: [null, { a: -0.5 }, { b: -0.5 }, { '!': -0.5 }],
      text_offset: [0, 5, 6, 7],
    });
    t.equal(engine.streams.at(-1)!.request.sampling.numPromptLogprobs, 0);
  });
  await t.test('max_tokens 0 only scores', async (t) => {
    const body = (await post(URL, { prompt: 'ab', echo: true, logprobs: 0, max_tokens: 0 })).json();
    t.equal(body.choices[0].text, 'ab');
    t.equal(body.choices[0].finish_reason, 'length');
    t.equal(body.choices[0].logprobs.tokens.length, 3);
    t.equal(body.usage.completion_tokens, 0);
    t.equal(engine.streams.at(-1)!.request.sampling.maxTokens, 0);
  });
  await t.test('streams the prompt first', async (t) => {
    const chunks = events(
      (await post(URL, { prompt: 'ab', echo: true, logprobs: 0, stream: true })).body,
    ) as Array<{ choices: [{ text: string; logprobs: { tokens: string[] } }] }>;
    t.strictSame(
      chunks.slice(0, 2).map(({ choices: [choice] }) => [choice.text, choice.logprobs.tokens]),
      [
        ['ab', ['<bos>', 'a', 'b']],
        ['!', ['!']],
      ],
    );
  });
});

t.test('prompt_logprobs and return_token_ids', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => {
    if (stream.request.sampling.numPromptLogprobs >= 0) stream.promptLogprobs();
    stream.tokens('!').finish('length');
  };
  const choice = (
    await post(URL, { prompt: [97, 98], prompt_logprobs: 2, return_token_ids: true })
  ).json().choices[0];
  t.strictSame(choice.prompt_logprobs, [
    null,
    {
      98: { logprob: -0.5, rank: 1, decoded_token: 'b' },
      99: { logprob: -1.5, rank: 2, decoded_token: 'c' },
    },
  ]);
  t.strictSame(choice.prompt_token_ids, [97, 98]);
  t.strictSame(choice.token_ids, [33]);

  const chunks = events(
    (await post(URL, { prompt: [97], return_token_ids: true, stream: true })).body,
  ) as Array<{ choices: [Record<string, unknown>] }>;
  t.strictSame(chunks[0]!.choices[0].prompt_token_ids, [97]);
  t.strictSame(chunks[0]!.choices[0].token_ids, [33]);
  t.notOk('prompt_token_ids' in chunks[1]!.choices[0]);
});

t.test('the default of 16 tokens shrinks to the room that is left', async (t) => {
  const { engine, post } = await makeServer(t.teardown);
  engine.script = (stream) => stream.finish('length');
  await post(URL, { prompt: new Array(250).fill(1) });
  t.equal(engine.streams[0]!.request.sampling.maxTokens, 6);
});

t.test('a long prompt is scored whole', async (t) => {
  const limit = 1 << 20;
  const engine = new FakeEngine();
  engine.limits = { ...engine.limits, maxModelLen: limit, kvTokens: limit };
  engine.script = (stream) => stream.promptLogprobs().tokens('x').finish('length');
  const { post } = await makeServer(
    t.teardown,
    { bodyLimitBytes: 1 << 24 },
    {
      engine,
      model: { id: 'm', aliases: [], createdSeconds: 0, maxModelLen: limit, defaults: {} },
    },
  );
  const prompt = new Array(300_000).fill(97);
  const body = (await post(URL, { prompt, max_tokens: 1, echo: true, logprobs: 0 })).json();
  t.equal(body.choices[0].text.length, 300_001);
  t.equal(body.choices[0].logprobs.text_offset.at(-1), 300_000);
});

t.test('a list of prompts is bounded', async (t) => {
  const { post } = await makeServer(t.teardown);
  const many = await post(URL, { prompt: new Array(129).fill('a') });
  t.equal(many.statusCode, 400);
  t.match(many.json().error.message, 'prompt: expected at most 128 prompts times n');
});
