/**
 * A client that leaves takes its work with it: in the queue, in prefill and in decode. What is
 * asserted is that blocks and queue places come back soon; how soon is printed.
 */
import t from 'tap';
import { readText } from '../support/golden-files.js';
import { type RunningServer, startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import {
  complete,
  events,
  get,
  idleIntegrity,
  openStream,
  ownedBlocks,
  post,
  waitUntil,
} from './client.js';

/** The promise is 100 ms; a shared test machine gets five times that before it counts as a fault. */
const RELEASE_LIMIT_MS = 500;

interface Progress {
  step: number;
  has_work: boolean;
  running: number;
  waiting: number;
}
const progress = async (url: string): Promise<Progress> =>
  (await get<Progress>(`${url}/health/progress`)).body;

const model = await testModel('smollm2');

t.test('clients that leave', { skip: model.skip }, async (t) => {
  const server: RunningServer = await startServer({
    model: model.path,
    args: ['--max-num-seqs', '1', '--max-queue-requests', '2', '--check'],
  });
  t.teardown(() => server.stop());
  const completions = `${server.url}/v1/completions`;
  const released = () =>
    waitUntil('no block is owned', async () => (await ownedBlocks(server.url)) === 0, 10_000);
  const longPrompt = readText('python-reference').repeat(3).slice(0, 24_000);

  t.test('in decode', async (t) => {
    const controller = new AbortController();
    const stream = await openStream(
      completions,
      { prompt: 'Count:', max_tokens: 4000, ignore_eos: true },
      controller.signal,
    );
    const reader = events(stream);
    for (let count = 0; count < 5; count += 1) await reader.next();
    t.ok((await ownedBlocks(server.url)) > 0, 'the sequence owns blocks while it runs');
    controller.abort();
    const ms = await released();
    t.comment(`released ${ms.toFixed(0)} ms after the hang-up`);
    t.ok(ms < RELEASE_LIMIT_MS, `released within ${RELEASE_LIMIT_MS} ms`);
  });

  t.test('in prefill', async (t) => {
    const controller = new AbortController();
    const answer = post(completions, { prompt: longPrompt, max_tokens: 4 }, controller.signal);
    await waitUntil('prefill has begun', async () => (await ownedBlocks(server.url)) > 0, 10_000);
    controller.abort();
    await t.rejects(answer, { name: 'AbortError' });
    const ms = await released();
    t.comment(`released ${ms.toFixed(0)} ms after the hang-up`);
    t.ok(ms < RELEASE_LIMIT_MS, `released within ${RELEASE_LIMIT_MS} ms`);
  });

  t.test('in the queue, while another runs undisturbed', async (t) => {
    const running = complete(server.url, { prompt: 'Once', max_tokens: 150, ignore_eos: true });
    await waitUntil(
      'the first runs',
      async () => (await progress(server.url)).running === 1,
      10_000,
    );
    const controller = new AbortController();
    const waiting = post(completions, { prompt: 'Twice', max_tokens: 4 }, controller.signal);
    await waitUntil(
      'the second waits',
      async () => (await progress(server.url)).waiting === 1,
      5_000,
    );
    controller.abort();
    await t.rejects(waiting, { name: 'AbortError' });
    const ms = await waitUntil(
      'the queue is empty',
      async () => (await progress(server.url)).waiting === 0,
      5_000,
    );
    t.comment(`left the queue ${ms.toFixed(0)} ms after the hang-up`);
    t.ok(ms < RELEASE_LIMIT_MS);
    t.equal((await running).usage.completion_tokens, 150, 'the other request got all its tokens');
  });

  t.test('a full queue refuses, and says when to come back', async (t) => {
    const controller = new AbortController();
    const held = ['one', 'two', 'three'].map((prompt) =>
      post(completions, { prompt, max_tokens: 3000, ignore_eos: true }, controller.signal).catch(
        (error: Error) => error.name,
      ),
    );
    await waitUntil(
      'one runs, two wait',
      async () => (await progress(server.url)).waiting === 2,
      10_000,
    );
    const refused = await post(completions, { prompt: 'four', max_tokens: 4 });
    t.equal(refused.status, 429);
    t.match(refused.body, {
      error: {
        type: 'rate_limit_error',
        code: 'rate_limit_exceeded',
        longhaul_code: 'ERR_QUEUE_FULL',
      },
    });
    const retryAfter = refused.headers.get('retry-after');
    t.match(retryAfter, /^\d+$/, 'whole seconds');
    t.ok(Number(retryAfter) >= 1 && Number(retryAfter) <= 600);
    const before = (await progress(server.url)).step;
    await waitUntil(
      'the step counter moves',
      async () => (await progress(server.url)).step > before,
      5_000,
    );
    controller.abort();
    t.strictSame(await Promise.all(held), ['AbortError', 'AbortError', 'AbortError']);
  });

  t.test('nothing is left behind', async (t) => {
    t.match(await idleIntegrity(server.url), { ok: true, owned: 0, moving: 0 });
    t.match(await progress(server.url), { has_work: false, running: 0, waiting: 0 });
    const after = await complete(server.url, { prompt: 'And on', max_tokens: 3, ignore_eos: true });
    t.equal(after.usage.completion_tokens, 3, 'the server goes on serving');
  });
});
