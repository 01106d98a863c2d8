/** `bench engine`: rows, limits worked out by hand, the driver's plans, and a tiny run of it all. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { benchEngine, reportRow } from '../../../src/bench/engine-bench.js';
import { EngineDriver, kvPoolBytes } from '../../../src/bench/engine-driver.js';
import {
  kvBytesRead,
  prefillOperations,
  secondsAtLimit,
  sumVisibleKeys,
  weightBytesRead,
} from '../../../src/bench/limits.js';
import { currentCommit, packageRoot } from '../../../src/bench/machine.js';
import {
  describeWorkload,
  listWorkloads,
  parseCounts,
  type Workload,
  workloadLength,
  workloadTokens,
} from '../../../src/bench/workload.js';
import { loadAddon } from '../../../src/binding/addon.js';
import { parseShape, syntheticModel } from '../../../src/models/synthetic.js';

const root = packageRoot();
const MAIN = join(root, 'dist', 'src', 'cli', 'main.js');
const modelOf = (shape: string) => syntheticModel(parseShape(shape), 1);

t.test('rows: depths ascending, kinds that were asked for', async (t) => {
  const lists = { prompt: 8, generate: 4, depths: [64, 0, 64], batches: [2, 1], together: true };
  const rows = listWorkloads(lists);
  t.same(rows.map(describeWorkload), [
    ...['prefill 8 at 0', 'decode 4 at 0', 'both 8+4 at 0'],
    ...['prefill 2 × 8 at 0', 'decode 2 × 4 at 0', 'both 2 × 8+4 at 0'],
    ...['prefill 8 at 64', 'decode 4 at 64', 'both 8+4 at 64'],
    ...['prefill 2 × 8 at 64', 'decode 2 × 4 at 64', 'both 2 × 8+4 at 64'],
  ]);
  t.same(rows.slice(-3).map(workloadTokens), [16, 8, 24]);
  t.same(rows.slice(-3).map(workloadLength), [72, 68, 76]);
  const only = listWorkloads({ ...lists, prompt: 0, depths: [0], batches: [1] });
  t.same(
    only.map(({ work }) => work),
    ['decode'],
  );
  t.same(parseCounts('--depth', '0, 4096', 0), [0, 4096]);
  for (const text of ['', '1,', '-1', '1.5', 'x', '99999999999']) {
    t.throws(() => parseCounts('--depth', text, 0), { name: 'ConfigError' }, text);
  }
  t.throws(() => parseCounts('--batch', '0', 1), /--batch: expected a whole number from 1/);
});

t.test('a row of the report', async (t) => {
  const workload: Workload = { work: 'decode', prompt: 9, generate: 4, depth: 7, batch: 2 };
  t.same(reportRow(workload, [2, 1, 4], 0.5), {
    work: 'decode',
    tokens: 4,
    depth: 7,
    batch: 2,
    attention: 'exact',
    budget_measured: 1,
    tokens_per_second: { median: 4, min: 2, max: 8 },
    limit_share: 0.25,
  });
  t.equal(reportRow(workload, [1], null).limit_share, null);
  t.equal(reportRow({ ...workload, work: 'both' }, [1], null).tokens, 13);
});

t.test('what a machine at its limits would need', async (t) => {
  // tiny: hidden 64, intermediate 128, 2 layers, 4 heads of 16, 2 kv heads, vocabulary 512, tied.
  const tiny = modelOf('tiny');
  const kvPerKey = 2 * 2 * 16 * 2 * 2; // K and V, kv heads, elements, bytes, layers
  t.equal(kvBytesRead(tiny, 'f16', 9), 10 * kvPerKey);
  // 8-bit channels and a scale of 4 bytes for each token, head, and K or V
  t.equal(kvBytesRead(tiny, 'q8', 9), 10 * 2 * 2 * (16 + 4) * 2);
  const layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128;
  const products = 2 * 2 * layer;
  const attention = 2 * 4 * 4 * 16; // layers, a multiply and add for K and for V, heads, elements
  const expected = products * 3 + 2 * 512 * 64 + attention * (6 + 7 + 8);
  t.equal(prefillOperations(tiny, 5, 8), expected);
  t.equal(weightBytesRead(tiny, { weightBytes: 1000 }), 1000);
  const untied = modelOf('tiny,tied=false');
  const table = (512 * 64 * 34) / 32;
  t.equal(weightBytesRead(untied, { weightBytes: table + 1000 }), 1000);

  const info = { weightBytes: 1_000_000, kvDtype: 'f16' };
  const limits = { readBytesPerSecond: 1e6, operationsPerSecond: 1e6 };
  const row: Workload = { work: 'decode', prompt: 3, generate: 2, depth: 5, batch: 4 };
  const at = (first: number): number => (2e6 + 4 * (2 * first + 3) * kvPerKey) / 1e6;
  const prefill = (4 * expected) / 1e6;
  t.equal(secondsAtLimit(row, tiny, info, limits), at(5));
  t.equal(secondsAtLimit({ ...row, work: 'prefill' }, tiny, info, limits), prefill);
  t.equal(secondsAtLimit({ ...row, work: 'both' }, tiny, info, limits), prefill + at(8));
  const unknown = { ...limits, operationsPerSecond: 0 };
  t.equal(secondsAtLimit({ ...row, work: 'prefill' }, tiny, info, unknown), null);
  t.equal(secondsAtLimit(row, tiny, info, unknown), at(5));
});

t.test('visible keys, with and without a window', async (t) => {
  for (const window of [0, 1, 4, 10, 100]) {
    for (const [first, end] of [
      [0, 0],
      [0, 9],
      [2, 5],
      [5, 12],
      [30, 40],
    ] as const) {
      let sum = 0;
      for (let p = first; p < end; p++) sum += window === 0 ? p + 1 : Math.min(p + 1, window);
      t.equal(sumVisibleKeys(first, end, window), sum, `[${first}, ${end}) window ${window}`);
    }
  }
});

const DRIVER = {
  threads: 1,
  isaLimit: '',
  kvDtype: 'f16',
  seed: 1,
} as const;

t.test('the pool holds exactly the largest row', async (t) => {
  for (const shape of ['tiny', 'tiny,arch=gemma3,layers=8,window=64']) {
    const model = modelOf(shape);
    const driver = await EngineDriver.create(model, { ...DRIVER, maxBatch: 3, maxLength: 100 });
    const { info } = driver;
    t.equal(info.numBlocks, 3 * 4 * info.groupWindows.length, shape);
    t.equal(kvPoolBytes(model, 100), 4 * info.groupWindows.length * info.blockBytes);
    await driver.close();
  }
  const beyond = EngineDriver.create(modelOf('tiny,context=64'), {
    ...DRIVER,
    maxBatch: 1,
    maxLength: 65,
  });
  await t.rejects(beyond, /reach 65, the model's context ends at 64/);
});

t.test('the driver goes up and down in depth, alone and in batches', async (t) => {
  const model = modelOf('tiny,arch=gemma3,layers=6,window=40');
  const driver = await EngineDriver.create(model, { ...DRIVER, maxBatch: 3, maxLength: 2600 });
  const row = { prompt: 70, generate: 5 };
  for (const depth of [0, 33, 2500, 1]) {
    for (const batch of [1, 3, 2]) {
      for (const work of ['prefill', 'decode', 'both'] as const) {
        t.ok(
          (await driver.measure({ ...row, work, depth, batch })) > 0,
          `${work} ${depth} ${batch}`,
        );
      }
    }
  }
  await driver.close();
});

t.test('limits of the machine', async (t) => {
  const { measureLimits } = loadAddon();
  const options = { threads: 1, isaLimit: '', bufferBytes: 1 << 16, seconds: 0 };
  for (const isaLimit of ['', 'avx512', 'avx2', 'scalar']) {
    const limits = measureLimits({ ...options, isaLimit });
    t.ok(limits.readBytesPerSecond > 0, isaLimit);
    const known = isaLimit !== 'scalar' && loadAddon().cpuInfo().isa !== 'scalar';
    t.equal(limits.operationsPerSecond > 0, known, isaLimit);
  }
  t.throws(() => measureLimits({ ...options, isaLimit: 'sse9' }), { code: 'ERR_INVALID_REQUEST' });
  t.throws(() => measureLimits({ ...options, bufferBytes: 1 }), /bufferBytes: expected/);
  t.throws(() => measureLimits({ ...options, seconds: -1 }), /seconds: expected/);
});

t.test('a report has the shape of the interface', async (t) => {
  const workloads = listWorkloads({
    ...{ prompt: 16, generate: 3, depths: [0, 40], batches: [1, 2] },
    together: false,
  });
  const seen: Workload[] = [];
  const report = await benchEngine(
    { name: 'tiny', native: modelOf('tiny') },
    {
      ...DRIVER,
      workloads,
      repeat: 2,
      limits: { bufferBytes: 1 << 16, seconds: 0 },
      onRow: (row) => seen.push(row),
    },
  );
  t.same(seen, workloads);
  const keys = ['machine', 'isa', 'commit', 'model', 'threads', 'kv_dtype', 'rows'];
  t.same(Object.keys(report), keys);
  t.equal(report.threads, 1);
  t.same(
    report.rows.map(({ work, tokens, depth, batch }) => [work, tokens, depth, batch]),
    workloads.map(({ work, prompt, generate, depth, batch }) => [
      work,
      work === 'prefill' ? prompt : generate,
      depth,
      batch,
    ]),
  );
  for (const { tokens_per_second: speed } of report.rows) {
    t.ok(speed.min > 0 && speed.min <= speed.median && speed.median <= speed.max);
  }
});

t.test('commits', async (t) => {
  const folder = t.testdir();
  t.match(currentCommit(root) ?? '0123456789ab', /^[0-9a-f]{12,}(-dirty)?$/);
  t.equal(currentCommit(join(folder, 'nowhere')), null);
});

function run(...args: string[]): { code: number | null; stdout: string; stderr: string } {
  const env = Object.entries(process.env).filter(([name]) => !/^(LONGHAUL_|HF_)/.test(name));
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, 'bench', ...args], {
    encoding: 'utf8',
    env: Object.fromEntries(env),
  });
  return { code: status, stdout, stderr };
}

t.test('the command: JSON alone on stdout, a table, a file, usage errors', async (t) => {
  const small = ['engine', '--synthetic', 'tiny', '--prompt', '8', '--generate', '2'];
  const json = run(...small, '--repeat', '1', '--threads', '1', '--json', '-');
  t.equal(json.code, 0, json.stderr);
  t.match(JSON.parse(json.stdout), { model: 'synthetic-tiny', threads: 1, rows: [{}, {}] });
  const file = join(t.testdir(), 'report.json');
  const table = run(...small, '--repeat', '1', '--together', '--json', file);
  t.equal(table.code, 0, table.stderr);
  t.match(table.stdout, /^work +tokens +depth +batch +tok\/s +min +max +of limit$/m);
  t.match(table.stdout, /^both +10 +0 +1 /m);
  t.equal(JSON.parse(readFileSync(file, 'utf8')).rows.length, 3);
  const refuse = (args: string[], message: RegExp): void => {
    const { code, stdout, stderr } = run(...args);
    t.equal(code, 2, args.join(' '));
    t.equal(stdout, '');
    t.match(stderr, message);
  };
  refuse([...small, '--attention', 'exact,squeezed'], /--attention squeezed is not supported yet/);
  refuse([...small, '--attention', 'fuzzy'], /--attention: expected exact/);
  refuse([...small, '--depth-fill', 'clustered'], /--depth-fill clustered is not supported yet/);
  refuse([...small, '--depth', '0,x'], /--depth: expected a whole number/);
  refuse([...small, '--repeat', '0'], /--repeat: expected a whole number from 1/);
  refuse(['engine', '--prompt', '0', '--generate', '0'], /--generate: expected tokens/);
  refuse(['serve', '--num-prompts', 'many'], /--num-prompts: expected a whole number/);
});

const natives = join(root, 'build', 'native-tests');
const built = existsSync(natives)
  ? readdirSync(natives).filter((name) => name.endsWith('_bench'))
  : [];
t.test(
  'the native micro-benchmarks run',
  { skip: built.length === 0 && 'build/native-tests has not been built (npm test -- native)' },
  async (t) => {
    for (const name of built) {
      const { status, stdout, stderr } = spawnSync(join(natives, name), ['--tiny'], {
        encoding: 'utf8',
      });
      t.equal(status, 0, `${name}: ${stderr}`);
      t.match(stdout, /G\w+\/s/, name);
    }
  },
);
