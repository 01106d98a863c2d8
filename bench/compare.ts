/**
 * longhaul beside its peers: same model file, same machine, same thread count, one run.
 *
 *   npm run bench:compare -- [--llama-bench PATH] [--vllm PYTHON] [--models LIST] [--json FILE] [--save]
 *
 * Of each row, every setting of every peer runs once unmeasured; that run also chooses each peer's
 * best setting. Then longhaul and the chosen settings take turns, A B A B, so that whatever else the
 * machine does falls on all of them. --save appends a dated block to bench/README.md.
 */
import { appendFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type EngineBenchRow, reportRow } from '../src/bench/engine-bench.js';
import { currentCommit, describeMachine, type Machine, packageRoot } from '../src/bench/machine.js';
import { type Spread, spread } from '../src/bench/statistics.js';
import { markdownTable, percentText, shortNumber, textTable } from '../src/bench/table.js';
import {
  describeWorkload,
  parseCount,
  parseCounts,
  type Workload,
  workloadLength,
  workloadTokens,
} from '../src/bench/workload.js';
import { loadAddon } from '../src/binding/addon.js';
import { cacheFolder } from '../src/models/cache.js';
import { chooseModels, compareRows, modelFile } from './compare-models.js';
import { type Contender, type Longhaul, startLonghaul, startPeers } from './peers/contenders.js';
import { installLlamaPackage, type LlamaPackage } from './peers/node-llama-cpp.js';

export interface CompareRow extends EngineBenchRow {
  model: string;
  /** Null where no peer measured the row. */
  peer: string | null;
  peer_config: string | null;
  peer_tokens_per_second: Spread | null;
  /** Median of longhaul over the peer's. */
  ratio: number | null;
  /** The fastest peer of the row; ratios of targets are against this one. */
  best_peer: boolean;
}

export interface CompareReport {
  date: string;
  machine: Machine;
  isa: string;
  commit: string | null;
  threads: number;
  /** Of the last minute, before anything was measured: what else the machine was doing. */
  load_average: number;
  versions: Record<string, string>;
  rows: CompareRow[];
  /** Settings that failed, by model, and why. */
  failures: string[];
}

interface Run {
  repeat: number;
  say: (line: string) => void;
  fail: (what: string, error: unknown) => void;
}

/** All rows of one model that fit in one cache size. */
async function compareGroup(
  title: string,
  workloads: readonly Workload[],
  longhaul: Longhaul,
  peers: readonly Contender[],
  run: Run,
): Promise<CompareRow[]> {
  const rows: CompareRow[] = [];
  for (const workload of workloads) {
    run.say(`${title}: ${describeWorkload(workload)}`);
    const best = await longhaul.limitSeconds(workload);
    await longhaul.measure(workload);
    const chosen = await chooseSettings(title, workload, peers, run);
    const own: number[] = [];
    const theirs = chosen.map((): number[] => []);
    for (let round = 0; round < run.repeat; round++) {
      own.push((await longhaul.measure(workload))!);
      for (const [i, peer] of chosen.entries()) theirs[i]!.push((await peer.measure(workload))!);
    }
    const row = reportRow(workload, own, best);
    rows.push(...peerRows(title, row, chosen, theirs, workloadTokens(workload)));
  }
  return rows;
}

/** Of each peer the setting that was fastest in one run. */
async function chooseSettings(
  title: string,
  workload: Workload,
  peers: readonly Contender[],
  run: Run,
): Promise<Contender[]> {
  const best = new Map<string, { contender: Contender; seconds: number }>();
  for (const contender of peers) {
    try {
      const seconds = await contender.measure(workload);
      if (seconds === null) continue;
      const known = best.get(contender.peer);
      if (!known || seconds < known.seconds) best.set(contender.peer, { contender, seconds });
    } catch (error) {
      const where = `${title}: ${describeWorkload(workload)}`;
      run.fail(`${where}: ${contender.peer}, ${contender.config}`, error);
    }
  }
  return [...best.values()].map(({ contender }) => contender);
}

