/**
 * Compiles the CUDA plug-in, its tests and its bench with nvcc, prints registers, shared memory,
 * stack and spills of every kernel for every architecture, and checks what the compiler made of
 * them: no spills, and the instructions that each kernel's speed rests on (expectations.ts). Needs
 * no GPU. Under four minutes on two idle cores.
 *
 *   node dist/test/nvcc/run.js [--jobs N]
 *
 * Last line: "N passed, N failed". Without nvcc it says so in a line "# skipped: …" and passes
 * nothing; without a disassembler instructions are skipped the same way.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { delimiter, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CompiledFunction, compiledFunctions, judge, type Verdict } from './checks.js';
import { findDisassembler } from './disassembler.js';
import { INSTRUCTIONS } from './expectations.js';
import { readableNames, readEnums } from './kernel-name.js';
import { type FunctionReport, parsePtxasReport, warpsByRegisters } from './ptxas-report.js';
import { countAll, countMatching, type Instructions, parseSass } from './sass.js';

const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const kernels = join(root, 'kernels');
const build = join(root, 'build', 'cuda');
/** The plug-in, and what kernels/device_check.sh runs on a GPU: it must not fail to build there. */
const TARGETS = ['longhaul_cuda', 'gpu_tests', 'kernels_bench_gpu'];
const print = (line: string): void => console.log(line);

/** Where kernels/CMakeLists.txt looks. */
function findNvcc(): string | null {
  const folders = (process.env.PATH ?? '').split(delimiter);
  for (const home of [process.env.CUDA_HOME, process.env.CUDA_PATH, '/usr/local/cuda']) {
    if (home) folders.push(join(home, 'bin'));
  }
  return folders.map((folder) => join(folder, 'nvcc')).find((path) => existsSync(path)) ?? null;
}

/** Rejects with the command's output. */
function cmake(args: readonly string[]): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('cmake', args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
    const output: Buffer[] = [];
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (chunk: Buffer) => output.push(chunk));
    }
    child.on('error', reject);
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`cmake ${args.join(' ')}\n${Buffer.concat(output).toString('utf8')}`));
    });
  });
}

async function compile(nvcc: string, jobs: number): Promise<void> {
  const configure = ['-S', root, '-B', build, '-DLONGHAUL_CUDA=ON', '-DLONGHAUL_TESTS=ON'];
  configure.push('-DLONGHAUL_SIMT=OFF');
  configure.push(`-DLONGHAUL_NVCC=${nvcc}`, '-DCMAKE_CUDA_FLAGS=-Xptxas=-v');
  configure.push(`-DCMAKE_CUDA_COMPILER_LAUNCHER=${join(kernels, 'keep_report.sh')}`);
  if (process.env.CI) configure.push('-DLONGHAUL_WERROR=ON');
  await cmake(configure);
  await cmake(['--build', build, '--parallel', String(jobs), '--target', ...TARGETS]);
}

