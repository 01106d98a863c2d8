/** The command line as users meet it: a child process, its output and its exit code. */
import { spawn, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { SERVE_FLAGS, variableOf } from '../../../src/config.js';
import { packageVersion } from '../../../src/http/version.js';

const MAIN = join(
  dirname(fileURLToPath(import.meta.url)),
  '..',
  '..',
  '..',
  'src',
  'cli',
  'main.js',
);

interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

function cleanEnv(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const env = Object.entries(process.env).filter(([name]) => !/^(LONGHAUL_|HF_)/.test(name));
  return { ...Object.fromEntries(env), NO_COLOR: '1', ...extra };
}

function run(args: string[], env: NodeJS.ProcessEnv = {}): Outcome {
  const result = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    env: cleanEnv(env),
    timeout: 60_000,
  });
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}

t.test('--version and --help', async (t) => {
  t.same(run(['--version']), { code: 0, stdout: `${packageVersion()}\n`, stderr: '' });
  const help = run(['--help']);
  t.equal(help.code, 0);
  for (const command of ['serve', 'chat', 'pull', 'doctor'])
    t.match(help.stdout, new RegExp(`^  ${command} `, 'm'));
  const serve = run(['serve', '--help']);
  t.equal(serve.code, 0);
  for (const flag of SERVE_FLAGS) {
    t.match(serve.stdout, new RegExp(`--${flag.name}[ \\n]`), flag.name);
    t.ok(serve.stdout.includes(`[${variableOf(flag)}]`), variableOf(flag));
  }
  for (const command of ['chat', 'pull', 'doctor']) t.equal(run([command, '--help']).code, 0);
});

t.test('usage errors end with 2 and name what is wrong', async (t) => {
  const refuse = (args: string[], message: RegExp, env: NodeJS.ProcessEnv = {}): void => {
    const { code, stderr } = run(args, env);
    t.equal(code, 2, args.join(' '));
    t.match(stderr, message);
  };
  refuse([], /Usage: longhaul/);
  refuse(['dance'], /unknown command 'dance'/);
  refuse(['serve', '--bogus'], /unknown option '--bogus'/);
  refuse(
    ['serve', '--port', '70000'],
    /--port: expected a whole number from 0 to 65535, received "70000"/,
  );
  refuse(['serve'], /LONGHAUL_MAX_NUM_SEQS: expected a whole number/, {
    LONGHAUL_MAX_NUM_SEQS: '0',
  });
  refuse(['serve', '--synthetic', 'nope'], /synthetic shape: expected one of tiny/);
  refuse(
    ['serve', '--synthetic', 'tiny', '--chat-template', '/no/such.jinja'],
    /--chat-template: expected a readable file/,
  );
  refuse(['chat', '--temperature', 'hot'], /--temperature: expected a number from 0 to 2/);
});

t.test('model failures end with 3', async (t) => {
  const folder = t.testdir({ 'm.gguf': 'not a model' });
  const missing = run(['serve', '--model', '/no/such.gguf', '--port', '0']);
  t.equal(missing.code, 3);
  t.match(missing.stderr, /"\/no\/such\.gguf": expected a path that exists/);
  const damaged = run(['serve', '--model', join(folder, 'm.gguf'), '--port', '0']);
  t.equal(damaged.code, 3);
  t.match(damaged.stderr, /m\.gguf: magic at offset 0: expected "GGUF"/);
  t.match(damaged.stdout, /"event":"start-failed"/);
  const pull = run(['pull', 'no/such'], { LONGHAUL_CACHE_DIR: folder });
  t.equal(pull.code, 3);
  t.match(pull.stderr, /Did you mean hf:no\/such\?/);
});

t.test('a backend that is not here ends with 4', async (t) => {
  const { code, stderr } = run([
    'serve',
    '--synthetic',
    'tiny',
    '--backend',
    'cuda',
    '--port',
    '0',
  ]);
  t.equal(code, 4);
  t.match(stderr, /--backend cuda: this version has no CUDA plug-in/);
});