/** One row a peer, the fastest marked; a row without a peer when none measured it. */
export function peerRows(
  model: string,
  row: EngineBenchRow,
  peers: ReadonlyArray<Pick<Contender, 'peer' | 'config'>>,
  seconds: ReadonlyArray<readonly number[]>,
  tokens: number,
): CompareRow[] {
  const nobody = { peer: null, peer_config: null, peer_tokens_per_second: null, ratio: null };
  if (peers.length === 0) return [{ model, ...row, ...nobody, best_peer: false }];
  const speeds = seconds.map((times) => spread(times.map((time) => tokens / time)));
  const fastest = Math.max(...speeds.map(({ median }) => median));
  return peers.map(({ peer, config }, i) => ({
    model,
    ...row,
    peer,
    peer_config: config,
    peer_tokens_per_second: speeds[i]!,
    ratio: row.tokens_per_second.median / speeds[i]!.median,
    best_peer: speeds[i]!.median === fastest,
  }));
}

function spreadText({ median, min, max }: Spread): string {
  return `${shortNumber(median)} (${shortNumber(min)}–${shortNumber(max)})`;
}

/** Header and cells of a report's rows. */
export function compareCells(report: CompareReport): string[][] {
  const header = [
    'model',
    'work',
    'longhaul tok/s',
    'of limit',
    'peer',
    'setting',
    'peer tok/s',
    'ratio',
  ];
  const rows = report.rows.map((row) => {
    const batch = row.batch > 1 ? `${row.batch} × ` : '';
    return [
      row.model,
      `${row.work} ${batch}${row.tokens} at ${row.depth}`,
      spreadText(row.tokens_per_second),
      percentText(row.limit_share),
      row.peer ?? 'not measured',
      row.peer_config ?? '',
      row.peer_tokens_per_second ? spreadText(row.peer_tokens_per_second) : '',
      row.ratio === null ? '' : `${row.ratio.toFixed(2)}×${row.best_peer ? '' : ' (not the best)'}`,
    ];
  });
  return [header, ...rows];
}

function describeRun(report: CompareReport): string {
  const { machine, versions } = report;
  const memory = shortNumber(machine.memory_bytes / 2 ** 30);
  const names = Object.entries(versions).map(([name, version]) => `${name}: ${version}`);
  return (
    `${machine.cpu}, ${machine.num_cpus} CPUs, ${memory} GiB, ${report.isa}; ${report.threads} threads; ` +
    `commit ${report.commit ?? 'unknown'}; Node ${machine.node}; ${names.join('; ')}; load average before ${shortNumber(report.load_average)}. ` +
    'Medians and extremes of runs in turn, tokens a second.'
  );
}

/** The block that --save appends to bench/README.md. */
export function markdownBlock(report: CompareReport): string {
  const failures = report.failures.map((line) => `\n- not measured: ${line}`).join('');
  const table = markdownTable(compareCells(report));
  return `\n### ${report.date.slice(0, 10)}\n\n${describeRun(report)}\n\n${table}\n${failures}\n`;
}

const OPTIONS = {
  'llama-bench': { type: 'string' },
  vllm: { type: 'string' },
  models: { type: 'string' },
  json: { type: 'string' },
  save: { type: 'boolean' },
  threads: { type: 'string' },
  repeat: { type: 'string', default: '5' },
  prompt: { type: 'string', default: '512' },
  generate: { type: 'string', default: '64' },
  depth: { type: 'string' },
  batch: { type: 'string', default: '16' },
  'node-llama-cpp': { type: 'string', default: 'latest' },
  help: { type: 'boolean' },
} as const;

