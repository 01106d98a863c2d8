/** bench:compare without peers from outside: rows, tables, llama-bench's dialect, and real children. */
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import {
  type CompareReport,
  compareCells,
  markdownBlock,
  peerRows,
} from '../../../bench/compare.js';
import {
  COMPARE_MODELS,
  chooseModels,
  compareRows,
  modelFile,
} from '../../../bench/compare-models.js';
import { startLonghaul, startPeers } from '../../../bench/peers/contenders.js';
import {
  batchedBenchArguments,
  batchedBenchSeconds,
  llamaBenchArguments,
  llamaBenchSeconds,
  measureLlamaBench,
} from '../../../bench/peers/llama-bench.js';
import { MARK, PeerProcess } from '../../../bench/peers/protocol.js';
import { reportRow } from '../../../src/bench/engine-bench.js';
import { describeWorkload, type Workload } from '../../../src/bench/workload.js';
import { writeSyntheticGguf } from '../../../src/models/gguf-writer.js';
import { parseShape } from '../../../src/models/synthetic.js';

const DECODE: Workload = { work: 'decode', prompt: 512, generate: 64, depth: 4096, batch: 1 };

t.test('models and rows', async (t) => {
  t.equal(chooseModels(null).length, COMPARE_MODELS.length);
  t.same(
    chooseModels('llama-1b,/x/My.gguf').map(({ key }) => key),
    ['llama-1b', 'My'],
  );
  t.throws(() => chooseModels('gpt-9'), /--models: expected a \.gguf file, or some of smollm2/);
  for (const { source } of COMPARE_MODELS) if ('shape' in source) parseShape(source.shape);
  const options = { prompt: 512, generate: 64, depths: null, batch: 16 };
  const [single, batched] = compareRows(COMPARE_MODELS[0]!, options);
  t.same(single!.map(describeWorkload), [
    ...['prefill 512 at 0', 'decode 64 at 0', 'prefill 512 at 4096', 'decode 64 at 4096'],
  ]);
  t.same(batched!.map(describeWorkload), ['both 16 × 512+64 at 0', 'decode 16 × 64 at 1024']);
  t.equal(compareRows(COMPARE_MODELS[0]!, { ...options, batch: 1 }).length, 1);
});

t.test('a synthetic model is written once', async (t) => {
  const folder = t.testdir();
  const model = { key: 'k', title: 'K', source: { shape: 'tiny' }, depths: [0] };
  const path = await modelFile(model, join(folder, 'models'));
  t.match(path, /models\/k-[0-9a-f]{8}\.gguf$/);
  const before = statSync(path).mtimeMs;
  t.equal(await modelFile(model, join(folder, 'models')), path);
  t.equal(statSync(path).mtimeMs, before);
  const other = await modelFile({ ...model, source: { shape: 'tiny,layers=3' } }, folder);
  t.not(basename(other), basename(path));
});

