/**
 * Arbitrary and nearly right request bodies: the answer is 200, or an error below 500 in our
 * shape, and the server lives on. A failure prints fast-check's seed and path, which rerun it.
 */
import fc from 'fast-check';
import t from 'tap';
import { makeServer } from '../unit/http/harness.js';

const RUNS = Number(process.env.LONGHAUL_FUZZ_RUNS ?? 300);

const token = fc.oneof(fc.integer({ min: -2, max: 300 }), fc.double());
const json = fc.jsonValue({ maxDepth: 4 });
const text = fc.string({ unit: 'binary', maxLength: 60 });

/** A field that is right, nearly right, or anything. */
const field = (right: fc.Arbitrary<unknown>): fc.Arbitrary<unknown> =>
  fc.oneof({ arbitrary: right, weight: 6 }, { arbitrary: json, weight: 1 }, fc.constant(null));

const message = fc.record(
  {
    role: field(fc.constantFrom('system', 'user', 'assistant', 'developer', 'tool', '')),
    content: field(
      fc.oneof(
        text,
        fc.array(
          fc.record(
            {
              type: field(fc.constantFrom('text', 'image_url', 'refusal', '__proto__')),
              text: field(text),
              refusal: field(text),
            },
            { requiredKeys: [] },
          ),
          { maxLength: 3 },
        ),
      ),
    ),
    name: field(text),
  },
  { requiredKeys: ['role'] },
);

const common: Record<string, fc.Arbitrary<unknown>> = {
  model: field(fc.constantFrom('fake', 'org/fake', 'other', '__proto__', 'constructor')),
  stream: field(fc.boolean()),
  stream_options: field(
    fc.record({ include_usage: field(fc.boolean()), include_progress: field(fc.boolean()) }),
  ),
  n: field(fc.integer({ min: -1, max: 5 })),
  temperature: field(fc.double({ min: -1, max: 3 })),
  top_p: field(fc.double({ min: -0.5, max: 1.5 })),
  min_p: field(fc.double({ min: -0.5, max: 1.5 })),
  top_k: field(token),
  repetition_penalty: field(fc.double()),
  frequency_penalty: field(fc.double({ min: -3, max: 3 })),
  presence_penalty: field(fc.double({ min: -3, max: 3 })),
  seed: field(fc.oneof(fc.integer(), fc.double())),
  stop: field(fc.oneof(text, fc.array(text, { maxLength: 5 }))),
  stop_token_ids: field(fc.array(token, { maxLength: 4 })),
  include_stop_str_in_output: field(fc.boolean()),
  min_tokens: field(fc.integer({ min: -1, max: 20 })),
  max_tokens: field(fc.integer({ min: -1, max: 300 })),
  ignore_eos: field(fc.boolean()),
  skip_special_tokens: field(fc.boolean()),
  logit_bias: field(fc.dictionary(fc.oneof(text, fc.nat(300).map(String)), token)),
  prompt_logprobs: field(fc.integer({ min: -1, max: 21 })),
  return_token_ids: field(fc.boolean()),
  return_tokens_as_token_ids: field(fc.boolean()),
  add_special_tokens: field(fc.boolean()),
  priority: field(fc.integer()),
  cache_salt: field(text),
  best_of: field(fc.nat(3)),
  attention: field(fc.constantFrom('exact', 'auto', 'squeezed')),
  response_format: field(fc.record({ type: field(fc.constantFrom('text', 'json_object')) })),
};

const chatBody = fc.record(
  {
    ...common,
    messages: field(fc.array(message, { maxLength: 4 })),
    logprobs: field(fc.boolean()),
    top_logprobs: field(fc.integer({ min: -1, max: 21 })),
    max_completion_tokens: field(fc.integer({ min: -1, max: 300 })),
    tools: field(fc.array(json, { maxLength: 1 })),
    tool_choice: field(fc.constantFrom('none', 'auto', 'required')),
    chat_template_kwargs: field(fc.dictionary(text, json)),
    continue_final_message: field(fc.boolean()),
  },
  { requiredKeys: ['messages'] },
);

const completionBody = fc.record(
  {
    ...common,
    prompt: field(
      fc.oneof(
        text,
        fc.array(token, { maxLength: 5 }),
        fc.array(text, { maxLength: 3 }),
        fc.array(fc.array(token, { maxLength: 3 }), { maxLength: 3 }),
      ),
    ),
    logprobs: field(fc.integer({ min: -1, max: 21 })),
    echo: field(fc.boolean()),
    suffix: field(text),
  },
  { requiredKeys: ['prompt'] },
);

const tokenizeBody = fc.record(
  {
    prompt: field(text),
    messages: field(fc.array(message, { maxLength: 2 })),
    return_token_strs: field(fc.boolean()),
    tokens: field(fc.array(token, { maxLength: 5 })),
  },
  { requiredKeys: [] },
);

const request = fc.oneof(
  fc.tuple(fc.constant('/v1/chat/completions'), chatBody),
  fc.tuple(fc.constant('/v1/completions'), completionBody),
  fc.tuple(fc.constantFrom('/tokenize', '/detokenize'), tokenizeBody),
  fc.tuple(fc.constantFrom('/v1/chat/completions', '/v1/completions', '/tokenize'), json),
);

const ERROR_FIELDS = ['message', 'type', 'param', 'code', 'longhaul_code'];

t.test('bodies', async (t) => {
  const { engine, post } = await makeServer(t.teardown, { logLevel: 'silent' });
  engine.script = (stream) => {
    if (stream.request.sampling.numPromptLogprobs >= 0) stream.promptLogprobs();
    stream.progress(1, 1);
    const { maxTokens } = stream.request.sampling;
    for (const id of [0xe2, 0x82, 0xac, 259, 0x2e, 256].slice(0, maxTokens)) {
      if (!stream.ended) stream.tokens([id]);
    }
    stream.finish('length');
  };
  const statuses = new Map<number, number>();
  const check = async (url: string, payload: string) => {
    const response = await post(url, payload);
    statuses.set(response.statusCode, (statuses.get(response.statusCode) ?? 0) + 1);
    if (response.statusCode === 200) {
      if (/event-stream/.test(String(response.headers['content-type']))) {
        if (!response.body.endsWith('data: [DONE]\n\n')) throw new Error(response.body);
      } else {
        response.json();
      }
      return;
    }
    if (response.statusCode < 400 || response.statusCode >= 500) {
      throw new Error(`${response.statusCode} ${response.body}`);
    }
    const { error } = response.json();
    if (Object.keys(error).join() !== ERROR_FIELDS.join()) throw new Error(response.body);
  };
  await fc.assert(
    fc.asyncProperty(request, ([url, body]) => {
      engine.streams.length = 0;
      return check(url, JSON.stringify(body) ?? 'null');
    }),
    { numRuns: RUNS },
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom('/v1/chat/completions', '/v1/completions', '/detokenize'),
      fc.oneof(
        fc.string({ unit: 'binary' }),
        fc.json().map((text) => text.slice(0, -1)),
      ),
      (url, payload) => check(url, payload),
    ),
    { numRuns: RUNS },
  );
  // The generators reach both sides of the checks, or this test would prove little.
  t.ok((statuses.get(200) ?? 0) > 0, `200: ${statuses.get(200)}`);
  t.ok((statuses.get(400) ?? 0) > 0, `400: ${statuses.get(400)}`);
});
