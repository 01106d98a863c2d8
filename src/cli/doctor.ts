/** longhaul doctor: what this machine offers, as text or JSON, and why a backend was or was not chosen. */
import { execFile } from 'node:child_process';
import { readdirSync, statSync } from 'node:fs';
import { arch, cpus, platform, release, totalmem } from 'node:os';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { type Addon, loadAddon } from '../binding/addon.js';
import { availableMemory, defaultKvMemory, formatSize } from '../config.js';
import { packageVersion } from '../http/version.js';
import { cacheFolder } from '../models/cache.js';
import { KNOWN_MODELS } from '../models/registry.js';
import { cachedKnownModel } from '../models/sources.js';
import { automaticBackend, type BackendVerdict, backendVerdicts } from './backend-choice.js';
import { EXIT } from './exit-codes.js';

const execute = promisify(execFile);
/** Tools that hang (a driver in trouble) must not hang the report. */
const TOOL_TIMEOUT_MS = 5_000;

interface CachedFile {
  path: string;
  bytes: number;
}

export interface DoctorReport {
  version: string;
  node: string;
  system: string;
  cpu: {
    model: string;
    processors: number;
    features: string[];
    isa: string | null;
    isaLimit: string | null;
    threads: number | null;
  };
  memory: { totalBytes: number; availableBytes: number; kvMemoryBytes: number };
  gpus: string[] | null;
  cudaToolkit: string | null;
  tools: {
    python: string | null;
    pip: string | null;
    cmake: string | null;
    compiler: string | null;
  };
  addon: { version: string | null; error: string | null };
  backends: BackendVerdict[];
  chosenBackend: string | null;
  cache: { folder: string; models: CachedFile[]; known: Array<{ name: string; cached: boolean }> };
}

export async function runDoctor(options: { json?: boolean }): Promise<number> {
  const report = await examine();
  process.stdout.write(options.json ? `${JSON.stringify(report, null, 2)}\n` : render(report));
  return report.chosenBackend === null ? EXIT.device : EXIT.ok;
}

async function examine(): Promise<DoctorReport> {
  const [gpus, nvcc, python, pip, cmake, compiler] = await Promise.all([
    output('nvidia-smi', ['--query-gpu=name,memory.total,driver_version', '--format=csv,noheader']),
    output('nvcc', ['--version']),
    output('python3', ['--version']),
    output('python3', ['-m', 'pip', '--version']),
    output('cmake', ['--version']),
    output('c++', ['--version']),
  ]);
  const native = examineAddon();
  const backends = backendVerdicts(native.addon, native.error);
  const cache = cacheFolder();
  return {
    version: packageVersion(),
    node: process.version,
    system: `${platform()} ${release()} ${arch()}`,
    cpu: {
      model: native.info?.model ?? cpus()[0]?.model ?? 'unknown',
      processors: cpus().length,
      features: native.info?.features ?? [],
      isa: native.info?.isa ?? null,
      isaLimit: process.env.LONGHAUL_ISA || null,
      threads: native.info?.defaultThreads ?? null,
    },
    memory: {
      totalBytes: totalmem(),
      availableBytes: availableMemory(),
      kvMemoryBytes: defaultKvMemory(),
    },
    gpus: gpus === null ? null : gpus.split('\n'),
    cudaToolkit: nvcc === null ? null : (/release [\d.]+/.exec(nvcc)?.[0] ?? nvcc),
    tools: { python, pip: firstLine(pip), cmake: firstLine(cmake), compiler: firstLine(compiler) },
    addon: { version: native.version, error: native.error },
    backends,
    chosenBackend: automaticBackend(backends),
    cache: {
      folder: cache,
      models: cachedFiles(join(cache, 'models')),
      known: KNOWN_MODELS.map((model) => ({
        name: model.name,
        cached: cachedKnownModel(model, cache) !== null,
      })),
    },
  };
}

function examineAddon(): {
  addon: Addon | null;
  version: string | null;
  info: ReturnType<ReturnType<typeof loadAddon>['cpuInfo']> | null;
  error: string | null;
} {
  try {
    const addon = loadAddon();
    return { addon, version: addon.version, info: addon.cpuInfo(), error: null };
  } catch (error) {
    return { addon: null, version: null, info: null, error: (error as Error).message };
  }
}

async function output(command: string, args: string[]): Promise<string | null> {
  try {
    const { stdout } = await execute(command, args, { timeout: TOOL_TIMEOUT_MS });
    return stdout.trim() || null;
  } catch {
    return null;
  }
}

function firstLine(text: string | null): string | null {
  return text?.split('\n')[0] ?? null;
}

function cachedFiles(folder: string): CachedFile[] {
  const files: CachedFile[] = [];
  try {
    for (const entry of readdirSync(folder, { recursive: true })) {
      const path = join(folder, String(entry));
      const status = statSync(path);
      if (status.isFile() && /\.(gguf|safetensors|partial)$/.test(path)) {
        files.push({ path: relative(folder, path), bytes: status.size });
      }
    }
  } catch {
    // No cache yet.
  }
  return files.sort((a, b) => (a.path < b.path ? -1 : 1));
}

function render(report: DoctorReport): string {
  const lines: string[] = [];
  const row = (name: string, value: string): void => {
    lines.push(`  ${name.padEnd(12)} ${value}`);
  };
  const head = (title: string): void => {
    lines.push('', title);
  };
  lines.push(`longhaul ${report.version}`);
  row('Node.js', report.node);
  row('system', report.system);
  head('Processor');
  row('model', `${report.cpu.model}, ${report.cpu.processors} processors`);
  row('features', report.cpu.features.join(' ') || 'unknown (the addon is not built)');
  const limit = report.cpu.isaLimit ? ` (LONGHAUL_ISA allows up to ${report.cpu.isaLimit})` : '';
  row(
    'chosen',
    report.cpu.isa ? `${report.cpu.isa}, ${report.cpu.threads} threads${limit}` : 'none',
  );
  head('Memory');
  row('total', formatSize(report.memory.totalBytes));
  row('available', formatSize(report.memory.availableBytes));
  row(
    'K/V cache',
    `${formatSize(report.memory.kvMemoryBytes)} unless --kv-memory says otherwise or a GPU runs the model`,
  );
  head('GPU');
  for (const gpu of report.gpus ?? ['none found (nvidia-smi does not answer)']) row('device', gpu);
  row('toolkit', report.cudaToolkit ?? 'no nvcc');
  head('Backends');
  for (const backend of report.backends) {
    const mark =
      backend.name === report.chosenBackend ? 'chosen' : backend.usable ? 'usable' : 'no';
    row(backend.name, `${mark}: ${backend.reason}`);
  }
  head('Tools');
  for (const [name, version] of Object.entries(report.tools)) row(name, version ?? 'not found');
  head(`Models in ${report.cache.folder}`);
  for (const model of report.cache.known)
    row(model.name, model.cached ? 'in the cache' : `not fetched yet: longhaul pull ${model.name}`);
  for (const file of report.cache.models)
    lines.push(`  ${formatSize(file.bytes).padStart(10)}  ${file.path}`);
  return `${lines.join('\n')}\n`;
}