const HELP = `usage: npm run bench:compare -- [options]
  --models LIST          keys or .gguf files, comma-separated (default: all)
  --llama-bench PATH     a llama-bench to measure instead of the npm package node-llama-cpp
  --vllm PYTHON          the Python in which vLLM is installed; measures it too
  --node-llama-cpp VER   version of the package, or none (default: latest)
  --threads N            (default: physical cores)
  --repeat N             measured rounds of a row (default: 5)
  --prompt N --generate N --depth LIST --batch N     change the rows
  --json FILE            write the report as JSON; - writes it to stdout and nothing else
  --save                 append a dated block to bench/README.md
`;

/** Of an idle machine; above it the numbers are not worth keeping. */
const LOAD_AVERAGE_MAX = 0.5;

async function main(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const models = chooseModels(values.models ?? null);
  const threads = parseCount(
    '--threads',
    values.threads ?? String(loadAddon().cpuInfo().defaultThreads),
    1,
    1024,
  );
  const rowOptions = {
    prompt: parseCount('--prompt', values.prompt, 1),
    generate: parseCount('--generate', values.generate, 1),
    depths: values.depth === undefined ? null : parseCounts('--depth', values.depth, 0),
    batch: parseCount('--batch', values.batch, 1),
  };
  const failures: string[] = [];
  const run: Run = {
    repeat: parseCount('--repeat', values.repeat, 1, 1000),
    say: (line) => process.stderr.write(`${line}\n`),
    fail: (what, error) => {
      const line = `${what}: ${(error as Error).message.replaceAll('\n', ' ')}`;
      failures.push(line);
      process.stderr.write(`${line}\n`);
    },
  };
  const scratch = join(cacheFolder(), 'bench');
  const wanted = values['node-llama-cpp'];
  let llamaPackage: LlamaPackage | null = null;
  if (values['llama-bench'] === undefined && wanted !== 'none') {
    run.say('llama.cpp: npm package node-llama-cpp');
    llamaPackage = installLlamaPackage(scratch, wanted);
  }
  const report: CompareReport = {
    date: new Date().toISOString(),
    machine: describeMachine(),
    isa: '',
    commit: currentCommit(packageRoot()),
    threads,
    load_average: loadavg()[0]!,
    versions: {},
    rows: [],
    failures,
  };
  if (report.load_average > LOAD_AVERAGE_MAX) {
    run.say(
      `load average ${shortNumber(report.load_average)}: other processes disturb this run, most of ` +
        'all engines whose threads spin at barriers',
    );
  }
  for (const model of models) {
    const modelPath = await modelFile(model, join(scratch, 'models'));
    for (const workloads of compareRows(model, rowOptions)) {
      const options = {
        modelPath,
        threads,
        maxBatch: Math.max(...workloads.map(({ batch }) => batch)),
        maxLength: Math.max(...workloads.map(workloadLength)),
        llamaPackage,
        llamaBench: values['llama-bench'] ?? null,
        vllmPython: values.vllm ?? null,
        scratch,
      };
      const longhaul = await startLonghaul(options);
      let peers: Contender[] = [];
      try {
        peers = await startPeers(options, run.fail);
        report.isa = longhaul.hello.isa;
        for (const { peer, hello } of [longhaul, ...peers]) report.versions[peer] = hello.version;
        report.rows.push(...(await compareGroup(model.title, workloads, longhaul, peers, run)));
      } finally {
        for (const contender of [longhaul, ...peers]) await contender.stop();
      }
    }
  }
  const json = `${JSON.stringify(report, null, 2)}\n`;
  if (values.json === '-') process.stdout.write(json);
  else process.stdout.write(`${describeRun(report)}\n\n${textTable(compareCells(report))}\n`);
  if (values.json !== undefined && values.json !== '-') writeFileSync(values.json, json);
  if (values.save) appendFileSync(join(packageRoot(), 'bench', 'README.md'), markdownBlock(report));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  try {
    await main();
  } catch (error) {
    process.stderr.write(`bench:compare: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
