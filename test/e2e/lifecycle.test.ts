/** A server's life: quick to its first token, drained by SIGTERM while it streams, clear when it cannot start. */
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import { type ErrorAnswer, events, openStream, post } from './client.js';

/** The promise is 3 s on an idle machine; tests share theirs with other work. */
const FIRST_TOKEN_LIMIT_MS = 15_000;

const model = await testModel('smollm2');

t.test('first token after the process starts', { skip: model.skip }, async (t) => {
  const server = await startServer({ model: model.path });
  t.teardown(() => server.stop());
  const listening = performance.now() - server.startedAt;
  const stream = await openStream(`${server.url}/v1/completions`, {
    prompt: 'Hello',
    max_tokens: 4,
  });
  const first = await events(stream).next();
  const ms = performance.now() - server.startedAt;
  t.match(first.value, /"text_completion"/);
  t.comment(`listening after ${listening.toFixed(0)} ms, first token after ${ms.toFixed(0)} ms`);
  t.ok(ms < FIRST_TOKEN_LIMIT_MS);
});

t.test(
  'SIGTERM drains: readiness red at once, running streams end, exit code 0',
  { skip: model.skip },
  async (t) => {
    const server = await startServer({ model: model.path });
    t.teardown(() => server.stop());
    const streams = await Promise.all(
      ['A', 'B', 'C'].map((prompt) =>
        openStream(`${server.url}/v1/completions`, {
          prompt,
          max_tokens: 250,
          ignore_eos: true,
          stream_options: { include_usage: true },
        }),
      ),
    );
    const readers = streams.map((stream) => events(stream));
    for (const reader of readers) await reader.next();
    t.equal((await fetch(`${server.url}/health/ready`)).status, 200, 'ready before');

    server.kill('SIGTERM');
    // The signal needs a turn of the server's event loop; requests in that turn may still get in.
    await new Promise((resolve) => setTimeout(resolve, 50));
    const ready = await fetch(`${server.url}/health/ready`);
    t.equal(ready.status, 503, 'not ready any more');
    t.match(ready.headers.get('retry-after'), /^\d+$/);
    const refused = await post<ErrorAnswer>(`${server.url}/v1/completions`, {
      prompt: 'D',
      max_tokens: 2,
    });
    t.equal(refused.status, 503);
    t.equal(refused.body.error.longhaul_code, 'ERR_SHUTTING_DOWN');

    for (const reader of readers) {
      let last = '';
      let beforeLast = '';
      for await (const data of reader) {
        beforeLast = last;
        last = data;
      }
      t.equal(last, '[DONE]');
      t.match(JSON.parse(beforeLast), { usage: { completion_tokens: 250 } }, 'every token arrived');
    }
    t.strictSame(await server.exited, { code: 0, signal: null });
  },
);

t.test('what cannot start says why', async (t) => {
  const main = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'src', 'cli', 'main.js');
  const run = (...args: string[]) =>
    spawnSync(process.execPath, [main, ...args], { encoding: 'utf8', timeout: 30_000 });

  const missing = run('serve', '--port', '0', '--model', './no-such-model.gguf');
  t.equal(missing.status, 3, 'a model that does not exist');
  t.match(missing.stdout + missing.stderr, /no-such-model\.gguf/);

  const usage = run('serve', '--no-such-flag');
  t.equal(usage.status, 2, 'a flag that does not exist');
  t.match(usage.stderr, /no-such-flag/);

  t.equal(run('serve', '--port', 'many').status, 2, 'a port that is no number');
  const version = run('--version');
  t.equal(version.status, 0);
  t.match(version.stdout.trim(), /^\d+\.\d+\.\d+/);
});

t.test('a synthetic model needs no file', async (t) => {
  const server = await startServer({ model: null, args: ['--synthetic', 'tiny'] });
  t.teardown(() => server.stop());
  const answer = await post<{ usage: { completion_tokens: number } }>(
    `${server.url}/v1/completions`,
    {
      prompt: [1, 2, 3],
      max_tokens: 5,
      ignore_eos: true,
    },
  );
  t.equal(answer.status, 200);
  t.equal(answer.body.usage.completion_tokens, 5);
});
