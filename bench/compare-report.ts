/** What bench/compare.ts reports: its rows, its table, and the block it appends to bench/README.md. */
import type { EngineBenchRow } from '../src/bench/engine-bench.js';
import type { Machine } from '../src/bench/machine.js';
import { type Spread, spread } from '../src/bench/statistics.js';
import { markdownTable, percentText, shortNumber, textTable } from '../src/bench/table.js';
import type { Contender } from './peers/contenders.js';

/** One row of work by one setting of longhaul, beside one peer. */
export interface CompareRow extends EngineBenchRow {
  model: string;
  /** longhaul's. */
  setting: string;
  /** Null where no peer measured the row. */
  peer: string | null;
  peer_config: string | null;
  peer_tokens_per_second: Spread | null;
  /** Median of longhaul over the peer's. */
  ratio: number | null;
  /** The fastest peer of the row; ratios of targets are against this one. */
  best_peer: boolean;
}

export interface RunDescription {
  machine: Machine;
  isa: string;
  commit: string | null;
  threads: number;
  /** Of the last minute, before anything was measured: what else the machine was doing. */
  load_average: number;
  versions: Record<string, string>;
}

export interface CompareReport extends RunDescription {
  date: string;
  rows: CompareRow[];
  /** Settings that failed, by model, and why. */
  failures: string[];
}

/** One row a peer, the fastest marked; a row without a peer when none measured it. */
export function peerRows(
  model: string,
  setting: string,
  row: EngineBenchRow,
  peers: ReadonlyArray<Pick<Contender, 'peer' | 'config'>>,
  seconds: ReadonlyArray<readonly number[]>,
): CompareRow[] {
  const own = { model, setting, ...row };
  const nobody = { peer: null, peer_config: null, peer_tokens_per_second: null, ratio: null };
  if (peers.length === 0) return [{ ...own, ...nobody, best_peer: false }];
  const tokens = row.tokens * row.batch;
  const speeds = seconds.map((times) => spread(times.map((time) => tokens / time)));
  const fastest = Math.max(...speeds.map(({ median }) => median));
  return peers.map(({ peer, config }, i) => ({
    ...own,
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

function describeRow({ work, batch, tokens, depth }: CompareRow): string {
  return `${work} ${batch > 1 ? `${batch} × ` : ''}${tokens} at ${depth}`;
}

/** Header and cells: a line for each peer of a row of work, in it all settings of longhaul. */
export function compareCells(report: CompareReport): string[][] {
  const settings = [...new Set(report.rows.map(({ setting }) => setting))];
  const lines = new Map<string, CompareRow[]>();
  for (const row of report.rows) {
    const key = JSON.stringify([row.model, describeRow(row), row.peer]);
    lines.set(key, [...(lines.get(key) ?? []), row]);
  }
  const header = [
    'model',
    'work',
    ...settings.flatMap((setting) => [`longhaul ${setting} tok/s`, 'of limit']),
    'peer',
    'setting',
    'peer tok/s',
    ...settings.map((setting) => `${setting} ratio`),
  ];
  const rows = [...lines.values()].map((line) => {
    const first = line[0]!;
    const own = settings.map((name) => line.find(({ setting }) => setting === name));
    return [
      first.model,
      describeRow(first),
      ...own.flatMap((row) =>
        row ? [spreadText(row.tokens_per_second), percentText(row.limit_share)] : ['', ''],
      ),
      first.peer ?? 'not measured',
      first.peer_config ?? '',
      first.peer_tokens_per_second ? spreadText(first.peer_tokens_per_second) : '',
      ...own.map((row) =>
        row && row.ratio !== null
          ? `${row.ratio.toFixed(2)}×${row.best_peer ? '' : ' (not the best)'}`
          : '',
      ),
    ];
  });
  return [header, ...rows];
}

/** Where and of what a report is: one sentence. */
export function describeRun(run: RunDescription): string {
  const { machine, versions } = run;
  const memory = shortNumber(machine.memory_bytes / 2 ** 30);
  const names = Object.entries(versions).map(([name, version]) => `${name}: ${version}`);
  return (
    `${machine.cpu}, ${machine.num_cpus} CPUs, ${memory} GiB, ${run.isa}; ${run.threads} threads; ` +
    `commit ${run.commit ?? 'unknown'}; Node ${machine.node}; ${names.join('; ')}; ` +
    `load average before ${shortNumber(run.load_average)}. Medians and extremes of runs in turn.`
  );
}

/** Lines that say what failed, for the end of a block; '' for none. */
export function failureList(failures: readonly string[]): string {
  return failures.map((line) => `\n- not measured: ${line}`).join('');
}

/** The block that --save appends to bench/README.md. */
export function markdownBlock(report: CompareReport): string {
  const table = markdownTable(compareCells(report));
  const failures = failureList(report.failures);
  return `\n### ${report.date.slice(0, 10)}\n\n${describeRun(report)} Tokens a second.\n\n${table}\n${failures}\n`;
}

export function reportText(report: CompareReport): string {
  return `${describeRun(report)} Tokens a second.\n\n${textTable(compareCells(report))}\n`;
}