t.test('ratios, the best peer, and what is printed', async (t) => {
  const row = reportRow(DECODE, [0.5, 0.25, 1], 0.125); // 128 tok/s
  const peers = [
    { peer: 'llama.cpp', config: 'flash attention on, K/V f16' },
    { peer: 'vLLM', config: 'bf16' },
  ];
  const rows = peerRows(
    'M',
    row,
    peers,
    [
      [1, 2, 1],
      [2, 2, 4],
    ],
    64,
  );
  t.match(rows[0], {
    model: 'M',
    work: 'decode',
    peer: 'llama.cpp',
    peer_config: 'flash attention on, K/V f16',
    peer_tokens_per_second: { median: 64, min: 32, max: 64 },
    ratio: 2,
    best_peer: true,
  });
  t.match(rows[1], { peer: 'vLLM', ratio: 4, best_peer: false });
  const alone = peerRows('M', row, [], [], 64);
  t.match(alone, [{ peer: null, ratio: null, best_peer: false }]);

  const report: CompareReport = {
    date: '2026-01-02T03:04:05Z',
    machine: { cpu: 'C', num_cpus: 2, memory_bytes: 2 ** 34, kernel: 'k', node: 'v1' },
    isa: 'avx512',
    commit: 'abc',
    threads: 2,
    load_average: 0.1,
    versions: { longhaul: '0.1.0', 'llama.cpp': 'b1' },
    rows: [...rows, ...alone],
    failures: ['vLLM, bf16: no'],
  };
  const cells = compareCells(report);
  t.same(cells[1], [
    ...['M', 'decode 64 at 4096', '128 (64.0–256)', '25 %', 'llama.cpp'],
    ...['flash attention on, K/V f16', '64.0 (32.0–64.0)', '2.00×'],
  ]);
  t.equal(cells[2]!.at(-1), '4.00× (not the best)');
  t.equal(cells[3]![4], 'not measured');
  const block = markdownBlock(report);
  t.match(block, /^\n### 2026-01-02\n\nC, 2 CPUs, 16\.0 GiB, avx512; 2 threads; commit abc;/);
  t.match(block, /longhaul: 0\.1\.0; llama\.cpp: b1/);
  t.match(block, /\n- not measured: vLLM, bf16: no\n$/);
});

t.test("llama-bench's arguments and output", async (t) => {
  const settings = { modelPath: 'm.gguf', threads: 2, flashAttention: true, kv: 'q8_0' };
  const common = '-m m.gguf -t 2 -fa 1 -ctk q8_0 -ctv q8_0';
  const line = (work: Workload['work']): string =>
    llamaBenchArguments(settings, { ...DECODE, work }).join(' ');
  t.equal(line('decode'), `${common} -p 0 -n 64 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(line('prefill'), `${common} -p 512 -n 0 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(line('both'), `${common} -p 0 -n 0 -pg 512,64 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(llamaBenchSeconds('[{"avg_ts": 32}]', DECODE), 2);
  t.throws(() => llamaBenchSeconds('[]', DECODE), /no avg_ts/);

  const batched = { ...DECODE, batch: 16, depth: 1024 };
  const words = batchedBenchArguments(settings, batched).join(' ');
  t.match(words, / -fa on -ctk q8_0 -ctv q8_0 -c 17408 .* -npp 1024 -ntg 64 -npl 16 /);
  const output = 'log\n{"t_pp": 3, "t_tg": 2}\n';
  t.equal(batchedBenchSeconds(output, batched), 2);
  t.equal(batchedBenchSeconds(output, { ...batched, work: 'both' }), 5);
  t.throws(() => batchedBenchSeconds('log', batched), /no JSON line/);

  const folder = t.testdir();
  const path = join(folder, 'llama-bench');
  const script = (text: string): string => `#!${process.execPath}\n${text}\n`;
  writeFileSync(path, script('console.log(JSON.stringify([{ avg_ts: process.argv.length }]))'));
  chmodSync(path, 0o755);
  t.equal(await measureLlamaBench(path, settings, DECODE), 64 / 24);
  t.equal(await measureLlamaBench(path, settings, batched), null, 'no llama-batched-bench there');
  const beside = join(folder, 'llama-batched-bench');
  writeFileSync(beside, script(`console.log('{"t_pp": 1, "t_tg": 4}')`));
  chmodSync(beside, 0o755);
  t.equal(await measureLlamaBench(path, settings, batched), 4);
  t.equal(await measureLlamaBench(path, settings, { ...batched, work: 'prefill' }), null);
});

t.test('children: longhaul measures, a broken peer is told of', async (t) => {
  const folder = t.testdir();
  const modelPath = join(folder, 'tiny.gguf');
  writeSyntheticGguf(parseShape('tiny'), modelPath, 1);
  t.equal(await modelFile(chooseModels(modelPath)[0]!, folder), modelPath);
  const options = {
    modelPath,
    threads: 1,
    maxBatch: 2,
    maxLength: 100,
    llamaPackage: { entry: 'file:///no/such/package.js', version: '0' },
    llamaBench: null,
    vllmPython: '/no/such/python',
    scratch: folder,
  };
  const longhaul = await startLonghaul(options);
  t.match(longhaul.hello, { threads: 1, version: /^\d/ });
  const row: Workload = { work: 'both', prompt: 16, generate: 4, depth: 32, batch: 2 };
  t.ok((await longhaul.measure(row))! > 0);
  const limit = await longhaul.limitSeconds(row);
  t.ok(limit === null || limit > 0);
  await t.rejects(longhaul.measure({ ...row, depth: 4000 }), /step plan|block|slot/i);
  t.ok((await longhaul.measure(row))! > 0, 'a failed row leaves it usable');
  await longhaul.stop();
  await longhaul.stop();

  const failures: string[] = [];
  const peers = await startPeers(options, (what, error) => {
    failures.push(`${what}: ${(error as Error).message}`);
  });
  t.same(peers, []);
  t.equal(failures.length, 5);
  t.match(
    failures[0],
    /^llama\.cpp, flash attention on, K\/V f16: .*ended with 1\n(.|\n)*no\/such/,
  );
  t.match(failures[4], /^vLLM, bf16: .*ENOENT/);
});

t.test('a child that dies in the middle', async (t) => {
  const folder = t.testdir({
    'child.mjs': `
      console.log('noise ${MARK.trim()} in a line');
      console.log('${MARK}' + JSON.stringify({ hello: { version: '1', isa: 'x', threads: 1 } }));
      process.stdin.once('data', () => { console.error('out of luck'); process.exit(7); });
    `,
  });
  const setup = { modelPath: '', threads: 1, maxBatch: 1, maxLength: 1, seed: 1, settings: {} };
  const child = await PeerProcess.start(process.execPath, [join(folder, 'child.mjs')], setup);
  t.same(child.hello, { version: '1', isa: 'x', threads: 1 });
  await t.rejects(child.measure(DECODE), /ended with 7\nout of luck/);
  await t.rejects(child.measure(DECODE), /ended with 7/, 'and stays dead');
  await child.stop();
});

t.test('the protocol is written down once in each language', async (t) => {
  const here = dirname(fileURLToPath(import.meta.url));
  const python = join(here, '..', '..', '..', '..', 'bench', 'peers', 'vllm_bench.py');
  t.ok(readFileSync(python, 'utf8').includes(`MARK = "${MARK}"`));
});
