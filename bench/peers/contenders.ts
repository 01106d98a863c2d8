/** The engines of a comparison and their settings, each behind the same few methods. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/bench/machine.js';
import type { Workload } from '../../src/bench/workload.js';
import { ConfigError } from '../../src/config.js';
import { type LlamaBenchProgram, measureLlamaBench, openLlamaBench } from './llama-bench.js';
import type { LlamaPackage } from './node-llama-cpp.js';
import { type PeerHello, PeerProcess, type PeerSetup } from './protocol.js';

/** One engine with one group of settings, loaded with one model. */
export interface Contender {
  /** The engine: settings of one engine compete for its row. */
  peer: string;
  /** The settings, as they stand in the report. */
  config: string;
  hello: PeerHello;
  /** Seconds of a row; null where it cannot measure one. Throws an Error when the engine fails. */
  measure(workload: Workload): Promise<number | null>;
  stop(): Promise<void>;
}

export interface ContenderOptions {
  modelPath: string;
  threads: number;
  maxBatch: number;
  maxLength: number;
  /** K/V types of longhaul's own entries. */
  kvDtypes: readonly string[];
  /** Installed package, or null to leave it out. */
  llamaPackage: LlamaPackage | null;
  llamaBench: readonly LlamaBenchChoice[];
  /** Deepest row that a llama-bench measures. */
  llamaBenchDepth: number;
  vllmPython: string | null;
  /** Where checkpoints for vLLM are written. */
  scratch: string;
}

const SEED = 1;
const here = dirname(fileURLToPath(import.meta.url));

function setupOf(options: ContenderOptions, settings: PeerSetup['settings']): PeerSetup {
  const { modelPath, threads, maxBatch, maxLength } = options;
  return { modelPath, threads, maxBatch, maxLength, seed: SEED, settings };
}

export interface Longhaul extends Contender {
  limitSeconds(workload: Workload): Promise<number | null>;
}

/** A llama-bench to measure, and its name in the report. */
export interface LlamaBenchChoice {
  name: string;
  path: string;
}

/** "NAME=PATH", or a path alone. */
export function parseLlamaBench(text: string): LlamaBenchChoice {
  const [, name, path] = /^(?:([^=/]+)=)?(.+)$/s.exec(text) ?? [];
  if (!path) throw new ConfigError('--llama-bench', 'PATH or NAME=PATH', text);
  return { name: name ?? 'llama-bench', path };
}

/** One entry a K/V type. Throws an Error when not even one starts. */
export async function startLonghaul(
  options: ContenderOptions,
  fail: (what: string, error: unknown) => void,
): Promise<Longhaul[]> {
  const script = join(here, 'longhaul-child.js');
  const started: Longhaul[] = [];
  for (const kv of options.kvDtypes) {
    try {
      const child = await PeerProcess.start(process.execPath, [script], setupOf(options, { kv }));
      started.push({
        ...wrap('longhaul', `K/V ${kv}`, child),
        limitSeconds: (workload) => child.limitSeconds(workload),
      });
    } catch (error) {
      fail(`longhaul, K/V ${kv}`, error);
    }
  }
  if (started.length === 0) throw new Error('longhaul does not start');
  return started;
}

/** llama.cpp's settings that can win a row; the quantized V cache needs flash attention. */
export const LLAMA_SETTINGS = [
  { flashAttention: true, kv: 'f16' },
  { flashAttention: false, kv: 'f16' },
  { flashAttention: true, kv: 'bf16' },
  { flashAttention: true, kv: 'q8_0' },
] as const;

/**
 * Starts what was asked for, one after another: loading many models at once would need room twice.
 * What does not start is told to `fail` and left out: one setting that a model or a machine does
 * not take must not cost the others.
 */
export async function startPeers(
  options: ContenderOptions,
  fail: (what: string, error: unknown) => void,
): Promise<Contender[]> {
  const peers: Contender[] = [];
  const start = async (peer: string, config: string, child: Promise<PeerProcess>) => {
    try {
      peers.push(wrap(peer, config, await child));
    } catch (error) {
      fail(`${peer}, ${config}`, error);
    }
  };
  for (const { flashAttention, kv } of LLAMA_SETTINGS) {
    const flash = flashAttention ? 'on' : 'off';
    const config = `flash attention ${flash}, K/V ${kv}`;
    if (options.llamaPackage) {
      const { entry, version } = options.llamaPackage;
      const settings = { package: entry, version, flashAttention: flash, kv: kv.toUpperCase() };
      const script = join(here, 'node-llama-cpp-child.js');
      const setup = setupOf(options, settings);
      await start('llama.cpp', config, PeerProcess.start(process.execPath, [script], setup));
    }
  }
  for (const { name, path } of options.llamaBench) {
    try {
      const program = await openLlamaBench(path, options.modelPath);
      peers.push(...llamaBench(name, program, options));
    } catch (error) {
      fail(name, error);
    }
  }
  if (options.vllmPython) {
    const script = join(packageRoot(), 'bench', 'peers', 'vllm_bench.py');
    const setup = setupOf(options, { folder: join(options.scratch, 'checkpoints') });
    await start('vLLM', 'bf16', PeerProcess.start(options.vllmPython, [script], setup));
  }
  return peers;
}

function wrap(peer: string, config: string, child: PeerProcess): Contender {
  return {
    peer,
    config,
    hello: child.hello,
    measure: (workload) => child.measure(workload),
    stop: () => child.stop(),
  };
}

function llamaBench(
  name: string,
  program: LlamaBenchProgram,
  options: ContenderOptions,
): Contender[] {
  const { modelPath, threads, llamaBenchDepth } = options;
  return LLAMA_SETTINGS.map(({ flashAttention, kv }) => ({
    peer: name,
    config: `flash attention ${flashAttention ? 'on' : 'off'}, K/V ${kv}`,
    hello: { version: program.version, isa: '', threads },
    measure: async (workload) =>
      workload.depth <= llamaBenchDepth
        ? measureLlamaBench(program, { modelPath, threads, flashAttention, kv }, workload)
        : null,
    stop: async () => {},
  }));
}