/** Of the kernels that exist now: a build folder may hold objects of files that are gone. */
function objectFiles(): string[] {
  const folder = join(build, 'kernels', 'CMakeFiles', 'longhaul_kernels.dir');
  return readdirSync(kernels, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.cu'))
    .sort()
    .map((file) => join(folder, `${file}.o`));
}

function readReport(object: string): { reports: FunctionReport[]; seconds: number } {
  const path = `${object}.report`;
  if (!existsSync(path)) throw new Error(`${relative(root, path)} is missing: remove ${build}`);
  const text = readFileSync(path, 'utf8');
  const seconds = Number(/^seconds (\d+)$/m.exec(text)?.[1] ?? 0);
  return { reports: parsePtxasReport(text), seconds };
}

async function disassemble(
  nvcc: string,
  objects: readonly string[],
  architectures: readonly string[],
): Promise<Map<string, Instructions> | null> {
  let tool: Awaited<ReturnType<typeof findDisassembler>>;
  try {
    tool = await findDisassembler(nvcc);
  } catch (error) {
    const reason = (error as Error).message.replace(/\s+/g, ' ');
    print(`# skipped: instructions of kernels: no cuobjdump: ${reason}`);
    return null;
  }
  const functions = new Map<string, Instructions>();
  for (const object of objects) {
    for (const architecture of architectures) {
      for (const [key, counts] of parseSass(tool.sass(object, architecture))) {
        functions.set(key, counts);
      }
    }
  }
  return functions;
}

function printTable(functions: readonly CompiledFunction[]): void {
  const kinds = Object.keys(INSTRUCTIONS) as (keyof typeof INSTRUCTIONS)[];
  const head = ['kernel', 'arch', 'regs', 'warps', 'static', 'stack', 'spills', 'instr', ...kinds];
  const rows = functions.map(({ name, report, instructions }) => [
    report.isKernel ? name : `called: ${name}`,
    report.architecture,
    report.isKernel ? report.registers : '',
    report.isKernel ? warpsByRegisters(report.registers) : '',
    report.sharedBytes,
    report.stackBytes,
    report.spillStoreBytes + report.spillLoadBytes,
    instructions === null ? '' : countAll(instructions),
    ...kinds.map((kind) =>
      instructions === null ? '' : countMatching(instructions, INSTRUCTIONS[kind]),
    ),
  ]);
  const texts = [head, ...rows].map((row) => row.map(String));
  const widths = head.map((_, i) => Math.max(...texts.map((row) => row[i]!.length)));
  for (const row of texts) {
    const cells = row.map((cell, i) =>
      i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!),
    );
    print(cells.join('  ').trimEnd());
  }
  print('# warps: that the registers of a multiprocessor have room for, of 64;');
  print('# static: shared memory beside what a launch asks for; spills: bytes stored and loaded');
}

function printVerdicts(verdicts: readonly Verdict[]): number {
  const failed = verdicts.filter((verdict) => verdict.problems.length > 0);
  for (const { name, architecture, problems } of failed) {
    print(`not ok - ${name}, ${architecture}: ${problems.join('; ')}`);
  }
  print(`${verdicts.length - failed.length} passed, ${failed.length} failed`);
  return failed.length;
}

async function main(args: readonly string[]): Promise<number> {
  const jobs = args[0] === '--jobs' ? Number(args[1]) : Math.min(2, availableParallelism());
  if (!Number.isInteger(jobs) || jobs < 1 || (args.length > 0 && args[0] !== '--jobs')) {
    console.error('usage: run.js [--jobs N]');
    return 2;
  }
  const nvcc = findNvcc();
  if (nvcc === null) {
    print('# skipped: kernels by nvcc: no nvcc on the PATH, in CUDA_HOME or in /usr/local/cuda');
    print('0 passed, 0 failed');
    return 0;
  }
  try {
    await compile(nvcc, jobs);
  } catch (error) {
    print((error as Error).message);
    print('not ok - the CUDA plug-in or a test of it does not compile');
    print('0 passed, 1 failed');
    return 1;
  }
  const objects = objectFiles();
  const files = objects.map((object) => ({ object, ...readReport(object) }));
  const reports = files.flatMap((file) => file.reports);
  const architectures = [...new Set(reports.map((report) => report.architecture))].sort();
  const sass = await disassemble(nvcc, objects, architectures);
  const names = readableNames([...new Set(reports.map((r) => r.symbol))], readEnums(kernels));
  const functions = compiledFunctions(reports, names, sass);
  printTable(functions);
  const slow = files.sort((a, b) => b.seconds - a.seconds).slice(0, 8);
  const list = slow.map(
    (file) => `${relative(build, file.object).split('dir/')[1]} ${file.seconds}`,
  );
  print(`# seconds of compilation: ${list.join(', ')}`);
  return printVerdicts(judge(functions, sass !== null)) > 0 ? 1 : 0;
}

process.exitCode = await main(process.argv.slice(2));
