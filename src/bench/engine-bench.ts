/**
 * `longhaul bench engine`: speed inside the engine, as llama-bench measures it. Each row runs once
 * unmeasured and then `repeat` times; the machine's limits are measured in the same run, beside
 * every row, and the best of them counts.
 */
import { loadAddon, type NativeModel } from '../binding/addon.js';
import { type DriverOptions, EngineDriver } from './engine-driver.js';
import { type MachineLimits, secondsAtLimit } from './limits.js';
import { currentCommit, describeMachine, type Machine, packageRoot } from './machine.js';
import { type Spread, spread } from './statistics.js';
import { type Workload, workloadLength, workloadTokens } from './workload.js';

export interface EngineBenchRow {
  work: Workload['work'];
  /** Of one sequence: prompt tokens, generated tokens, or both. */
  tokens: number;
  depth: number;
  batch: number;
  attention: 'exact';
  /** Bytes read over the bytes of exact attention. */
  budget_measured: number;
  /** Of all sequences together. */
  tokens_per_second: Spread;
  /** Speed over what the machine's limits would allow; null where a limit is not known. */
  limit_share: number | null;
}

export interface EngineBenchReport {
  machine: Machine & { read_bytes_per_second: number; operations_per_second: number };
  isa: string;
  commit: string | null;
  model: string;
  threads: number;
  kv_dtype: string;
  rows: EngineBenchRow[];
}

export interface EngineBenchOptions extends Omit<DriverOptions, 'maxBatch' | 'maxLength'> {
  workloads: readonly Workload[];
  /** Measured runs of each row. */
  repeat: number;
  /** Size of the limits' measurement; tests shrink it. */
  limits: { bufferBytes: number; seconds: number };
  /** Called before each row. */
  onRow: (workload: Workload) => void;
}

export const LIMIT_EFFORT = { bufferBytes: 256 * 2 ** 20, seconds: 0.1 } as const;

/** Throws EngineError. */
export async function benchEngine(
  model: { name: string; native: NativeModel },
  options: EngineBenchOptions,
): Promise<EngineBenchReport> {
  const { workloads } = options;
  const driver = await EngineDriver.create(model.native, {
    ...options,
    maxBatch: Math.max(...workloads.map(({ batch }) => batch)),
    maxLength: Math.max(...workloads.map(workloadLength)),
  });
  try {
    const { info } = driver;
    let limits: MachineLimits = { readBytesPerSecond: 0, operationsPerSecond: 0 };
    const measureLimits = (): void => {
      const now = loadAddon().measureLimits({
        threads: info.threads,
        isaLimit: options.isaLimit,
        ...options.limits,
      });
      limits = better(limits, now);
    };
    const measured: Array<[Workload, number[]]> = [];
    for (const workload of workloads) {
      options.onRow(workload);
      measureLimits();
      await driver.measure(workload);
      const seconds: number[] = [];
      for (let i = 0; i < options.repeat; i++) seconds.push(await driver.measure(workload));
      measured.push([workload, seconds]);
    }
    measureLimits();
    return {
      machine: {
        ...describeMachine(),
        read_bytes_per_second: limits.readBytesPerSecond,
        operations_per_second: limits.operationsPerSecond,
      },
      isa: info.isa,
      commit: currentCommit(packageRoot()),
      model: model.name,
      threads: info.threads,
      kv_dtype: info.kvDtype,
      rows: measured.map(([workload, seconds]) =>
        reportRow(workload, seconds, secondsAtLimit(workload, model.native, info, limits)),
      ),
    };
  } finally {
    await driver.close();
  }
}

function better(left: MachineLimits, right: MachineLimits): MachineLimits {
  return {
    readBytesPerSecond: Math.max(left.readBytesPerSecond, right.readBytesPerSecond),
    operationsPerSecond: Math.max(left.operationsPerSecond, right.operationsPerSecond),
  };
}

/** `best` is the row's time at the machine's limits, null when unknown. */
export function reportRow(
  workload: Workload,
  seconds: readonly number[],
  best: number | null,
): EngineBenchRow {
  const tokens = workloadTokens(workload);
  const speed = spread(seconds.map((time) => tokens / time));
  return {
    work: workload.work,
    tokens: tokens / workload.batch,
    depth: workload.depth,
    batch: workload.batch,
    attention: 'exact',
    budget_measured: 1,
    tokens_per_second: speed,
    limit_share: best === null ? null : (speed.median * best) / tokens,
  };
}
