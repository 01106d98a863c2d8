/** The kernel bench, tiny and over the emulator: what it writes is what its report reads. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const bench = join(root, 'build', 'native-tests', 'kernels_bench');
const skip = existsSync(bench)
  ? false
  : 'build/native-tests/kernels_bench is not built (suite simt)';
const SECTIONS = ['machine', 'attention', 'matmul', 'rows', 'step'];

interface Row {
  section: string;
  name: string;
  kernel: string;
  us: number;
  us_min: number;
  us_max: number;
  rate: number;
  unit: string;
  share: number;
  target: number;
  skipped?: string;
}

t.test('every section runs, rows are whole, the report shows them', { skip }, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'longhaul-kernels-'));
  t.teardown(() => rmSync(folder, { recursive: true, force: true }));
  const json = join(folder, 'kernels.jsonl');
  const run = spawnSync(bench, ['--tiny', '--json', json], { encoding: 'utf8' });
  t.equal(run.status, 0, run.stderr);
  const entries = readFileSync(json, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const rows = entries.filter((entry) => !('machine' in entry)) as Row[];
  t.match(run.stdout, new RegExp(`^${rows.length} rows measured$`, 'm'));
  t.same([...new Set(rows.map((row) => row.section))], SECTIONS);
  t.equal(
    new Set(rows.map((row) => `${row.section} ${row.name}`)).size,
    rows.length,
    'names differ',
  );
  for (const row of rows) {
    t.equal(row.skipped, undefined, row.name);
    t.ok(row.us_min > 0 && row.us_min <= row.us && row.us <= row.us_max, row.name);
    t.ok(row.kernel !== '' && row.rate >= 0 && row.share >= 0 && row.target >= 0, row.name);
    t.match(row.unit, /^(GB\/s|TFLOP\/s|ms at the limit)$/);
  }

  const script = join(root, 'bench', 'cuda', 'kernels_report.py');
  const report = spawnSync('python3', [script, json], { encoding: 'utf8' });
  if (report.error) return t.comment(`no python3: ${report.error.message}`);
  t.equal(report.status, 0, report.stderr);
  const lines = report.stdout.trim().split('\n');
  t.match(lines[0], /device emulated, runtime cuda-emulated/);
  t.equal(lines.length, rows.length + 3);
  t.match(lines.at(-1), new RegExp(`^${rows.length} rows, \\d+ below their target$`));
});

t.test(
  '--only leaves sections out but for the limits; wrong flags are refused',
  { skip },
  async (t) => {
    const only = spawnSync(bench, ['--tiny', '--only', 'rows'], { encoding: 'utf8' });
    t.equal(only.status, 0);
    t.match(only.stdout, /^machine +copy /m);
    t.match(only.stdout, /^rows +add_norm/m);
    t.notMatch(only.stdout, /^(attention|matmul|step) /m);
    const wrong = spawnSync(bench, ['--fast'], { encoding: 'utf8' });
    t.equal(wrong.status, 2);
    t.match(wrong.stderr, /^usage: /);
  },
);
