/**
 * The mutation check: leaves out every barrier, wait and event of the kernels and of the CUDA
 * backend in turn, runs the emulated tests that reach it, and lists those whose absence nobody
 * noticed. Exit code 1 when one of them has no written reason (survivors.ts).
 *
 *   node dist/test/mutation/run.js [--only TEXT] [--jobs N] [--list]
 *
 * One build holds all mutants (mutant.h). On two cores the first build takes about ten minutes, all
 * mutants then about six.
 *   --only TEXT   mutants whose "file:line call" holds it, e.g. --only attention_
 *   --list        names mutants and runs nothing
 */
import { type ChildProcess, spawn } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Language, type Mutant, mutate } from './mutants.js';
import { SURVIVORS, type Survivor } from './survivors.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const work = join(root, 'build', 'mutation');
const tree = join(work, 'tree');
const build = join(work, 'build');

/** What the emulated build reads. */
const COPIED = ['CMakeLists.txt', 'package.json', 'native', 'kernels', 'test', 'bench'];
/** Primitives themselves, and what only a real device runs. */
const NOT_MUTATED =
  /^kernels\/(device|device_cuda|launch)\.cuh$|\/(device_runtime_cuda|cublas_lt|plugin)\.cc$/;

/** A test that hangs has noticed; but it must be told from one on a busy machine. */
const TIMEOUT_FACTOR = 10;
const TIMEOUT_MIN_MS = 60_000;

function languageOf(file: string): Language | null {
  if (NOT_MUTATED.test(file)) return null;
  if (/^kernels\/.*\.cuh$/.test(file)) return 'device';
  return /^native\/backend\/cuda\/[^/]+\.(cc|h)$/.test(file) ? 'host' : null;
}

/** Writes the tree with all its mutants; files that stay the same keep their time: only others are built. */
function writeTree(): Mutant[] {
  const mutants: Mutant[] = [];
  const wanted = new Set<string>();
  const visit = (file: string): void => {
    const path = join(root, file);
    if (statSync(path).isDirectory()) {
      for (const name of readdirSync(path).sort()) visit(`${file}/${name}`);
      return;
    }
    wanted.add(file);
    const target = join(tree, file);
    const language = languageOf(file);
    let content = readFileSync(path);
    if (language !== null) {
      const mutated = mutate(file, content.toString('utf8'), language, mutants.length + 1);
      mutants.push(...mutated.mutants);
      content = Buffer.from(mutated.source);
    }
    if (existsSync(target) && readFileSync(target).equals(content)) return;
    mkdirSync(dirname(target), { recursive: true });
    writeFileSync(target, content);
    const now = new Date();
    utimesSync(target, now, now);
  };
  for (const name of COPIED) visit(name);
  if (existsSync(tree)) {
    for (const entry of readdirSync(tree, { recursive: true, withFileTypes: true })) {
      const path = join(entry.parentPath ?? entry.path, entry.name);
      if (!entry.isDirectory() && !wanted.has(path.slice(tree.length + 1))) rmSync(path);
    }
  }
  return mutants;
}

const running = new Set<ChildProcess>();

interface Outcome {
  code: number;
  timedOut: boolean;
  output: string;
  ms: number;
}

function run(
  command: string,
  args: readonly string[],
  env: Record<string, string>,
  timeoutMs = 0,
): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const start = Date.now();
    const child = spawn(command, args, {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    running.add(child);
    let output = '';
    let timedOut = false;
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => {
        output = (output + chunk.toString('utf8')).slice(-20_000);
      });
    }
    const timer =
      timeoutMs > 0
        ? setTimeout(() => {
            timedOut = true;
            child.kill('SIGKILL');
          }, timeoutMs)
        : undefined;
    child.on('error', reject);
    child.on('close', (code) => {
      clearTimeout(timer);
      running.delete(child);
      resolve({ code: code ?? 1, timedOut, output, ms: Date.now() - start });
    });
  });
}

async function mustRun(command: string, args: readonly string[]): Promise<void> {
  const outcome = await run(command, args, {});
  if (outcome.code !== 0) throw new Error(`${command} ${args.join(' ')}\n${outcome.output}`);
}

interface TestProgram {
  name: string;
  ms: number;
  reached: ReadonlySet<number>;
}

