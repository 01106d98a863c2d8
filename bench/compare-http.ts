/**
 * The HTTP half of bench:compare: longhaul, llama-server and vLLM as servers, each in a process of
 * its own, same model, same thread count, under the same two loads:
 *   load    64 requests of 512 random tokens in and 64 out, 16 at a time
 *   beside  one short stream while a long prompt is computed
 * All servers of a load are up, and those whose turn it is not are idle; they take turns, A B A B.
 */
import { loadavg } from 'node:os';
import { currentCommit, describeMachine, packageRoot } from '../src/bench/machine.js';
import { benchServe, firstModel } from '../src/bench/serve-bench.js';
import { randomRequests } from '../src/bench/serve-datasets.js';
import type { Goodput } from '../src/bench/serve-metrics.js';
import { type Spread, spread } from '../src/bench/statistics.js';
import { markdownTable, percentText, shortNumber, textTable } from '../src/bench/table.js';
import { loadAddon } from '../src/binding/addon.js';
import { loadModel } from '../src/models/load-model.js';
import { benchBeside } from './beside.js';
import { describeRun, failureList, type RunDescription } from './compare-report.js';
import { ServerProcess } from './peers/server-process.js';
import { type ServerOptions, serverSpecs } from './peers/servers.js';

export const HTTP_LOADS = ['load', 'beside'] as const;
export type HttpLoad = (typeof HTTP_LOADS)[number];

export interface HttpRow {
  load: HttpLoad;
  peer: string;
  config: string;
  /** Keys of `bench serve`'s result, or of BesideMetrics; over the rounds. */
  values: Record<string, Spread>;
}

export interface HttpReport extends RunDescription {
  date: string;
  model: string;
  settings: HttpSettings;
  rows: HttpRow[];
  failures: string[];
}

export interface HttpSettings {
  num_prompts: number;
  input_tokens: number;
  output_tokens: number;
  max_concurrency: number;
  goodput: Goodput;
  long_tokens: number;
  stream_tokens: number;
  itl_target_ms: number;
}

export const HTTP_SETTINGS: HttpSettings = {
  num_prompts: 64,
  input_tokens: 512,
  output_tokens: 64,
  max_concurrency: 16,
  goodput: { ttft: 2000, tpot: 100 },
  long_tokens: 7000, // 6.5K English words
  stream_tokens: 1024,
  itl_target_ms: 50,
};

export interface HttpOptions
  extends Pick<
    ServerOptions,
    'modelPath' | 'threads' | 'kvDtypes' | 'llamaServer' | 'vllmPython' | 'scratch'
  > {
  title: string;
  loads: readonly HttpLoad[];
  repeat: number;
  settings: HttpSettings;
  say: (line: string) => void;
  fail: (what: string, error: unknown) => void;
  failures: string[];
}

/** What is asked of one server in one round; its metrics by key. */
type Measure = (server: ServerProcess, model: string, seed: number) => Promise<Metrics>;
type Metrics = Record<string, number>;

export async function compareHttp(options: HttpOptions): Promise<HttpReport> {
  const { modelPath, threads, settings, failures } = options;
  const report: HttpReport = {
    date: new Date().toISOString(),
    machine: describeMachine(),
    isa: process.env.LONGHAUL_ISA ?? loadAddon().cpuInfo().isa,
    commit: currentCommit(packageRoot()),
    threads,
    load_average: loadavg()[0]!,
    model: options.title,
    settings,
    versions: {},
    rows: [],
    failures,
  };
  const { vocabSize } = loadModel(modelPath).native.config;
  for (const load of options.loads) {
    const measure =
      load === 'load' ? measureLoad(settings, vocabSize) : measureBeside(settings, vocabSize);
    report.rows.push(...(await compareLoad(load, measure, options, report.versions)));
  }
  return report;
}

const SPARE_TOKENS = 64;

/** Room for the longest request of a load. */
function sizes(load: HttpLoad, settings: HttpSettings): { parallel: number; maxLength: number } {
  const { input_tokens, output_tokens, max_concurrency, long_tokens, stream_tokens } = settings;
  if (load === 'load') {
    return { parallel: max_concurrency, maxLength: input_tokens + output_tokens + SPARE_TOKENS };
  }
  return { parallel: 2, maxLength: Math.max(long_tokens, stream_tokens) + SPARE_TOKENS };
}

