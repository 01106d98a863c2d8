/** longhaul eval: the model, the tasks, a table or JSON. */
import { existsSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { currentCommit, describeMachine, packageRoot } from '../bench/machine.js';
import { textTable } from '../bench/table.js';
import { parseCount, parseCounts } from '../bench/workload.js';
import { ConfigError, type ServeConfig, serveConfig } from '../config.js';
import { EngineError } from '../errors.js';
import { describeSetting, listSettings } from '../eval/attention-settings.js';
import { Corpus } from '../eval/corpus.js';
import {
  type EvalReport,
  type ReportItem,
  resumableItems,
  type SummaryRow,
} from '../eval/eval-report.js';
import type { Interval } from '../eval/intervals.js';
import { checkLocalSetting, LocalEvalEngine } from '../eval/local-eval-engine.js';
import { type EvalOptions, runEval } from '../eval/run-eval.js';
import { judgeResolution, summarize } from '../eval/summary.js';
import {
  knobsOf,
  PRESETS,
  type Preset,
  parseTasks,
  presetFor,
  TASK_GROUPS,
  TASKS,
} from '../eval/task-registry.js';
import { createLogger } from '../log.js';
import type { ModelDescription } from '../models/model-types.js';
import { createTextService } from '../tokenizer/text-service.js';
import { chooseBackend } from './backend-choice.js';
import { EXIT } from './exit-codes.js';
import { obtainModel } from './obtain-model.js';
import { makeReporter } from './progress.js';

export interface EvalFlags {
  tasks: string;
  lengths: string;
  contexts: string;
  items: string;
  attention: string;
  sparsity?: string;
  keptTokens?: string;
  paired?: boolean;
  preset?: string;
  set?: string;
  text?: string;
  seed: string;
  json?: string;
  resume?: boolean;
  listTasks?: boolean;
}

/** A run as asked for, before there is a model to make it fit. */
interface Plan
  extends Omit<EvalOptions, 'tasks' | 'known' | 'signal' | 'onProgress' | 'onContext'> {
  tasks: ReturnType<typeof parseTasks>;
  preset: Preset | null;
  set: string[];
  /** Of the report, while it grows and in the end; null: not in a file. */
  file: string | null;
  resume: boolean;
}

const LENGTH_MIN = 64;
/** A report in a file is at most this much behind. */
const SAVE_EVERY_MS = 60_000;

/** Returns the exit code; throws ConfigError and EngineError. */
export async function runEvalCommand(
  flags: EvalFlags,
  given: Partial<Record<keyof ServeConfig, unknown>>,
): Promise<number> {
  if (flags.listTasks === true) {
    process.stdout.write(`${taskList()}\n`);
    return EXIT.ok;
  }
  const config = serveConfig(given);
  let plan: Plan;
  try {
    plan = parsePlan(flags);
    // Before a model is fetched for nothing.
    for (const setting of plan.settings) checkLocalSetting(setting);
  } catch (error) {
    if (!(error instanceof EngineError) || error.code !== 'ERR_UNSUPPORTED') throw error;
    process.stderr.write(`longhaul: ${error.message}\n`);
    return EXIT.usage;
  }
  const logger = createLogger({ level: 'warn', destination: process.stderr, pretty: true });
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new Error('interrupted'));
  // Once: a second interrupt ends the process at once.
  process.once('SIGINT', onSignal);
  const reporter = makeReporter(flags.json === '-');
  try {
    const model = await obtainModel(config, logger, controller.signal, (progress) =>
      reporter.onProgress(progress),
    );
    reporter.stop();
    const report = await evaluate(model, config, plan, controller.signal);
    const json = toJson(report);
    if (flags.json === '-') process.stdout.write(json);
    else process.stdout.write(`${evalTable(report)}\n`);
    if (plan.file !== null) writeReport(plan.file, json);
    return report.complete ? EXIT.ok : EXIT.failure;
  } finally {
    reporter.stop();
    process.off('SIGINT', onSignal);
  }
}

function parsePlan(flags: EvalFlags): Plan {
  const preset = PRESETS.find((name) => name === flags.preset);
  if (flags.preset !== undefined && preset === undefined) {
    throw new ConfigError('--preset', `one of ${PRESETS.join(', ')}`, flags.preset);
  }
  const file = flags.json === undefined || flags.json === '-' ? null : flags.json;
  if (flags.resume === true && file === null) {
    throw new ConfigError('--resume', '--json FILE beside it', flags.json ?? 'none');
  }
  const tasks = parseTasks(flags.tasks);
  const set = flags.set === undefined ? [] : flags.set.split(',');
  // Whatever the preset: this finds mistakes before a model is loaded.
  for (const task of tasks) knobsOf(task, 'full', set);
  return {
    tasks,
    preset: preset ?? null,
    set,
    lengths: [...new Set(parseCounts('--lengths', flags.lengths, LENGTH_MIN))].sort(
      (left, right) => left - right,
    ),
    numContexts: parseCount('--contexts', flags.contexts, 1),
    numItems: parseCount('--items', flags.items, 1),
    settings: listSettings({
      attention: flags.attention,
      sparsity: flags.sparsity,
      keptTokens: flags.keptTokens,
      paired: flags.paired === true,
    }),
    seed: parseCount('--seed', flags.seed, 0),
    corpus: Corpus.load(flags.text ?? null),
    file,
    resume: flags.resume === true,
  };
}