t.test('pull: the path on stdout, progress on stderr', async (t) => {
  const folder = t.testdir();
  const server = createServer((_request, response) => response.end('weights'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/m.gguf`;
  const { code, stdout, stderr } = await start(['pull', url], { LONGHAUL_CACHE_DIR: folder }).ended;
  t.equal(code, 0, stderr);
  t.equal(readFileSync(stdout.trim(), 'utf8'), 'weights');
  t.match(stderr, /^m\.gguf: 7B of 7B \(100%\)$/m);
  const quiet = await start(['pull', '--quiet', url], { LONGHAUL_CACHE_DIR: folder }).ended;
  t.same(quiet, { code: 0, stdout, stderr: '' });
});

t.test('doctor: text and JSON agree', async (t) => {
  const folder = t.testdir();
  const { code, stdout } = run(['doctor', '--json'], { LONGHAUL_CACHE_DIR: folder });
  const report = JSON.parse(stdout);
  t.equal(report.version, packageVersion());
  t.equal(report.cache.folder, folder);
  t.same(
    report.backends.map((backend: { name: string }) => backend.name),
    ['cpu', 'cuda', 'cuda-emulated'],
  );
  t.equal(code, report.addon.error === null ? 0 : 4);
  const text = run(['doctor'], { LONGHAUL_CACHE_DIR: folder });
  t.equal(text.code, code);
  t.ok(text.stdout.includes(report.cpu.model) && text.stdout.includes(`Models in ${folder}`));
  for (const backend of report.backends) t.ok(text.stdout.includes(backend.reason), backend.name);
});

interface Running {
  stdout: () => string;
  /** Resolves with the first line that holds `part`. */
  line: (part: string) => Promise<string>;
  write: (text: string) => void;
  endInput: () => void;
  kill: (signal: NodeJS.Signals) => void;
  ended: Promise<Outcome>;
}

function start(args: string[], env: NodeJS.ProcessEnv = {}): Running {
  const child = spawn(process.execPath, [MAIN, ...args], { env: cleanEnv(env), stdio: 'pipe' });
  const outcome: Outcome = { code: null, stdout: '', stderr: '' };
  const waiting: Array<() => void> = [];
  child.stdout.on('data', (chunk) => {
    outcome.stdout += chunk;
    for (const check of waiting) check();
  });
  child.stderr.on('data', (chunk) => {
    outcome.stderr += chunk;
  });
  const ended = new Promise<Outcome>((resolve) => {
    child.on('close', (code) => resolve({ ...outcome, code }));
  });
  t.teardown(() => child.kill('SIGKILL'));
  return {
    stdout: () => outcome.stdout,
    line: (part) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          const found = outcome.stdout.split('\n').find((line) => line.includes(part));
          if (found !== undefined) resolve(found);
        };
        waiting.push(check);
        check();
        void ended.then(({ stderr }) => reject(new Error(`ended without ${part}: ${stderr}`)));
      }),
    write: (text) => child.stdin.write(text),
    endInput: () => child.stdin.end(),
    kill: (signal) => child.kill(signal),
    ended,
  };
}

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

t.test('chat: a model in this process, piped input', async (t) => {
  const chat = start([
    'chat',
    '--synthetic',
    'tiny',
    '--kv-memory',
    '32MiB',
    '--max-tokens',
    '3',
    '--temperature',
    '0',
  ]);
  chat.write('hello\n/reset\nhello\n/exit\n');
  const { code, stdout, stderr } = await chat.ended;
  t.equal(code, 0, stderr);
  const answers = stdout.split('\n').slice(0, -1);
  t.equal(answers.length, 2);
  t.equal(answers[0], answers[1], 'after /reset the same question has the same answer');
});

t.test('chat: history goes along, errors are shown, the end of input ends it', async (t) => {
  const seen: Array<{ messages: Array<{ role: string; content: string }> }> = [];
  const server = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk) => {
      text += chunk;
    });
    request.on('end', () => {
      if (request.url === '/v1/models') return response.end('{"data":[{"id":"m"}]}');
      seen.push(JSON.parse(text));
      if (seen.length === 2) return response.writeHead(400).end('{"error":{"message":"too hot"}}');
      const chunk = (delta: string): string =>
        `data: ${JSON.stringify({ choices: [{ delta: { content: delta } }] })}\n\n`;
      response.write(`: comment\n\n${chunk('al')}`);
      return response.end(`${chunk('pha')}data: [DONE]\n\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const chat = start(['chat', '--base-url', `${url}/v1/`, '--system', 'S']);
  chat.write('one\ntwo\nthree\n');
  chat.endInput();
  const { code, stdout, stderr } = await chat.ended;
  t.equal(stdout, 'alpha\nalpha\n');
  t.match(stderr, /^too hot$/m);
  t.equal(code, 1, 'a script can tell that something failed');
  t.same(seen[2]!.messages, [
    { role: 'system', content: 'S' },
    { role: 'user', content: 'one' },
    { role: 'assistant', content: 'alpha' },
    { role: 'user', content: 'three' },
  ]);
  const gone = await start(['chat', '--base-url', 'http://127.0.0.1:9']).ended;
  t.equal(gone.code, 1);
  t.match(gone.stderr, /127\.0\.0\.1:9 does not answer/);
});
