/** longhaul serve: from start to drained, on random weights. */
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { start } from './run-cli.js';

// Each start of the program costs seconds on a busy machine.
t.setTimeout(180_000);

t.test('serve: listens, answers, drains on SIGTERM with 0', async (t) => {
  const server = start([
    'serve',
    '--synthetic',
    'tiny',
    '--port',
    '0',
    '--kv-memory',
    '32MiB',
    '--served-model-name',
    'toy',
  ]);
  const { url } = JSON.parse(await server.line('"event":"listening"'));
  t.match(url, /^http:\/\/127\.0\.0\.1:\d+$/);
  const models = (await (await fetch(`${url}/v1/models`)).json()) as {
    data: Array<{ id: string }>;
  };
  t.equal(models.data[0]!.id, 'toy');
  const body = { model: 'toy', prompt: 'hello', max_tokens: 4, temperature: 0, ignore_eos: true };
  const answer = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    body: JSON.stringify(body),
  });
  t.equal(answer.status, 200);
  const { usage } = (await answer.json()) as {
    usage: { prompt_tokens: number; completion_tokens: number };
  };
  t.same([usage.prompt_tokens, usage.completion_tokens], [5, 4], 'one token a byte');
  server.kill('SIGTERM');
  const { code, stdout } = await server.ended;
  t.equal(code, 0);
  t.match(stdout, /"event":"draining"[\s\S]*"event":"drained"/);
});

t.test(
  'serve: a running request is finished while draining; a second signal ends at once',
  async (t) => {
    const body = {
      prompt: 'hello',
      max_tokens: 100_000,
      temperature: 0,
      ignore_eos: true,
      stream: true,
    };
    for (const signals of [1, 2]) {
      const server = start([
        ...['serve', '--synthetic', 'tiny', '--port', '0', '--kv-memory', '32MiB'],
        ...['--max-model-len', '3000', '--heartbeat-ms', '100'],
      ]);
      const { url } = JSON.parse(await server.line('"event":"listening"'));
      const request = { ...body, max_tokens: signals === 1 ? 800 : 2900 };
      const answer = await fetch(`${url}/v1/completions`, {
        method: 'POST',
        body: JSON.stringify(request),
      });
      const reader = answer.body!.getReader();
      await reader.read();
      server.kill('SIGTERM');
      await server.line('"event":"draining"');
      if (signals === 2) {
        server.kill('SIGTERM');
        const { code, stdout } = await server.ended;
        t.equal(code, 1);
        t.match(stdout, /"event":"forced"/);
        continue;
      }
      let text = '';
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        text += Buffer.from(value).toString();
      }
      t.match(text, /"finish_reason":"length"[\s\S]*\[DONE\]\n\n$/, 'the answer is whole');
      t.equal((await server.ended).code, 0);
    }
  },
);

t.test('serve: a port in use ends with 2', async (t) => {
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve));
  t.teardown(() => other.close());
  const port = String((other.address() as AddressInfo).port);
  const { code, stderr } = await start([
    'serve',
    '--synthetic',
    'tiny',
    '--kv-memory',
    '32MiB',
    '--port',
    port,
  ]).ended;
  t.equal(code, 2);
  t.match(stderr, /EADDRINUSE/);
});

t.test(
  'serve: without any source the default model gives way to a synthetic one, loudly',
  async (t) => {
    const folder = t.testdir();
    const python = join(folder, 'python3');
    writeFileSync(python, '#!/bin/sh\necho "ERROR: no index" >&2\nexit 1\n', { mode: 0o755 });
    const server = start(['serve', '--port', '0', '--kv-memory', '64MiB'], {
      LONGHAUL_CACHE_DIR: join(folder, 'cache'),
      LONGHAUL_PYTHON: python,
      HF_HUB_OFFLINE: '1',
    });
    await server.line('"event":"listening"');
    t.match(
      await server.line('synthetic-fallback'),
      /"level":"error".*RANDOM WEIGHTS.*longhaul pull/,
    );
    server.kill('SIGINT');
    t.equal((await server.ended).code, 0);
  },
);