/** Builds, and runs every program once without a mutant. */
async function baseline(jobs: number): Promise<TestProgram[]> {
  const names = readdirSync(join(root, 'test', 'kernels'))
    .filter((file) => file.endsWith('_test.cc'))
    .map((file) => file.replace(/\.cc$/, ''));
  console.log(`# building ${names.length} test programs`);
  const flags = `-include ${join(tree, 'test', 'mutation', 'mutant.h')}`;
  await mustRun('cmake', [
    ...['-S', tree, '-B', build, '-DLONGHAUL_TESTS=ON', '-DLONGHAUL_SIMT=ON'],
    ...['-DLONGHAUL_CUDA=OFF', `-DCMAKE_CXX_FLAGS=${flags}`],
  ]);
  await mustRun('cmake', ['--build', build, '--parallel', String(jobs), '--target', ...names]);
  const programs: TestProgram[] = [];
  for (const name of names) {
    const trace = join(work, 'trace.txt');
    rmSync(trace, { force: true });
    const outcome = await run(join(build, name), [], { LONGHAUL_MUTANT_TRACE: trace });
    if (outcome.code !== 0) throw new Error(`${name} fails without a mutant:\n${outcome.output}`);
    const lines = existsSync(trace) ? readFileSync(trace, 'utf8').trim().split('\n') : [];
    const reached = new Set(lines.filter((line) => line !== '').map(Number));
    programs.push({ name, ms: outcome.ms, reached });
    console.log(`# ${name}: ${(outcome.ms / 1000).toFixed(1)} s, ${reached.size} mutants reached`);
  }
  return programs.sort((a, b) => a.ms - b.ms);
}

/** What noticed it, or null. */
async function noticedBy(
  mutant: Mutant,
  programs: readonly TestProgram[],
): Promise<{ by: string | null; reached: boolean }> {
  const reaching = programs.filter((program) => program.reached.has(mutant.number));
  for (const program of reaching) {
    const limit = Math.max(TIMEOUT_MIN_MS, program.ms * TIMEOUT_FACTOR);
    const env = { LONGHAUL_MUTANT: String(mutant.number) };
    const outcome = await run(join(build, program.name), [], env, limit);
    if (outcome.timedOut) return { by: `${program.name} (no end)`, reached: true };
    if (outcome.code !== 0) return { by: program.name, reached: true };
  }
  return { by: null, reached: reaching.length > 0 };
}

const where = (mutant: Mutant): string => `${mutant.file}:${mutant.line} ${mutant.text}`;

/** Index of the reason that is about the mutant: one on its own line before one above it; -1: none. */
function reasonFor(mutant: Mutant): number {
  const ofFile = ({ file }: Survivor): boolean => file === mutant.file;
  const ownLine = mutant.context.split('\n').at(-1)!;
  const own = SURVIVORS.findIndex((row) => ofFile(row) && ownLine.includes(row.near));
  if (own >= 0) return own;
  return SURVIVORS.findIndex((row) => ofFile(row) && mutant.context.includes(row.near));
}

async function check(mutants: readonly Mutant[], jobs: number): Promise<number> {
  const programs = await baseline(jobs);
  const used = new Set<number>();
  let caught = 0;
  let accepted = 0;
  const bad: string[] = [];
  const queue = [...mutants];
  const worker = async (): Promise<void> => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const { by, reached } = await noticedBy(mutant, programs);
      const reason = reasonFor(mutant);
      if (by !== null) {
        caught += 1;
        console.log(`caught   ${where(mutant)}: ${by}`);
      } else if (reason >= 0) {
        used.add(reason);
        accepted += 1;
        console.log(`accepted ${where(mutant)}: ${SURVIVORS[reason]!.because}`);
      } else {
        bad.push(`SURVIVED ${where(mutant)}: ${reached ? 'no test failed' : 'no test runs it'}`);
        console.log(bad.at(-1));
      }
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  const files = new Set(mutants.map((mutant) => mutant.file));
  SURVIVORS.forEach((survivor, i) => {
    if (!files.has(survivor.file) || used.has(i)) return;
    // Only a whole run knows that no mutant needed it.
    const still = mutants.filter(
      (m) => m.file === survivor.file && m.context.includes(survivor.near),
    );
    const which = still.length > 0 ? 'its mutants are caught' : 'no call is near it';
    bad.push(`STALE    survivors.ts: ${survivor.file} "${survivor.near}": ${which}`);
  });
  console.log(bad.join('\n'));
  console.log(`${caught} caught, ${accepted} accepted, ${bad.length} survived without a reason`);
  return bad.length > 0 ? 1 : 0;
}

async function main(args: readonly string[]): Promise<number> {
  let only = '';
  let jobs = 2;
  let list = false;
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--list') list = true;
    else if (args[i] === '--only' && i + 1 < args.length) only = args[++i]!;
    else if (args[i] === '--jobs' && Number(args[i + 1]) > 0) jobs = Number(args[++i]);
    else {
      console.error('usage: run.js [--only TEXT] [--jobs N] [--list]');
      return 2;
    }
  }
  const mutants = writeTree().filter((mutant) => where(mutant).includes(only));
  if (list) for (const mutant of mutants) console.log(`${mutant.number} ${where(mutant)}`);
  console.log(`# ${mutants.length} mutants`);
  if (list) return 0;
  return mutants.length > 0 ? check(mutants, jobs) : 2;
}

process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});
process.exitCode = await main(process.argv.slice(2));
