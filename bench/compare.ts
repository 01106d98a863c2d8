/**
 * longhaul beside its peers: same model file, same machine, same thread count, one run.
 *
 *   npm run bench:compare -- [--llama-bench [NAME=]PATH]... [--vllm PYTHON] [--models LIST] [--save]
 *   npm run bench:compare -- --http [--llama-server PATH] [--vllm PYTHON] [--save]
 *
 * Of each row, every setting of every peer runs once unmeasured; that run also chooses each peer's
 * best setting. Then longhaul's settings and the chosen ones take turns, A B A B, so that whatever
 * else the machine does falls on all of them. --save appends a dated block to bench/README.md. The
 * comparison through HTTP is compare-http.ts's.
 */
import { appendFileSync, writeFileSync } from 'node:fs';
import { loadavg } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { reportRow } from '../src/bench/engine-bench.js';
import { currentCommit, describeMachine, packageRoot } from '../src/bench/machine.js';
import { shortNumber } from '../src/bench/table.js';
import {
  describeWorkload,
  parseCount,
  parseCounts,
  type Workload,
  workloadLength,
} from '../src/bench/workload.js';
import { loadAddon } from '../src/binding/addon.js';
import { ConfigError } from '../src/config.js';
import { cacheFolder } from '../src/models/cache.js';
import { compareHttp, HTTP_LOADS, HTTP_SETTINGS, httpMarkdown, httpText } from './compare-http.js';
import {
  type CompareModel,
  chooseModels,
  compareRows,
  modelFile,
  selectRows,
} from './compare-models.js';
import {
  type CompareReport,
  type CompareRow,
  markdownBlock,
  peerRows,
  reportText,
} from './compare-report.js';
import {
  type Contender,
  type Longhaul,
  parseLlamaBench,
  startLonghaul,
  startPeers,
} from './peers/contenders.js';
import { installLlamaPackage, type LlamaPackage } from './peers/node-llama-cpp.js';

const OPTIONS = {
  'llama-bench': { type: 'string', multiple: true },
  'llama-bench-depth': { type: 'string', default: '4096' },
  vllm: { type: 'string' },
  models: { type: 'string' },
  kv: { type: 'string' },
  rows: { type: 'string' },
  json: { type: 'string' },
  save: { type: 'boolean' },
  threads: { type: 'string' },
  repeat: { type: 'string' },
  prompt: { type: 'string', default: '512' },
  generate: { type: 'string', default: '64' },
  depth: { type: 'string' },
  batch: { type: 'string', default: '16' },
  'node-llama-cpp': { type: 'string', default: 'latest' },
  http: { type: 'boolean' },
  loads: { type: 'string' },
  'llama-server': { type: 'string' },
  help: { type: 'boolean' },
} as const;

const HELP = `usage: npm run bench:compare -- [options]
  --models LIST          keys or .gguf files, comma-separated (default: all; smollm2 with --http)
  --vllm PYTHON          the Python in which vLLM is installed; measures it too
  --kv LIST              K/V types of longhaul (default: f16,q8; f16 with --http)
  --threads N            (default: physical cores)
  --repeat N             measured rounds of a row (default: 5; 3 with --http)
  --json FILE            write the report as JSON; - writes it to stdout and nothing else
  --save                 append a dated block to bench/README.md

inside the engines:
  --llama-bench [NAME=]PATH   a llama-bench to measure too, under this name; may be repeated
  --llama-bench-depth N  deepest row of llama-bench, which fills its cache anew each time (default: 4096)
  --node-llama-cpp VER   version of the npm package, or none (default: latest)
  --prompt N --generate N --depth LIST --batch N     change the rows; a batch of 1 leaves those of many out
  --rows LIST            only rows whose words contain one of these, such as "decode 64 at 0"

through HTTP:
  --http                 compare servers
  --llama-server PATH    a llama-server to measure
  --loads LIST           of ${HTTP_LOADS.join(', ')} (default: both)
`;