async function compareLoad(
  load: HttpLoad,
  measure: Measure,
  options: HttpOptions,
  versions: Record<string, string>,
): Promise<HttpRow[]> {
  const { settings, say, fail, repeat } = options;
  const itlTargetMs = load === 'beside' ? settings.itl_target_ms : null;
  const specs = await serverSpecs({ ...options, ...sizes(load, settings), itlTargetMs }, fail);
  const turns: Array<{ server: ServerProcess; model: string; rounds: Metrics[] }> = [];
  try {
    for (const spec of specs) {
      const name = `${spec.peer}, ${spec.config}`;
      say(`${load}: starting ${name}`);
      try {
        const server = await ServerProcess.start(spec);
        turns.push({ server, model: await firstModel(server.url, null), rounds: [] });
        versions[spec.peer] = await spec.version(server.url);
      } catch (error) {
        fail(name, error);
      }
    }
    // Round 0 is not kept: kernels are compiled and pools touched in it.
    for (let round = 0; round <= repeat; round++) {
      for (const turn of [...turns]) {
        const { server, model, rounds } = turn;
        const name = `${server.spec.peer}, ${server.spec.config}`;
        say(`${load}: ${round === 0 ? 'warm-up' : `round ${round} of ${repeat}`}: ${name}`);
        try {
          const metrics = await measure(server, model, round);
          if (round > 0) rounds.push(metrics);
        } catch (error) {
          fail(`${load}: ${name}`, error);
          turns.splice(turns.indexOf(turn), 1);
          await server.stop();
        }
      }
    }
    return turns.map(({ server: { spec }, rounds }) => ({
      load,
      peer: spec.peer,
      config: spec.config,
      values: spreads(rounds),
    }));
  } finally {
    for (const { server } of turns) await server.stop();
  }
}

function measureLoad(settings: HttpSettings, vocabSize: number): Measure {
  return async (server, model, seed) => {
    const { metrics, outcomes } = await benchServe({
      baseUrl: server.url,
      endpoint: '/v1/completions',
      model,
      apiKey: null,
      ignoreEos: true,
      requests: randomRequests({
        numPrompts: seed === 0 ? settings.max_concurrency : settings.num_prompts,
        inputLength: settings.input_tokens,
        outputLength: settings.output_tokens,
        rangeRatio: 0,
        prefixLength: 0,
        vocabSize,
        seed,
      }),
      requestRate: Infinity,
      maxConcurrency: settings.max_concurrency,
      goodput: settings.goodput,
      seed,
    });
    checkOutcomes(outcomes, settings);
    return Object.fromEntries(Object.entries(metrics).map(([key, value]) => [key, value ?? 0]));
  };
}

/** Throws an Error unless every request was computed in full: a cut prompt would flatter a server. */
export function checkOutcomes(
  outcomes: ReadonlyArray<{ error: string | null; promptTokens: number; outputTokens: number }>,
  { input_tokens, output_tokens }: Pick<HttpSettings, 'input_tokens' | 'output_tokens'>,
): void {
  for (const { error, promptTokens, outputTokens } of outcomes) {
    if (error !== null) throw new Error(error);
    if (promptTokens < input_tokens || outputTokens !== output_tokens) {
      throw new Error(
        `${promptTokens} tokens in and ${outputTokens} out, not ${input_tokens} and ${output_tokens}`,
      );
    }
  }
}

function measureBeside(settings: HttpSettings, vocabSize: number): Measure {
  return async (server, model, seed) => ({
    ...(await benchBeside({
      baseUrl: server.url,
      endpoint: '/v1/completions',
      model,
      apiKey: null,
      ignoreEos: true,
      longTokens: settings.long_tokens,
      streamTokens: settings.stream_tokens,
      vocabSize,
      seed: seed * 2, // each run draws from two seeds
    })),
  });
}

function spreads(rounds: readonly Metrics[]): Record<string, Spread> {
  const keys = Object.keys(rounds[0] ?? {});
  return Object.fromEntries(keys.map((key) => [key, spread(rounds.map((round) => round[key]!))]));
}

interface Column {
  title: string;
  key: string;
  /** Whether more is better; null where a ratio says nothing. */
  more: boolean | null;
  percent?: boolean;
}

