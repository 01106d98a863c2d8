/** Benchmarks that start a server of their own, tiny: so that they cannot rot. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import { measureLiveness } from '../../bench/liveness.js';
import { measureNodeShare } from '../../bench/node-share.js';
import { measureStartup } from '../../bench/startup.js';
import { benchTokenizer } from '../../bench/tokenizer.js';
import { loadAddon } from '../../src/binding/addon.js';
import { writeSyntheticGguf } from '../../src/models/gguf-writer.js';
import { loadSynthetic } from '../../src/models/load-model.js';
import { parseShape } from '../../src/models/synthetic.js';

const linux = process.platform === 'linux';
const SERVE = ['--synthetic', 'tiny', '--threads', '1', '--kv-memory', '64MiB'];

t.test('startup: times are in order, sizes are the model’s', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'longhaul-startup-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'tiny.gguf');
  writeSyntheticGguf(parseShape('tiny'), path, 1);
  const args = ['--model', path, '--kv-memory', '64MiB'];
  const { listeningMs, firstTokenMs, ...report } = await measureStartup({ args, runs: 2 });
  t.ok(listeningMs.min > 0 && listeningMs.min <= listeningMs.median);
  t.ok(firstTokenMs.min > listeningMs.min && firstTokenMs.max > listeningMs.max);
  // Two layers of 64 x 64 and 128 x 64 matrices beside 512 embeddings, a byte and an eighth each.
  t.ok(
    report.weightBytes > 512 * 64 && report.weightBytes < 512 * 64 * 8,
    `${report.weightBytes} bytes`,
  );
  t.ok(report.poolBytes > 60 * 2 ** 20 && report.poolBytes <= 64 * 2 ** 20);
  t.equal(report.memory !== null, linux);
  if (report.memory !== null) t.ok(report.memory.peakBytes >= report.memory.rssBytes);
});

t.test('a server that cannot start is told of, with its output', async (t) => {
  const args = ['--model', '/nonexistent/model.gguf'];
  await t.rejects(
    measureStartup({ args, runs: 1 }),
    /ended before it listened.*a path that exists/s,
  );
});

for (const path of ['/v1/completions', '/v1/chat/completions'] as const) {
  t.test(`node-share of ${path}`, async (t) => {
    const options = { args: SERVE, streams: 3, promptTokens: 40, generateTokens: 600, path };
    const report = await measureNodeShare(options);
    t.equal(report !== null, linux);
    if (report === null) return;
    t.equal(report.streams, 3);
    t.ok(report.steps >= 1 && report.steps <= 1200, `${report.steps} steps`);
    t.ok(report.nodeMs > 0 && report.stepMs > 0);
    t.equal(report.share, report.nodeMs / report.stepMs);
  });
}

t.test('node-share: a refused request is an error', async (t) => {
  const options = { args: SERVE, streams: 2, promptTokens: 4, generateTokens: 1e9 };
  await t.rejects(measureNodeShare({ ...options, path: '/v1/completions' }), /status 400/);
});

t.test('liveness: answers are counted while the prompt is read', async (t) => {
  const report = await measureLiveness({ args: SERVE, promptTokens: 3000 });
  t.equal(report.promptTokens, 3000);
  t.ok(report.prefillSeconds > 0 && report.probes >= 1);
  t.ok(report.p50 > 0 && report.p50 <= report.p99 && report.p99 <= report.max);
  await t.rejects(measureLiveness({ args: SERVE, promptTokens: 1e6 }), /400/, 'too long');
});

t.test('tokenizer: all ways, the text comes back', async (t) => {
  const tokenizer = loadAddon().createTokenizer(loadSynthetic('tiny').tokenizer.spec);
  const text = 'Möchten Sie 3 km gehen? 好的。\n'.repeat(100);
  const rows = benchTokenizer(tokenizer, text, { runs: 2, stripLeadingSpace: false });
  t.strictSame(
    rows.map(({ work }) => work),
    ['encode', 'encode, short pieces', 'decode', 'decode, streamed'],
  );
  const bytes = Buffer.byteLength(text);
  for (const { tokens, tokensPerSecond } of rows) {
    t.equal(tokens, bytes, 'a token a byte');
    t.ok(tokensPerSecond > 0);
  }
});