/** Of an idle machine; above it the numbers are not worth keeping. */
const LOAD_AVERAGE_MAX = 0.5;

/** What of a run all its parts need. */
interface Run {
  repeat: number;
  progress: Progress;
  fail: (what: string, error: unknown) => void;
}

/** Says what is being measured, and how long the rest will take if it goes on like this. */
class Progress {
  private readonly begin = performance.now();
  private done = 0;

  constructor(
    private readonly total: number,
    private readonly say: (line: string) => void,
  ) {}

  next(what: string): void {
    const minutes = (performance.now() - this.begin) / 60_000;
    const left =
      this.done === 0
        ? ''
        : `, about ${minutesText((minutes / this.done) * (this.total - this.done))} to go`;
    this.done++;
    this.say(`${this.done} of ${this.total}, ${minutesText(minutes)}${left}: ${what}`);
  }
}

function minutesText(minutes: number): string {
  return `${minutes.toFixed(minutes < 10 ? 1 : 0)} min`;
}

/** All rows of one model that fit in one cache size. */
async function compareGroup(
  title: string,
  workloads: readonly Workload[],
  own: readonly Longhaul[],
  peers: readonly Contender[],
  run: Run,
): Promise<CompareRow[]> {
  const rows: CompareRow[] = [];
  for (const workload of workloads) {
    run.progress.next(`${title}: ${describeWorkload(workload)}`);
    const limits: Array<number | null> = [];
    for (const longhaul of own) {
      limits.push(await longhaul.limitSeconds(workload));
      await longhaul.measure(workload);
    }
    const chosen = await chooseSettings(title, workload, peers, run);
    const contenders = [...own, ...chosen];
    const seconds = contenders.map((): number[] => []);
    for (let round = 0; round < run.repeat; round++) {
      for (const [i, contender] of contenders.entries()) {
        seconds[i]!.push((await contender.measure(workload))!);
      }
    }
    const theirs = seconds.slice(own.length);
    for (const [i, { config }] of own.entries()) {
      const row = reportRow(workload, seconds[i]!, limits[i]!);
      rows.push(...peerRows(title, config, row, chosen, theirs));
    }
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

function parseFlags() {
  const { values } = parseArgs({ options: OPTIONS });
  const { http = false } = values;
  const failures: string[] = [];
  const say = (line: string): void => void process.stderr.write(`${line}\n`);
  const threads = values.threads ?? String(loadAddon().cpuInfo().defaultThreads);
  return {
    ...values,
    http,
    models: chooseModels(values.models ?? (http ? 'smollm2' : null)),
    kvDtypes: (values.kv ?? (http ? 'f16' : 'f16,q8')).split(','),
    threads: parseCount('--threads', threads, 1, 1024),
    repeat: parseCount('--repeat', values.repeat ?? (http ? '3' : '5'), 1, 1000),
    llamaBench: (values['llama-bench'] ?? []).map(parseLlamaBench),
    llamaBenchDepth: parseCount('--llama-bench-depth', values['llama-bench-depth'], 0),
    rowOptions: {
      prompt: parseCount('--prompt', values.prompt, 1),
      generate: parseCount('--generate', values.generate, 1),
      depths: values.depth === undefined ? null : parseCounts('--depth', values.depth, 0),
      batch: parseCount('--batch', values.batch, 1),
    },
    rowWords: values.rows?.split(',') ?? null,
    loads: chooseLoads(values.loads ?? null),
    scratch: join(cacheFolder(), 'bench'),
    failures,
    say,
    fail: (what: string, error: unknown) => {
      const line = `${what}: ${(error as Error).message.replaceAll('\n', ' ')}`;
      failures.push(line);
      say(line);
    },
  };
}

type Flags = ReturnType<typeof parseFlags>;

function chooseLoads(list: string | null): Array<(typeof HTTP_LOADS)[number]> {
  if (list === null) return [...HTTP_LOADS];
  return list.split(',').map((name) => {
    const load = HTTP_LOADS.find((known) => known === name);
    if (load) return load;
    throw new ConfigError('--loads', `some of ${HTTP_LOADS.join(', ')}`, name);
  });
}

async function compareEngines(flags: Flags): Promise<CompareReport> {
  const { threads, scratch, fail, say, failures } = flags;
  const wanted = flags['node-llama-cpp'];
  let llamaPackage: LlamaPackage | null = null;
  if (wanted !== 'none') {
    say('llama.cpp: npm package node-llama-cpp');
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
  const groups = flags.models.flatMap((model) =>
    compareRows(model, flags.rowOptions)
      .map((rows) => ({ model, workloads: selectRows(rows, flags.rowWords) }))
      .filter(({ workloads }) => workloads.length > 0),
  );
  const numRows = groups.reduce((sum, { workloads }) => sum + workloads.length, 0);
  if (numRows === 0) throw new ConfigError('--rows', 'words of some row', flags.rows);
  const run: Run = { repeat: flags.repeat, progress: new Progress(numRows, say), fail };
  for (const { model, workloads } of groups) {
    const options = {
      modelPath: await modelFile(model, join(scratch, 'models')),
      threads,
      maxBatch: Math.max(...workloads.map(({ batch }) => batch)),
      maxLength: Math.max(...workloads.map(workloadLength)),
      kvDtypes: flags.kvDtypes,
      llamaPackage,
      llamaBench: flags.llamaBench,
      llamaBenchDepth: flags.llamaBenchDepth,
      vllmPython: flags.vllm ?? null,
      scratch,
    };
    say(`${model.title}: loading`);
    const own = await startLonghaul(options, fail);
    let peers: Contender[] = [];
    try {
      peers = await startPeers(options, fail);
      report.isa = own[0]!.hello.isa;
      for (const { peer, hello } of [...own, ...peers]) report.versions[peer] = hello.version;
      report.rows.push(...(await compareGroup(model.title, workloads, own, peers, run)));
    } finally {
      for (const contender of [...own, ...peers]) await contender.stop();
    }
  }
  return report;
}

function onlyModel(models: readonly CompareModel[]): CompareModel {
  if (models.length === 1) return models[0]!;
  throw new ConfigError('--models', 'one model with --http', models.map(({ key }) => key).join());
}

async function compareServers(flags: Flags) {
  const model = onlyModel(flags.models);
  return compareHttp({
    ...flags,
    title: model.title,
    modelPath: await modelFile(model, join(flags.scratch, 'models')),
    llamaServer: flags['llama-server'] ?? null,
    vllmPython: flags.vllm ?? null,
    settings: HTTP_SETTINGS,
  });
}

async function main(): Promise<void> {
  if (process.argv.includes('--help')) {
    process.stdout.write(HELP);
    return;
  }
  const flags = parseFlags();
  const loadAverage = loadavg()[0]!;
  if (loadAverage > LOAD_AVERAGE_MAX) {
    flags.say(
      `load average ${shortNumber(loadAverage)}: other processes disturb this run, most of ` +
        'all engines whose threads spin at barriers',
    );
  }
  let result: { report: object; text: string; block: string };
  if (flags.http) {
    const report = await compareServers(flags);
    result = { report, text: httpText(report), block: httpMarkdown(report) };
  } else {
    const report = await compareEngines(flags);
    result = { report, text: reportText(report), block: markdownBlock(report) };
  }
  const json = `${JSON.stringify(result.report, null, 2)}\n`;
  if (flags.json === '-') process.stdout.write(json);
  else process.stdout.write(result.text);
  if (flags.json !== undefined && flags.json !== '-') writeFileSync(flags.json, json);
  if (flags.save) appendFileSync(join(packageRoot(), 'bench', 'README.md'), result.block);
}

/** Ends through `exit`, at which servers under test are ended too. */
function endOnSignals(): void {
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(1));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  endOnSignals();
  try {
    await main();
  } catch (error) {
    process.stderr.write(`bench:compare: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
