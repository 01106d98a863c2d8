import t from 'tap';
import {
  availableMemory,
  ConfigError,
  defaultKvMemory,
  formatSize,
  parseSize,
  SERVE_FLAGS,
  type ServeConfig,
  serveConfig,
  variableOf,
} from '../../src/config.js';

const MIB = 1024 * 1024;

t.test('defaults', async (t) => {
  const cache = defaultKvMemory();
  t.ok(cache >= 64 * MIB && cache <= 4096 * MIB && cache % MIB === 0);
  t.same(serveConfig({}, {}), {
    model: 'smollm2-135m-instruct',
    servedModelName: null,
    host: '127.0.0.1',
    port: 8000,
    backend: 'auto',
    threads: 0,
    isaLimit: '',
    kvMemoryBytes: 0,
    kvDtype: 'f16',
    blockSize: 32,
    maxModelLen: 0,
    maxNumSeqs: 64,
    maxNumBatchedTokens: 2048,
    itlTargetMs: 100,
    maxQueueRequests: 256,
    maxQueueTokens: 4_194_304,
    bodyLimitBytes: 64 * MIB,
    chatTemplateFile: null,
    prefixCache: true,
    overlap: true,
    check: false,
    seed: null,
    synthetic: null,
    debugRoutes: false,
    logLevel: 'info',
    logPrompts: false,
    drainTimeoutMs: 30_000,
    heartbeatMs: 10_000,
  });
});

/** Flag, a value that is taken and what it becomes, values that are refused. */
const MATRIX: ReadonlyArray<[keyof ServeConfig, string, unknown, string[]]> = [
  ['model', 'hf:a/b', 'hf:a/b', []],
  ['servedModelName', 'x', 'x', []],
  ['host', '::1', '::1', []],
  ['port', '0', 0, ['-1', '65536', '80a', '1e3', '0x10', '1.5', '+1']],
  ['backend', 'cuda-emulated', 'cuda-emulated', ['gpu', 'CPU', 'emulated']],
  ['threads', '3', 3, ['-1', 'two']],
  ['isaLimit', 'avx2', 'avx2', ['sse', 'AVX2']],
  ['kvMemoryBytes', '1.5GiB', 1536 * MIB, ['1KiB', '-1', 'lots', '1PB', '10 GB', '1MiBs']],
  ['kvDtype', 'fp8', 'fp8', ['f32', 'Q8', 'e4m3']],
  ['blockSize', '64', 64, ['0', '16', '48', '4096']],
  ['maxModelLen', '4096', 4096, ['-5', '99999999999']],
  ['maxNumSeqs', '1', 1, ['0', '5000']],
  ['maxNumBatchedTokens', '512', 512, ['0']],
  ['itlTargetMs', '25', 25, ['0', '2.5']],
  ['maxQueueRequests', '0', 0, ['-1']],
  ['maxQueueTokens', '100', 100, ['x']],
  ['bodyLimitBytes', '2048', 2048, ['100', '1XiB']],
  ['chatTemplateFile', 't.jinja', 't.jinja', []],
  ['check', '1', true, ['maybe']],
  [
    'seed',
    '18446744073709551615',
    18_446_744_073_709_551_615n,
    ['18446744073709551616', '-1', '1.0'],
  ],
  ['synthetic', 'tiny', 'tiny', []],
  ['debugRoutes', 'yes', true, ['2']],
  ['logLevel', 'silent', 'silent', ['loud']],
  ['logPrompts', 'off', false, ['']],
  ['drainTimeoutMs', '0', 0, ['-1']],
  ['heartbeatMs', '1', 1, ['0']],
];

t.test('every value, from the line and from the environment', async (t) => {
  for (const [field, text, value, wrong] of MATRIX) {
    const flag = SERVE_FLAGS.find((candidate) => candidate.field === field)!;
    const variable = variableOf(flag);
    t.same(serveConfig({ [field]: text }, {})[field], value, `--${flag.name} ${text}`);
    t.same(serveConfig({}, { [variable]: text })[field], value, `${variable}=${text}`);
    for (const bad of wrong) {
      t.throws(() => serveConfig({ [field]: bad }, {}), {
        name: 'ConfigError',
        message: new RegExp(`^--${flag.name}: expected `),
      });
      if (bad === '') continue; // an empty variable counts as unset
      t.throws(() => serveConfig({}, { [variable]: bad }), {
        name: 'ConfigError',
        message: new RegExp(`^${variable}: expected `),
      });
    }
  }
  const covered = new Set(MATRIX.map(([field]) => field));
  const left = SERVE_FLAGS.filter((flag) => !covered.has(flag.field)).map((flag) => flag.name);
  t.same(left, ['no-prefix-cache', 'no-overlap']);
});

