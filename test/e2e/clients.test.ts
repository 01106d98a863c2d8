/** Real clients against a real model: the openai package, the AI SDK, raw fetch, ws. */
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateText, streamText } from 'ai';
import OpenAI from 'openai';
import t from 'tap';
import { WebSocket } from 'ws';
import { type RunningServer, startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import { events, get, idleIntegrity, openStream } from './client.js';

const QUESTION = 'Explain recursion in one sentence.';
const model = await testModel('smollm2');

/** What a promise that must reject rejects with. */
const failure = (promise: PromiseLike<unknown>): Promise<unknown> =>
  Promise.resolve(promise).then(
    () => Promise.reject(new Error('resolved, but should have failed')),
    (error: unknown) => error,
  );

t.test('clients', { skip: model.skip }, async (t) => {
  const server: RunningServer = await startServer({
    model: model.path,
    args: ['--served-model-name', 'smol'],
  });
  t.teardown(() => server.stop());
  const messages = [{ role: 'user' as const, content: QUESTION }];

  t.test('openai', async (t) => {
    const openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'none', maxRetries: 0 });

    t.test('models', async (t) => {
      const models = await openai.models.list();
      t.ok(models.data.some((entry) => entry.id === 'smol'));
      t.equal((await openai.models.retrieve('smol')).object, 'model');
      t.type(await failure(openai.models.retrieve('other')), OpenAI.NotFoundError);
    });

    const whole = await openai.chat.completions.create({
      model: 'smol',
      messages,
      temperature: 0,
      max_completion_tokens: 200,
      logprobs: true,
      top_logprobs: 3,
    });
    const answer = whole.choices[0];

    t.test('a chat completion', async (t) => {
      t.match(answer?.message.content, /function/);
      t.equal(answer?.finish_reason, 'stop');
      t.equal(whole.object, 'chat.completion');
      t.ok(whole.id.startsWith('chatcmpl-'));
      const usage = whole.usage;
      t.equal(usage?.total_tokens, (usage?.prompt_tokens ?? 0) + (usage?.completion_tokens ?? 0));
      t.equal(answer?.logprobs?.content?.length, usage?.completion_tokens);
      const wrong = (answer?.logprobs?.content ?? []).filter(
        ({ token, logprob, bytes, top_logprobs: top }) =>
          top.length !== 3 ||
          top[0]?.logprob !== logprob ||
          Buffer.from(bytes ?? []).toString() !== token,
      );
      t.strictSame(wrong, [], 'each token: itself first (greedy) of three, bytes that spell it');
    });

    t.test('the same, streamed', async (t) => {
      const stream = await openai.chat.completions.create({
        model: 'smol',
        messages,
        temperature: 0,
        max_completion_tokens: 200,
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = '';
      let finish: string | null = null;
      let usage: OpenAI.CompletionUsage | null | undefined;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? '';
        finish = chunk.choices[0]?.finish_reason ?? finish;
        usage = chunk.usage ?? usage;
      }
      t.equal(text, answer?.message.content);
      t.equal(finish, 'stop');
      t.equal(usage?.completion_tokens, whole.usage?.completion_tokens);
      t.equal(usage?.prompt_tokens, whole.usage?.prompt_tokens);
    });

    t.test('completions', async (t) => {
      const body = {
        model: 'smol',
        prompt: 'The capital of France is',
        max_tokens: 8,
        temperature: 0,
      };
      const completion = await openai.completions.create(body);
      t.match(completion.choices[0]?.text, /^ Paris/);
      let text = '';
      for await (const chunk of await openai.completions.create({ ...body, stream: true })) {
        text += chunk.choices[0]?.text ?? '';
      }
      t.equal(text, completion.choices[0]?.text);
    });

    t.test('errors arrive as their classes', async (t) => {
      const create = (body: object) =>
        openai.chat.completions.create({
          model: 'smol',
          messages,
          ...body,
        } as OpenAI.ChatCompletionCreateParamsNonStreaming);
      t.type(await failure(create({ temperature: 'hot' })), OpenAI.BadRequestError);
      t.match(await failure(create({ temperature: 'hot' })), { status: 400, param: 'temperature' });
      t.match(await failure(create({ model: 'gpt-9' })), { status: 404, code: 'model_not_found' });
      t.match(await failure(create({ max_tokens: 100_000 })), {
        status: 400,
        code: 'context_length_exceeded',
      });
      const tool = { type: 'function', function: { name: 'f', parameters: {} } };
      t.match(await failure(create({ tools: [tool] })), {
        status: 400,
        code: 'unsupported_parameter',
        param: 'tools',
      });
      t.type(await failure(create({ stream: true, messages: [] })), OpenAI.BadRequestError);
    });

    t.test('an aborted stream frees its blocks', async (t) => {
      const stream = await openai.chat.completions.create({
        model: 'smol',
        messages,
        max_tokens: 4000,
        stream: true,
      });
      for await (const _chunk of stream) break;
      stream.controller.abort();
      t.match(await idleIntegrity(server.url), { ok: true, owned: 0 });
    });
  });

  t.test('AI SDK, openai-compatible provider', async (t) => {
    const provider = createOpenAICompatible({
      name: 'longhaul',
      baseURL: `${server.url}/v1`,
      includeUsage: true,
    });
    const generated = await generateText({
      model: provider('smol'),
      prompt: QUESTION,
      temperature: 0,
      maxOutputTokens: 200,
      maxRetries: 0,
    });
    t.match(generated.text, /function/);
    t.equal(generated.finishReason, 'stop');
    t.ok((generated.usage.outputTokens ?? 0) > 0);
    const streamed = streamText({
      model: provider('smol'),
      prompt: QUESTION,
      temperature: 0,
      maxOutputTokens: 200,
      maxRetries: 0,
    });
    let text = '';
    let deltas = 0;
    for await (const delta of streamed.textStream) {
      text += delta;
      deltas += 1;
    }
    t.equal(text, generated.text);
    t.ok(deltas > 1, 'it streams');
    t.strictSame((await streamed.usage).outputTokens, generated.usage.outputTokens);
    const completed = await generateText({
      model: provider.completionModel('smol'),
      prompt: 'The capital of France is',
      temperature: 0,
      maxOutputTokens: 8,
      maxRetries: 0,
    });
    t.ok(completed.text.length > 0);
    const unknown = generateText({ model: provider('nobody'), prompt: 'Hi', maxRetries: 0 });
    t.match(await failure(unknown), { statusCode: 404 });
  });

  t.test('raw fetch', async (t) => {
    const response = await openStream(`${server.url}/v1/chat/completions`, {
      messages,
      temperature: 0,
      max_tokens: 8,
    });
    t.match(response.headers.get('content-type'), /^text\/event-stream/);
    const data: string[] = [];
    for await (const event of events(response)) data.push(event);
    t.equal(data.at(-1), '[DONE]');
    t.match(JSON.parse(data[0] ?? ''), { choices: [{ delta: { role: 'assistant' } }] });
    const bad = await fetch(`${server.url}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"messages": [',
    });
    t.equal(bad.status, 400);
    t.match(await bad.json(), { error: { longhaul_code: 'ERR_INVALID_REQUEST' } });
    t.equal((await fetch(`${server.url}/no/such/route`)).status, 404);
    t.equal((await get(`${server.url}/health/live`)).status, 200);
  });

  t.test('ws: two generations on a socket, one cancelled', async (t) => {
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}/v1/stream`);
    const frames: Array<Record<string, unknown>> = [];
    const ended = new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.on('message', (data) => {
        const frame = JSON.parse(String(data)) as Record<string, unknown>;
        frames.push(frame);
        if (frame.type === 'chunk' && frame.id === 'long') {
          socket.send(JSON.stringify({ type: 'cancel', id: 'long' }));
        }
        if (frames.filter(({ type }) => type === 'done' || type === 'error').length === 3)
          resolve();
      });
    });
    await new Promise((resolve) => socket.once('open', resolve));
    const generate = (id: string, endpoint: string, body: object) =>
      socket.send(JSON.stringify({ type: 'generate', id, endpoint, body }));
    generate('chat', 'chat.completions', { messages, temperature: 0, max_tokens: 200 });
    generate('long', 'completions', { prompt: 'Count:', max_tokens: 4000, ignore_eos: true });
    generate('bad', 'completions', { prompt: 'x', max_tokens: 'many' });
    await ended;
    socket.close();

    const of = (id: string) => frames.filter((frame) => frame.id === id);
    t.equal(of('chat')[0]?.type, 'accepted');
    t.equal(of('chat').at(-1)?.type, 'done');
    const text = of('chat')
      .filter((frame) => frame.type === 'chunk')
      .map((frame) => (frame.data as OpenAI.ChatCompletionChunk).choices[0]?.delta.content ?? '')
      .join('');
    t.match(text, /function/);
    t.match(of('long').at(-1), { type: 'error', error: { longhaul_code: 'ERR_ABORTED' } });
    t.match(of('bad'), [{ type: 'error', error: { param: 'max_tokens' } }]);
    t.match(await idleIntegrity(server.url), { ok: true, owned: 0 });
  });
});
