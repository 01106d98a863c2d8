/** bench:compare without peers from outside: rows, tables, llama-bench's dialect, and real children. */
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import t from 'tap';
import {
  COMPARE_MODELS,
  chooseModels,
  compareRows,
  modelFile,
  selectRows,
} from '../../../bench/compare-models.js';
import {
  type CompareReport,
  compareCells,
  markdownBlock,
  peerRows,
  reportText,
} from '../../../bench/compare-report.js';
import { parseLlamaBench, startLonghaul, startPeers } from '../../../bench/peers/contenders.js';
import {
  batchedBenchArguments,
  batchedBenchSeconds,
  llamaBenchArguments,
  llamaBenchSeconds,
  measureLlamaBench,
  openLlamaBench,
} from '../../../bench/peers/llama-bench.js';
import { MARK, PeerProcess } from '../../../bench/peers/protocol.js';
import { reportRow } from '../../../src/bench/engine-bench.js';
import { packageRoot } from '../../../src/bench/machine.js';
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
  t.equal(selectRows(single!, null), single);
  t.same(selectRows(single!, ['decode 64 at 0', '4096']).map(describeWorkload), [
    ...['decode 64 at 0', 'prefill 512 at 4096', 'decode 64 at 4096'],
  ]);
  t.same(selectRows(batched!, ['at 4096']), []);
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
  const times = [
    [1, 2, 1],
    [2, 2, 4],
  ];
  const rows = peerRows('M', 'K/V f16', row, peers, times);
  t.match(rows[0], {
    model: 'M',
    setting: 'K/V f16',
    work: 'decode',
    peer: 'llama.cpp',
    peer_config: 'flash attention on, K/V f16',
    peer_tokens_per_second: { median: 64, min: 32, max: 64 },
    ratio: 2,
    best_peer: true,
  });
  t.match(rows[1], { peer: 'vLLM', ratio: 4, best_peer: false });
  const faster = reportRow(DECODE, [0.25], null); // 256 tok/s
  const other = peerRows('M', 'K/V q8', faster, peers, times);
  const deep = reportRow({ ...DECODE, depth: 9 }, [0.5], 0.125);
  const alone = peerRows('M', 'K/V q8', deep, [], []);
  t.match(alone, [{ peer: null, ratio: null, best_peer: false }]);

  const report: CompareReport = {
    date: '2026-01-02T03:04:05Z',
    machine: { cpu: 'C', num_cpus: 2, memory_bytes: 2 ** 34, kernel: 'k', node: 'v1' },
    isa: 'avx512',
    commit: 'abc',
    threads: 2,
    load_average: 0.1,
    versions: { longhaul: '0.1.0', 'llama.cpp': 'b1' },
    rows: [...rows, ...other, ...alone],
    failures: ['vLLM, bf16: no'],
  };
  const cells = compareCells(report);
  t.equal(cells.length, 4, 'one line a peer, with both settings in it');
  t.same(cells[0], [
    ...['model', 'work', 'longhaul K/V f16 tok/s', 'of limit', 'longhaul K/V q8 tok/s', 'of limit'],
    ...['peer', 'setting', 'peer tok/s', 'K/V f16 ratio', 'K/V q8 ratio'],
  ]);
  t.same(cells[1], [
    ...['M', 'decode 64 at 4096', '128 (64.0–256)', '25 %', '256 (256–256)', 'unknown'],
    ...['llama.cpp', 'flash attention on, K/V f16', '64.0 (32.0–64.0)', '2.00×', '4.00×'],
  ]);
  t.same(cells[2]!.slice(-2), ['4.00× (not the best)', '8.00× (not the best)']);
  t.same(cells[3], [
    ...['M', 'decode 64 at 9', '', '', '128 (128–128)', '25 %', 'not measured', '', '', '', ''],
  ]);
  const block = markdownBlock(report);
  t.match(block, /^\n### 2026-01-02\n\nC, 2 CPUs, 16\.0 GiB, avx512; 2 threads; commit abc;/);
  t.match(block, /longhaul: 0\.1\.0; llama\.cpp: b1/);
  t.match(block, /\n- not measured: vLLM, bf16: no\n$/);
  t.match(reportText(report), /Tokens a second\.\n\nmodel +work /);
});