t.test('off-switches', async (t) => {
  for (const [field, variable] of [
    ['overlap', 'LONGHAUL_NO_OVERLAP'],
    ['prefixCache', 'LONGHAUL_NO_PREFIX_CACHE'],
  ] as const) {
    t.equal(serveConfig({ [field]: false }, {})[field], false);
    t.equal(serveConfig({}, { [variable]: '1' })[field], false);
    t.equal(serveConfig({}, { [variable]: '0' })[field], true);
    t.throws(() => serveConfig({}, { [variable]: 'x' }), ConfigError);
  }
});

t.test('a flag wins over its variable, an empty variable is unset', async (t) => {
  t.equal(serveConfig({ port: '1' }, { LONGHAUL_PORT: '2' }).port, 1);
  t.equal(serveConfig({}, { LONGHAUL_PORT: '' }).port, 8000);
  t.equal(
    variableOf(SERVE_FLAGS.find((flag) => flag.name === 'max-model-len')!),
    'LONGHAUL_MAX_MODEL_LEN',
  );
  t.equal(serveConfig({}, { LONGHAUL_ISA: 'scalar' }).isaLimit, 'scalar');
});

t.test('messages name setting, expected and received', async (t) => {
  t.throws(() => serveConfig({ port: '99999' }, {}), {
    message: '--port: expected a whole number from 0 to 65535, received "99999"',
  });
  t.throws(() => serveConfig({}, { LONGHAUL_KV_MEMORY: 'lots' }), {
    message:
      'LONGHAUL_KV_MEMORY: expected a size of at least 1MiB, such as 512MiB or 4GiB, received "lots"',
  });
  t.throws(() => serveConfig({ kvDtype: 'f8' }, {}), {
    message: '--kv-dtype: expected one of f16, bf16, q8, fp8, received "f8"',
  });
});

t.test('sizes', async (t) => {
  for (const [text, bytes] of [
    ['0', 0],
    ['17', 17],
    ['17B', 17],
    ['2KiB', 2048],
    ['2 mib', 2 * MIB],
    ['0.5GiB', 512 * MIB],
    ['1TiB', 1024 * 1024 * MIB],
  ] as const) {
    t.equal(parseSize('x', text), bytes, text);
  }
  t.same([0, 1023, 1536, 3 * MIB, 1.25 * 1024 * MIB].map(formatSize), [
    '0B',
    '1023B',
    '1.5KiB',
    '3MiB',
    '1.3GiB',
  ]);
});

t.test('available memory: the system or the control group, whichever leaves less', async (t) => {
  const memory = (files: Record<string, string>): number =>
    availableMemory((path) => files[path] ?? null);
  const system = { '/proc/meminfo': 'MemTotal: 9 kB\nMemAvailable:    2048 kB\n' };
  const group = '/sys/fs/cgroup/memory';
  t.equal(memory(system), 2 * MIB);
  t.equal(memory({ ...system, [`${group}.max`]: 'max\n', [`${group}.current`]: '5\n' }), 2 * MIB);
  t.equal(memory({ ...system, [`${group}.max`]: '1000\n', [`${group}.current`]: '400\n' }), 600);
  const stat = 'anon 5\ninactive_file 150\n';
  t.equal(
    memory({
      ...system,
      [`${group}.max`]: '1000',
      [`${group}.current`]: '400',
      [`${group}.stat`]: stat,
    }),
    750,
  );
  t.equal(memory({ ...system, [`${group}.max`]: '1000', [`${group}.current`]: '1400' }), 0);
  const old = {
    [`${group}/memory.limit_in_bytes`]: '9000',
    [`${group}/memory.usage_in_bytes`]: '1000',
  };
  t.equal(
    memory({ ...system, ...old, [`${group}/memory.stat`]: 'total_inactive_file 100\n' }),
    8100,
  );
  t.ok(memory({}) > 0, 'elsewhere the system says');
});
