/**
 * The server over the CUDA backend on a machine without a GPU: `--backend cuda-emulated`, a plug-in
 * that `npm run build:emulated` builds. Random weights of a shape that the kernels serve.
 */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { loadAddon } from '../../src/binding/addon.js';
import { type RunningServer, startServer } from '../support/start-server.js';
import {
  complete,
  type ErrorAnswer,
  events,
  firstChoice,
  get,
  idleIntegrity,
  openStream,
  post,
} from './client.js';

const SHAPE = 'hidden=128,intermediate=192,heads=2,kv_heads=1,head_dim=64,layers=2,vocab=512';
const ARGS = ['--backend', 'cuda-emulated', '--synthetic', SHAPE, '--check'];
const SIZES = ['--max-num-seqs', '8', '--max-num-batched-tokens', '96', '--max-model-len', '512'];
const start = (args: string[] = [], env: Record<string, string> = {}): Promise<RunningServer> =>
  startServer({ model: null, args: [...ARGS, ...SIZES, ...args], env });

const emulated = loadAddon().probeBackend('cuda-emulated');
const skip = emulated.usable ? false : emulated.reason;

interface Chat {
  choices: Array<{ message: { role: string; content: string }; finish_reason: string }>;
  usage: { completion_tokens: number; prompt_tokens_details: { cached_tokens: number } };
}

t.test('a server on the emulated device', { skip }, async (t) => {
  const server = await start();
  t.teardown(() => server.stop());
  const chat = `${server.url}/v1/chat/completions`;
  const question = { messages: [{ role: 'user', content: 'Where does the river end?' }] };

  t.test('says what it runs on', async (t) => {
    t.match(
      server.logs.find(({ event }) => event === 'model'),
      {
        backend: 'cuda-emulated',
        backendReason: 'asked for',
        device: 'emulated',
        isa: 'sm_90',
        kvDtype: 'f16',
      },
    );
  });

  t.test('answers a chat, and again from the prefix cache', async (t) => {
    const ask = () => post<Chat>(chat, { ...question, max_tokens: 12, temperature: 0 });
    const first = await ask();
    t.equal(first.status, 200);
    t.equal(first.body.choices[0]?.message.role, 'assistant');
    t.equal(first.body.choices[0]?.finish_reason, 'length');
    t.equal(first.body.usage.completion_tokens, 12);
    const second = await ask();
    t.equal(second.body.choices[0]?.message.content, first.body.choices[0]?.message.content);
    t.ok(second.body.usage.prompt_tokens_details.cached_tokens >= 32);
  });

  t.test('streams beside each other say what they say alone', async (t) => {
    const bodies = [3, 40, 90].map((length) => ({
      prompt: Array.from({ length }, (_, i) => 300 + ((i * 7 + length) % 200)),
      max_tokens: 10,
      temperature: 0,
      ignore_eos: true,
      return_token_ids: true,
    }));
    const together = await Promise.all(bodies.map((body) => complete(server.url, body)));
    for (const [index, body] of bodies.entries()) {
      const alone = firstChoice(await complete(server.url, body));
      // Another bucket of rows may round differently, so a near tie may fall the other way late.
      t.same(
        firstChoice(together[index]!).token_ids?.slice(0, 3),
        alone.token_ids?.slice(0, 3),
        `${body.prompt.length} tokens`,
      );
      t.equal(firstChoice(together[index]!).token_ids?.length, 10);
    }
  });

  t.test('draws with penalties and log-probabilities', async (t) => {
    const choice = firstChoice(
      await complete(server.url, {
        prompt: 'once upon a time',
        max_tokens: 8,
        temperature: 0.7,
        top_p: 0.9,
        seed: 11,
        frequency_penalty: 0.5,
        repetition_penalty: 1.1,
        logprobs: 5,
      }),
    );
    t.ok((choice.logprobs?.token_logprobs.length ?? 0) > 0);
    for (const value of choice.logprobs?.token_logprobs ?? []) {
      t.ok(Number.isFinite(value) && (value as number) <= 0);
    }
  });

  t.test('a client that leaves takes its work along', async (t) => {
    const controller = new AbortController();
    const stream = await openStream(
      `${server.url}/v1/completions`,
      { prompt: 'count', max_tokens: 400, ignore_eos: true },
      controller.signal,
    );
    const reader = events(stream);
    for (let count = 0; count < 3; count += 1) await reader.next();
    controller.abort();
    t.match(await idleIntegrity(server.url), { ok: true, owned: 0 });
  });
});

t.test('each 8-bit cache serves too', { skip }, async (t) => {
  for (const dtype of ['q8', 'fp8']) {
    const server = await start(['--kv-dtype', dtype]);
    const answer = await complete(server.url, { prompt: 'hello', max_tokens: 4 });
    t.ok(answer.usage.completion_tokens > 0, dtype);
    t.match((await server.stop()).code, 0);
  }
});

t.test('a failing device ends every stream with its error', { skip }, async (t) => {
  // Late enough for the answer to have begun.
  const server = await start([], { LONGHAUL_SIMT_FAIL: 'run:300' });
  t.teardown(() => server.stop());
  const stream = await openStream(`${server.url}/v1/completions`, {
    prompt: 'count',
    max_tokens: 400,
    ignore_eos: true,
  });
  const seen: string[] = [];
  for await (const event of events(stream)) seen.push(event);
  const last = JSON.parse(seen.filter((event) => event !== '[DONE]').at(-1) ?? '{}') as ErrorAnswer;
  t.equal(last.error?.longhaul_code, 'ERR_DEVICE');
  t.ok(seen.length > 3, 'after some tokens');
  // Nothing is begun on a lost device, and no other one takes its place.
  const next = await post<ErrorAnswer>(`${server.url}/v1/completions`, { prompt: 'again' });
  t.ok(next.status >= 500, `${next.status} ${next.body.error.longhaul_code}`);
  t.equal((await get(`${server.url}/health/ready`)).status, 503);
});

t.test('a device without room ends the start with 4', { skip }, async (t) => {
  const main = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'src', 'cli', 'main.js');
  const { status, stderr } = spawnSync(
    process.execPath,
    [main, 'serve', '--port', '0', ...ARGS, ...SIZES],
    { env: { ...process.env, LONGHAUL_SIMT_MEMORY: '4MiB' }, encoding: 'utf8' },
  );
  t.equal(status, 4);
  t.match(stderr, /emulated: the model needs \d+ bytes .* but \d+ are free: \d+ are missing/);
});