async function evaluate(
  model: ModelDescription,
  config: ServeConfig,
  plan: Plan,
  signal: AbortSignal,
): Promise<EvalReport> {
  const preset = plan.preset ?? presetFor(numWeights(model));
  const tasks = plan.tasks.map((task) => ({ task, knobs: knobsOf(task, preset, plan.set) }));
  const text = createTextService(model.tokenizer);
  const progress = progressLine();
  try {
    const { engine, isa, close } = await LocalEvalEngine.open(model, {
      backend: chooseBackend(config.backend),
      threads: config.threads,
      isaLimit: config.isaLimit,
      kvDtype: config.kvDtype,
      maxLength: Math.max(...plan.lengths),
    });
    try {
      const head = {
        isa,
        commit: currentCommit(packageRoot()),
        model: model.name,
        kv_dtype: config.kvDtype,
        seed: plan.seed,
        items_per_context: plan.numItems,
        texts_sha256: plan.corpus.sha256,
        knobs: Object.fromEntries(tasks.map(({ task, knobs }) => [task.name, { ...knobs }])),
      };
      const makeReport = (items: ReportItem[], complete: boolean): EvalReport => ({
        machine: describeMachine(),
        ...head,
        complete,
        resolution: judgeResolution(
          items,
          plan.tasks.map(({ name }) => name),
        ),
        summary: summarize(items, {
          groups: plan.tasks.map(({ name, group }) => ({ task: name, group })),
          lengths: plan.lengths,
          seed: plan.seed,
        }),
        items,
      });
      const earlier = plan.resume ? readReport(plan.file!) : null;
      let savedMs = performance.now();
      const { items, complete } = await runEval(engine, text, {
        ...plan,
        tasks,
        known: earlier === null ? [] : resumableItems(earlier, head),
        signal,
        onProgress: progress.show,
        onContext: (soFar) => {
          const now = performance.now();
          if (plan.file === null || now - savedMs < SAVE_EVERY_MS) return;
          savedMs = now;
          writeReport(plan.file, toJson(makeReport(soFar(), false)));
        },
      });
      return makeReport(items, complete);
    } finally {
      await close();
    }
  } finally {
    progress.clear();
    await text.close();
  }
}

const toJson = (report: EvalReport): string => `${JSON.stringify(report, null, 2)}\n`;

/** Whole or not at all: a run that is killed leaves the last report. */
function writeReport(file: string, json: string): void {
  writeFileSync(`${file}.partial`, json);
  renameSync(`${file}.partial`, file);
}

/** The report to go on with, null for none yet. Throws ConfigError. */
function readReport(file: string): EvalReport | null {
  if (!existsSync(file)) return null;
  try {
    const report = JSON.parse(readFileSync(file, 'utf8')) as EvalReport;
    if (Array.isArray(report.items)) return report;
  } catch {
    // Said below.
  }
  throw new ConfigError('--resume', 'a report of longhaul eval', file);
}

function numWeights(model: ModelDescription): number {
  return model.native.tensors.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
}

/** One line of a terminal that is written over; nothing elsewhere. */
function progressLine(): { show: EvalOptions['onProgress']; clear: () => void } {
  if (!process.stderr.isTTY) return { show: () => {}, clear: () => {} };
  const start = performance.now();
  return {
    show: ({ done, total, label }) => {
      const left = ((performance.now() - start) / 1000 / Math.max(1, done)) * (total - done);
      const time = done === 0 ? '' : `, about ${duration(left)} left`;
      process.stderr.write(`\r\x1b[K${done} of ${total} contexts${time}; ${label}`);
    },
    clear: () => process.stderr.write('\r\x1b[K'),
  };
}

function duration(seconds: number): string {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 5400) return `${Math.ceil(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function taskList(): string {
  const rows = TASKS.map(({ name, about, knobs, group }) => [
    name,
    group,
    Object.entries(knobs)
      .map(([key, value]) => `${key}=${value}`)
      .join(' '),
    about,
  ]);
  const widths = [0, 1, 2].map((i) => Math.max(...rows.map((row) => row[i]!.length)));
  const lines = rows.map((row) =>
    row
      .map((cell, i) => cell.padEnd(widths[i] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  return [...lines, '', `Groups: ${TASK_GROUPS.join(', ')}`].join('\n');
}

/** The report as people read it. */
export function evalTable(report: EvalReport): string {
  const lines = report.summary.map((row) => [
    row.task,
    row.length === null ? 'all' : String(row.length),
    describeSetting({
      attention: row.attention,
      sparsity: row.sparsity,
      keptTokens: row.kept_tokens,
    }),
    row.budget_measured.toFixed(3),
    `${row.num_contexts} × ${Math.round(row.num_items / row.num_contexts)}`,
    intervalText(row.score, 1),
    intervalText(row.nll, 3),
    ...differences(row),
  ]);
  const { resolution, machine } = report;
  return [
    `${report.model}, K/V ${report.kv_dtype}, ${report.isa}, commit ${report.commit ?? 'unknown'}, seed ${report.seed}; ${machine.cpu}`,
    ...(report.complete ? [] : ['INTERRUPTED: fewer contexts than were asked for.']),
    '',
    textTable([
      ['task', 'length', 'attention', 'budget', 'items', 'score', 'NLL', 'Δ NLL', 'Δ score'],
      ...lines,
    ]),
    '',
    'Score in points, NLL of the right answer in nats a token, each with its 95 % interval over contexts; Δ: minus exact, same items.',
    resolution.message,
  ].join('\n');
}

function differences({ paired }: SummaryRow): [string, string] {
  if (paired === null) return ['', ''];
  return [intervalText(paired.nll_difference, 3), intervalText(paired.score_difference, 1)];
}

function intervalText(interval: Interval | null, digits: number): string {
  if (interval === null) return '';
  const { mean, low, high } = interval;
  if (low === null || high === null) return mean.toFixed(digits);
  return `${mean.toFixed(digits)} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`;
}
