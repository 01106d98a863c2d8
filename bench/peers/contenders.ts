/** The engines of a comparison and their settings, each behind the same few methods. */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { packageRoot } from '../../src/bench/machine.js';
import type { Workload } from '../../src/bench/workload.js';
import { measureLlamaBench } from './llama-bench.js';
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
  /** Installed package, or null to leave it out. */
  llamaPackage: LlamaPackage | null;
  llamaBench: string | null;
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

export async function startLonghaul(options: ContenderOptions): Promise<Longhaul> {
  const script = join(here, 'longhaul-child.js');
  const child = await PeerProcess.start(
    process.execPath,
    [script],
    setupOf(options, { kv: 'f16' }),
  );
  return {
    peer: 'longhaul',
    config: 'K/V f16',
    hello: child.hello,
    measure: (workload) => child.measure(workload),
    limitSeconds: (workload) => child.limitSeconds(workload),
    stop: () => child.stop(),
  };
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
    if (options.llamaBench) peers.push(llamaBench(options, options.llamaBench, flashAttention, kv));
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
  options: ContenderOptions,
  path: string,
  flashAttention: boolean,
  kv: string,
): Contender {
  const { modelPath, threads } = options;
  return {
    peer: 'llama-bench',
    config: `flash attention ${flashAttention ? 'on' : 'off'}, K/V ${kv}`,
    hello: { version: path, isa: '', threads },
    measure: (workload) =>
      measureLlamaBench(path, { modelPath, threads, flashAttention, kv }, workload),
    stop: async () => {},
  };
}