const COLUMNS: Record<HttpLoad, readonly Column[]> = {
  load: [
    { title: 'total tok/s', key: 'total_token_throughput', more: true },
    { title: 'TTFT median ms', key: 'median_ttft_ms', more: false },
    { title: 'TPOT median ms', key: 'median_tpot_ms', more: false },
    { title: 'ITL median ms', key: 'median_itl_ms', more: false },
    { title: 'ITL p99 ms', key: 'p99_itl_ms', more: false },
    { title: 'E2E median ms', key: 'median_e2el_ms', more: false },
    { title: 'good requests/s', key: 'request_goodput', more: true },
    { title: 'longest stall ms', key: 'max_stall_ms', more: false },
  ],
  beside: [
    { title: 'gap p99 ms', key: 'p99_gap_ms', more: false },
    { title: 'gap max ms', key: 'max_gap_ms', more: false },
    { title: 'gap median ms', key: 'median_gap_ms', more: false },
    { title: 'gap alone ms', key: 'alone_gap_ms', more: false },
    { title: 'TTFT alone ms', key: 'solo_ttft_ms', more: false },
    { title: 'TTFT beside ms', key: 'beside_ttft_ms', more: false },
    { title: 'share of solo speed', key: 'prefill_share', more: null, percent: true },
  ],
};

/** Header, a line for each server, and for each of longhaul's what it is of the column's best peer. */
export function httpCells(load: HttpLoad, rows: readonly HttpRow[]): string[][] {
  const columns = COLUMNS[load];
  const header = ['server', 'setting', ...columns.map(({ title }) => title)];
  const mine = rows.filter((row) => row.load === load);
  const peers = mine.filter(({ peer }) => peer !== 'longhaul');
  const lines = mine.map((row) => [
    row.peer,
    row.config,
    ...columns.map(({ key, percent }) => spreadText(row.values[key], percent ?? false)),
  ]);
  const ratios = mine
    .filter(({ peer }) => peer === 'longhaul' && peers.length > 0)
    .map((row) => [
      'longhaul / best peer',
      row.config,
      ...columns.map((column) => ratioText(row, peers, column)),
    ]);
  return [header, ...lines, ...ratios];
}

function spreadText(values: Spread | undefined, percent: boolean): string {
  if (!values) return '';
  const text = percent ? percentText : shortNumber;
  const { median, min, max } = values;
  return min === max ? text(median) : `${text(median)} (${text(min)}–${text(max)})`;
}

function ratioText(row: HttpRow, peers: readonly HttpRow[], { key, more }: Column): string {
  const own = row.values[key]?.median;
  const theirs = peers.flatMap(({ values }) => values[key]?.median ?? []);
  if (more === null || own === undefined || theirs.length === 0) return '';
  const best = more ? Math.max(...theirs) : Math.min(...theirs);
  return best === 0 ? '' : `${(own / best).toFixed(2)}×`;
}

function describeLoad(load: HttpLoad, settings: HttpSettings): string {
  if (load === 'beside') {
    return (
      `One short stream beside a prompt of ${settings.long_tokens} tokens; gaps of the stream while the ` +
      'prompt is computed; share: speed of the prompt beside the stream over its speed alone.'
    );
  }
  const limits = Object.entries(settings.goodput).map(([key, ms]) => `${key} ≤ ${ms} ms`);
  return (
    `${settings.num_prompts} requests of ${settings.input_tokens} random tokens in and ` +
    `${settings.output_tokens} out, ${settings.max_concurrency} at a time; a good request has ${limits.join(', ')}.`
  );
}

function sections(report: HttpReport, table: (rows: string[][]) => string): string[] {
  return HTTP_LOADS.filter((load) => report.rows.some((row) => row.load === load)).map(
    (load) => `${describeLoad(load, report.settings)}\n\n${table(httpCells(load, report.rows))}`,
  );
}

function title(report: HttpReport): string {
  return `${report.model}. ${describeRun(report)}`;
}

/** The block that --save appends to bench/README.md. */
export function httpMarkdown(report: HttpReport): string {
  const parts = [title(report), ...sections(report, markdownTable)];
  return `\n### ${report.date.slice(0, 10)}, through HTTP\n\n${parts.join('\n\n')}\n${failureList(report.failures)}\n`;
}

export function httpText(report: HttpReport): string {
  return `${[title(report), ...sections(report, textTable)].join('\n\n')}\n`;
}
