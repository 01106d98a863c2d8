/**
 * The test command: native tests (plain and under ASan + UBSan), the CUDA kernels over the
 * emulator and by nvcc, then the TypeScript tests with tap. Prints every failing file in full, what
 * was skipped and why, and last "N passed, N failed". Arguments name suites: native, sanitize, simt,
 * nvcc, unit, fuzz, e2e; none means all.
 */
import { type SpawnOptions, spawn } from 'node:child_process';
import { existsSync, readdirSync, rmSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const dist = dirname(fileURLToPath(import.meta.url));
const root = join(dist, '..', '..');

const totals = { passed: 0, failed: 0 };
const skipped: string[] = [];

/** Runs a command, hands each output line to onLine, resolves with the exit code. */
function run(
  command: string,
  args: string[],
  onLine: (line: string) => void,
  options: SpawnOptions = {},
): Promise<number> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: root,
      ...options,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let open = 2;
    let code: number | null = null;
    const done = () => {
      if (open === 0 && code !== null) resolve(code);
    };
    for (const stream of [child.stdout, child.stderr]) {
      const lines = createInterface({ input: stream as NodeJS.ReadableStream });
      lines.on('line', onLine);
      lines.on('close', () => {
        open -= 1;
        done();
      });
    }
    child.on('error', reject);
    child.on('close', (exit, signal) => {
      code = signal === null ? (exit ?? 1) : 128;
      done();
    });
  });
}

const print = (line: string) => console.log(line);

/** Configures `folder` and builds `targets`; prints what went wrong. */
async function cmakeBuild(
  name: string,
  folder: string,
  options: string[],
  targets: string[],
): Promise<boolean> {
  // Real kernels have a suite of their own; with a driver present CMake would build them here too.
  const configure = ['-S', root, '-B', folder, '-DLONGHAUL_TESTS=ON', '-DLONGHAUL_CUDA=OFF'];
  configure.push('-DLONGHAUL_KERNELS=', ...options);
  if (process.env.CI) configure.push('-DLONGHAUL_WERROR=ON');
  print(`# ${name}: building`);
  const build = ['--build', folder, '--parallel', '2', '--target', ...targets];
  for (const args of [configure, build]) {
    const output: string[] = [];
    if ((await run('cmake', args, (line) => output.push(line))) !== 0) {
      print(output.join('\n'));
      print(`not ok - ${name}: cmake ${args.join(' ')}`);
      totals.failed += 1;
      return false;
    }
  }
  return true;
}

/** Names of the native tests that lie in these folders of test/. */
function nativeTests(...folders: string[]): string[] {
  return folders
    .flatMap((folder) => readdirSync(join(root, 'test', folder)))
    .filter((file) => file.endsWith('_test.cc'))
    .map((file) => basename(file, '.cc'))
    .sort();
}

