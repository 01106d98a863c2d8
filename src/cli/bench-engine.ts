/** longhaul bench engine: the model, the rows, a table or JSON. */
import { writeFileSync } from 'node:fs';
import { benchEngine, type EngineBenchReport, LIMIT_EFFORT } from '../bench/engine-bench.js';
import { percentText, shortNumber, textTable } from '../bench/table.js';
import {
  describeWorkload,
  listWorkloads,
  parseCount,
  parseCounts,
  type Workload,
} from '../bench/workload.js';
import { ConfigError, type ServeConfig, serveConfig } from '../config.js';
import { EngineError } from '../errors.js';
import { createLogger } from '../log.js';
import { EXIT } from './exit-codes.js';
import { obtainModel } from './obtain-model.js';
import { makeReporter } from './progress.js';

export interface BenchEngineFlags {
  prompt: string;
  generate: string;
  depth: string;
  batch: string;
  together?: boolean;
  attention: string;
  depthFill: string;
  repeat: string;
  json?: string;
}

const SEED = 1;

/** Returns the exit code; throws ConfigError and EngineError. */
export async function runBenchEngine(
  flags: BenchEngineFlags,
  given: Partial<Record<keyof ServeConfig, unknown>>,
): Promise<number> {
  const workloads = parseWorkloads(flags);
  const repeat = parseCount('--repeat', flags.repeat, 1, 10_000);
  const config = serveConfig(given);
  const logger = createLogger({ level: 'warn', destination: process.stderr, pretty: true });
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new Error('interrupted'));
  process.once('SIGINT', onSignal);
  const reporter = makeReporter(flags.json === '-');
  try {
    const model = await obtainModel(config, logger, controller.signal, (progress) =>
      reporter.onProgress(progress),
    );
    reporter.stop();
    process.off('SIGINT', onSignal);
    const report = await benchEngine(model, {
      workloads,
      repeat,
      threads: config.threads,
      isaLimit: config.isaLimit,
      kvDtype: config.kvDtype,
      seed: SEED,
      limits: LIMIT_EFFORT,
      onRow: (workload) => {
        if (process.stderr.isTTY) process.stderr.write(`${describeWorkload(workload)}\n`);
      },
    });
    const json = `${JSON.stringify(report, null, 2)}\n`;
    if (flags.json === '-') process.stdout.write(json);
    else process.stdout.write(`${engineTable(report)}\n`);
    if (flags.json !== undefined && flags.json !== '-') writeFileSync(flags.json, json);
    return EXIT.ok;
  } finally {
    reporter.stop();
    process.off('SIGINT', onSignal);
  }
}

function parseWorkloads(flags: BenchEngineFlags): Workload[] {
  for (const attention of flags.attention.split(',')) {
    if (attention.trim() === 'exact') continue;
    if (attention.trim() !== 'squeezed') throw new ConfigError('--attention', 'exact', attention);
    throw unsupported('--attention squeezed', 'attention is always exact');
  }
  if (flags.depthFill === 'clustered') {
    throw unsupported('--depth-fill clustered', 'the cache is filled by a prefill');
  }
  if (flags.depthFill !== 'prefill') {
    throw new ConfigError('--depth-fill', 'prefill', flags.depthFill);
  }
  const workloads = listWorkloads({
    prompt: parseCount('--prompt', flags.prompt, 0),
    generate: parseCount('--generate', flags.generate, 0),
    depths: parseCounts('--depth', flags.depth, 0),
    batches: parseCounts('--batch', flags.batch, 1),
    together: flags.together === true,
  });
  if (workloads.length === 0) throw new ConfigError('--generate', 'tokens to prefill or decode', 0);
  return workloads;
}

function unsupported(what: string, instead: string): EngineError {
  return new EngineError('ERR_INVALID_REQUEST', `${what} is not supported yet: ${instead}`);
}

/** The report as people read it. */
export function engineTable(report: EngineBenchReport): string {
  const { machine, rows } = report;
  const lines = rows.map((row) => {
    const { median, min, max } = row.tokens_per_second;
    return [
      row.work,
      String(row.tokens),
      String(row.depth),
      String(row.batch),
      shortNumber(median),
      shortNumber(min),
      shortNumber(max),
      percentText(row.limit_share),
    ];
  });
  const read = shortNumber(machine.read_bytes_per_second / 1e9);
  const operations = shortNumber(machine.operations_per_second / 1e12);
  return [
    `${report.model}, ${report.isa}, ${report.threads} threads, K/V ${report.kv_dtype}, commit ${report.commit ?? 'unknown'}`,
    `${machine.cpu}, ${machine.num_cpus} CPUs; limits measured: ${read} GB/s, ${operations} Tops/s`,
    '',
    textTable([['work', 'tokens', 'depth', 'batch', 'tok/s', 'min', 'max', 'of limit'], ...lines]),
  ].join('\n');
}