t.test("llama-bench's arguments and output", async (t) => {
  const settings = { modelPath: 'm.gguf', threads: 2, flashAttention: true, kv: 'q8_0' };
  const common = '-m m.gguf -t 2 -fa 1 -ctk q8_0 -ctv q8_0';
  const line = (work: Workload['work'], takesDepth = true): string | undefined =>
    llamaBenchArguments(settings, { ...DECODE, work }, takesDepth)?.join(' ');
  t.equal(line('decode'), `${common} -p 0 -n 64 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(line('prefill'), `${common} -p 512 -n 0 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(line('both'), `${common} -p 0 -n 0 -pg 512,64 -d 4096 -r 1 -ngl 0 -o json`);
  t.equal(line('decode', false), `${common} -p 0 -n 0 -gp 4096,64 -r 1 -ngl 0 -o json`);
  t.equal(line('prefill', false), undefined, 'a prefill behind others has no word for it');
  const shallow = llamaBenchArguments(settings, { ...DECODE, depth: 0 }, false)!.join(' ');
  t.equal(shallow, `${common} -p 0 -n 64 -r 1 -ngl 0 -o json`);
  t.equal(llamaBenchSeconds('[{"avg_ts": 32}]', DECODE), 2);
  t.equal(llamaBenchSeconds('warning: [x]\n[\n{"avg_ts": 32}]', DECODE), 2);
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
  writeFileSync(
    path,
    script(`
      if (process.argv[2] === '--help') console.log('  -d, --n-depth <n>');
      else console.log(JSON.stringify([{ avg_ts: process.argv.length, build_number: 7 }]));
    `),
  );
  chmodSync(path, 0o755);
  const program = await openLlamaBench(path, 'm.gguf');
  t.same(program, { path, version: 'build 7, commit unknown', takesDepth: true });
  t.equal(await measureLlamaBench(program, settings, DECODE), 64 / 24);
  t.equal(
    await measureLlamaBench(program, settings, batched),
    null,
    'no llama-batched-bench there',
  );
  const without = { ...program, takesDepth: false };
  t.equal(await measureLlamaBench(without, settings, { ...DECODE, work: 'prefill' }), null);
  const beside = join(folder, 'llama-batched-bench');
  writeFileSync(beside, script(`console.log('{"t_pp": 1, "t_tg": 4}')`));
  chmodSync(beside, 0o755);
  t.equal(await measureLlamaBench(program, settings, batched), 4);
  t.equal(await measureLlamaBench(program, settings, { ...batched, work: 'prefill' }), null);
  await t.rejects(openLlamaBench(join(folder, 'none'), 'm.gguf'), /ENOENT/);

  t.same(parseLlamaBench('/x/a=b/llama-bench'), {
    name: 'llama-bench',
    path: '/x/a=b/llama-bench',
  });
  t.same(parseLlamaBench('mine=./llama-bench'), { name: 'mine', path: './llama-bench' });
  t.throws(() => parseLlamaBench(''), /--llama-bench/);
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
    kvDtypes: ['f16', 'f3'],
    llamaPackage: { entry: 'file:///no/such/package.js', version: '0' },
    llamaBench: [{ name: 'mine', path: '/no/such/llama-bench' }],
    llamaBenchDepth: 64,
    vllmPython: '/no/such/python',
    scratch: folder,
  };
  const failures: string[] = [];
  const fail = (what: string, error: unknown): void => {
    failures.push(`${what}: ${(error as Error).message}`);
  };
  const own = await startLonghaul(options, fail);
  t.equal(own.length, 1);
  t.equal(failures.length, 1);
  t.match(failures[0], /^longhaul, K\/V f3: /, 'a type the engine does not have is left out');
  const longhaul = own[0]!;
  t.match(longhaul, { peer: 'longhaul', config: 'K/V f16', hello: { threads: 1, version: /^\d/ } });
  const row: Workload = { work: 'both', prompt: 16, generate: 4, depth: 32, batch: 2 };
  t.ok((await longhaul.measure(row))! > 0);
  const limit = await longhaul.limitSeconds(row);
  t.ok(limit === null || limit > 0);
  await t.rejects(longhaul.measure({ ...row, depth: 4000 }), /step plan|block|slot/i);
  t.ok((await longhaul.measure(row))! > 0, 'a failed row leaves it usable');
  await longhaul.stop();
  await longhaul.stop();
  await t.rejects(startLonghaul({ ...options, kvDtypes: [] }, fail), /longhaul does not start/);

  failures.length = 0;
  const peers = await startPeers(options, fail);
  t.same(peers, []);
  t.equal(failures.length, 6);
  t.match(
    failures[0],
    /^llama\.cpp, flash attention on, K\/V f16: .*ended with 1\n(.|\n)*no\/such/,
  );
  t.match(failures[4], /^mine: .*ENOENT/);
  t.match(failures[5], /^vLLM, bf16: .*ENOENT/);

  const path = join(folder, 'llama-bench');
  writeFileSync(path, `#!${process.execPath}\nconsole.log('[{"avg_ts": 2}]');\n`);
  chmodSync(path, 0o755);
  const chosen = { ...options, llamaPackage: null, vllmPython: null };
  const benches = await startPeers({ ...chosen, llamaBench: [{ name: 'mine', path }] }, fail);
  t.equal(benches.length, 4, 'one entry a setting');
  t.equal(await benches[0]!.measure({ ...DECODE, depth: 0 }), 32);
  t.equal(await benches[0]!.measure(DECODE), null, 'too deep for a cache that is filled each time');
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
  const python = join(packageRoot(), 'bench', 'peers', 'vllm_bench.py');
  t.ok(readFileSync(python, 'utf8').includes(`MARK = "${MARK}"`));
});