/** Runs executables of the native test harness, `jobs` at a time, and adds up what they count. */
async function runNativeTests(
  name: string,
  folder: string,
  tests: string[],
  jobs = 1,
  env: Record<string, string> = {},
): Promise<void> {
  const waiting = [...tests];
  const worker = async () => {
    for (let test = waiting.shift(); test !== undefined; test = waiting.shift()) {
      const output: string[] = [];
      const start = Date.now();
      const code = await run(join(folder, test), [], (line) => output.push(line), {
        env: { ...process.env, ...env },
      });
      const seconds = (Date.now() - start) / 1000;
      const counts = /^(\d+) passed, (\d+) failed$/.exec(output.at(-1) ?? '');
      totals.passed += Number(counts?.[1] ?? 0);
      const failed = Number(counts?.[2] ?? 0);
      totals.failed += failed === 0 && code !== 0 ? 1 : failed;
      const verdict = counts?.[0] ?? `exit ${code}`;
      const slow = seconds >= 5 ? `, ${seconds.toFixed(0)} s` : '';
      print(`${code === 0 ? 'ok' : 'not ok'} - ${name}: ${test} (${verdict}${slow})`);
      if (code !== 0) print(output.join('\n'));
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
}

/** Builds and runs every test of test/native; `sanitize` is a -fsanitize list or ''. */
async function nativeSuite(name: string, sanitize: string): Promise<void> {
  const folder = join(root, 'build', sanitize === '' ? 'native-tests' : 'sanitize-tests');
  const options = [`-DLONGHAUL_SANITIZE=${sanitize}`];
  // Full optimization of instrumented vector code takes minutes a file and finds nothing more.
  if (sanitize !== '') options.push('-DCMAKE_CXX_FLAGS_RELEASE=-O1');
  if (!(await cmakeBuild(name, folder, options, ['native_tests']))) return;
  await runNativeTests(name, folder, nativeTests('native'));
}

/**
 * Whether the emulator can be built here. Where it cannot, that is a failure in CI, which installs
 * what it needs, and elsewhere a reason to skip.
 */
async function hasEmulator(name: string): Promise<boolean> {
  const folder = join(root, 'build', 'native-tests');
  const output: string[] = [];
  const args = ['-S', root, '-B', folder, '-DLONGHAUL_TESTS=ON', '-DLONGHAUL_CUDA=OFF'];
  const code = await run('cmake', args, (line) => output.push(line));
  if (code === 0 && !output.some((line) => line.includes('Boost.Context not found'))) return true;
  const reason = 'Boost.Context is missing (apt-get install libboost-context-dev)';
  if (process.env.CI || code !== 0) {
    print(code === 0 ? `not ok - ${name}: ${reason}` : output.join('\n'));
    totals.failed += 1;
  } else {
    skipped.push(`${name}: ${reason}`);
  }
  return false;
}

/**
 * The CUDA kernels and the device runtime over the emulator, then the check that every kernel
 * instantiation that can be dispatched was run by some case.
 */
async function simtSuite(): Promise<void> {
  const name = 'simt';
  const folder = join(root, 'build', 'native-tests');
  if (!(await hasEmulator(name))) return;
  if (!(await cmakeBuild(name, folder, ['-DLONGHAUL_SANITIZE='], ['simt_tests']))) return;
  const coverage = join(folder, 'simt-coverage.txt');
  rmSync(coverage, { force: true });
  const before = totals.failed;
  // Each emulates on one thread. They append whole lines to the file.
  await runNativeTests(name, folder, nativeTests('simt', 'kernels'), 2, {
    LONGHAUL_SIMT_COVERAGE: coverage,
  });
  // A test that failed half-way would be told twice.
  if (totals.failed > before) return;
  const output: string[] = [];
  const check = ['--check', coverage];
  const code = await run(join(folder, 'simt_coverage_test'), check, (line) => output.push(line));
  totals[code === 0 ? 'passed' : 'failed'] += 1;
  print(`${code === 0 ? 'ok' : 'not ok'} - ${name}: coverage (${output.at(-1) ?? `exit ${code}`})`);
  if (code !== 0) print(output.join('\n'));
}

/** All kernels by nvcc, and what it makes of them; skipped, with the reason, where there is none. */
async function nvccSuite(): Promise<void> {
  const output: string[] = [];
  const code = await run(process.execPath, [join(dist, 'nvcc', 'run.js')], (line) => {
    output.push(line);
  });
  const counts = /^(\d+) passed, (\d+) failed$/.exec(output.at(-1) ?? '');
  totals.passed += Number(counts?.[1] ?? 0);
  const failed = Number(counts?.[2] ?? 0);
  totals.failed += failed === 0 && code !== 0 ? 1 : failed;
  const why = /^# skipped: (.*)$/.exec(output[0] ?? '')?.[1];
  if (why !== undefined) skipped.push(why);
  print(`${output.slice(0, counts ? -1 : undefined).join('\n')}`);
}

/**
 * The plug-in over the emulator, beside the addon. Tests that need it skip themselves where it is
 * not there, so an old one is removed first.
 */
async function emulatedPlugin(name: string): Promise<void> {
  rmSync(join(root, 'build', 'Release', 'longhaul_cuda_emulated.so'), { force: true });
  if (!(await hasEmulator(name))) return;
  const folder = join(root, 'build', 'native-tests');
  await cmakeBuild(name, folder, ['-DLONGHAUL_SANITIZE='], ['longhaul_cuda_emulated']);
}

async function e2eSuite(): Promise<void> {
  await emulatedPlugin('e2e');
  await tapSuite('e2e', testFiles(join(dist, 'e2e')), 1);
}

function testFiles(folder: string): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.test.js'))
    .map((file) => relative(root, join(folder, file)))
    .sort();
}

/**
 * Runs compiled test files with tap and counts each file's top-level tests. Output of a file is
 * held back until its verdict is known, so that only failures are printed in full.
 */
async function tapSuite(name: string, files: string[], jobs: number): Promise<void> {
  if (files.length === 0) return;
  const tap = join(root, 'node_modules', 'tap', 'dist', 'esm', 'run.mjs');
  const args = ['run', '--reporter=tap', `--jobs=${jobs}`, '--timeout=900', ...files];
  const counts = { passed: 0, failed: 0 };
  let section: string[] = [];
  const onLine = (line: string) => {
    section.push(line);
    const test = /^ {4}(not )?ok \d+(?: - (.*))?$/.exec(line);
    if (test) {
      const skip = /# (?:SKIP|TODO)\b ?(.*)$/i.exec(line);
      if (skip)
        skipped.push(`${(test[2] ?? '').replace(/ # .*$/, '')}: ${skip[1] || 'no reason given'}`);
      else if (test[1]) counts.failed += 1;
      else counts.passed += 1;
    }
    const file = /^(not )?ok \d+ - (\S+\.test\.js)(.*)$/.exec(line);
    if (!file) return;
    print(`${file[1] ? 'not ok' : 'ok'} - ${name}: ${file[2]}${file[3]}`);
    if (file[1]) print(section.join('\n'));
    section = [];
  };
  print(`# ${name}: ${files.length} files`);
  const code = await run(process.execPath, [tap, ...args], onLine);
  if (code !== 0 && counts.failed === 0) {
    print(section.join('\n'));
    counts.failed = 1;
  }
  totals.passed += counts.passed;
  totals.failed += counts.failed;
}

const suites: Record<string, () => Promise<void>> = {
  native: () => nativeSuite('native', ''),
  sanitize: () => nativeSuite('sanitize', 'address,undefined'),
  simt: simtSuite,
  nvcc: nvccSuite,
  unit: () => tapSuite('unit', testFiles(join(dist, 'unit')), 2),
  fuzz: () => tapSuite('fuzz', testFiles(join(dist, 'fuzz')), 2),
  e2e: e2eSuite,
};

const wanted = process.argv.slice(2);
for (const name of wanted) {
  if (!Object.hasOwn(suites, name)) {
    console.error(`unknown suite "${name}", expected one of ${Object.keys(suites).join(', ')}`);
    process.exit(2);
  }
}
for (const [name, suite] of Object.entries(suites)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const start = Date.now();
  await suite();
  print(`# ${name}: ${((Date.now() - start) / 1000).toFixed(0)} s`);
}
if (skipped.length > 0) print(`# skipped:\n${skipped.map((line) => `#   ${line}`).join('\n')}`);
print(`${totals.passed} passed, ${totals.failed} failed`);
process.exitCode = totals.failed > 0 || totals.passed === 0 ? 1 : 0;
