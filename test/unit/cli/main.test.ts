/** The command line as users meet it: arguments, output, exit codes. */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { SERVE_FLAGS, variableOf } from '../../../src/config.js';
import { packageVersion } from '../../../src/http/version.js';
import { run, start } from './run-cli.js';

// Each start of the program costs seconds on a busy machine.
t.setTimeout(180_000);

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
  for (const command of ['chat', 'doctor']) t.equal(run([command, '--help']).code, 0);
  t.match(run(['pull', '--help']).stdout, /smollm2-135m-instruct .*93\.8MiB, license: Apache-2\.0/);
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

t.test('a GPU that is not here ends with 4, and nothing takes its place', async (t) => {
  const args = ['serve', '--synthetic', 'tiny', '--backend', 'cuda', '--port', '0'];
  const { code, stdout, stderr } = run(args, { CUDA_VISIBLE_DEVICES: '' });
  t.equal(code, 4);
  t.match(stderr, /--backend cuda cannot be used: /);
  t.notMatch(stdout, /model loaded/);
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
  const cuda = report.backends.find((backend: { name: string }) => backend.name === 'cuda');
  t.equal(report.chosenBackend, cuda.usable ? 'cuda' : 'cpu');
  const text = run(['doctor'], { LONGHAUL_CACHE_DIR: folder });
  t.equal(text.code, code);
  t.ok(text.stdout.includes(report.cpu.model) && text.stdout.includes(`Models in ${folder}`));
  for (const backend of report.backends) t.ok(text.stdout.includes(backend.reason), backend.name);
});
