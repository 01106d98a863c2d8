/**
 * The run: makes each context, asks all its questions under every setting, keeps the answers.
 * Contexts go round the tasks, so that an interrupted run has some of each.
 */
import { EngineError } from '../errors.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import { describeSetting } from './attention-settings.js';
import type { Corpus } from './corpus.js';
import { EvalRandom } from './eval-random.js';
import type { ReportItem } from './eval-report.js';
import type { EvalTask } from './eval-task.js';
import type {
  AttentionSetting,
  EvalContext,
  EvalEngine,
  EvalQuestion,
  Knobs,
  TaskItem,
} from './eval-types.js';
import { groupBy } from './intervals.js';
import { recallScore } from './score.js';
import { TaskTokenizer } from './task-tokenizer.js';

export interface EvalOptions {
  tasks: ReadonlyArray<{ task: EvalTask; knobs: Knobs }>;
  lengths: readonly number[];
  /** Of each task and length. */
  numContexts: number;
  /** Questions a context, at most; some tasks have fewer. */
  numItems: number;
  settings: readonly AttentionSetting[];
  seed: number;
  corpus: Corpus;
  /** Items of an earlier run of the same kind: contexts that they complete are not run again. */
  known: readonly ReportItem[];
  /** Stops the run; what was answered by then is returned. */
  signal: AbortSignal;
  onProgress: (progress: EvalProgress) => void;
  /** After each context, with all items so far in the report's order. */
  onContext: (items: () => ReportItem[]) => void;
}

export interface EvalProgress {
  /** Contexts done and to do. */
  done: number;
  total: number;
  /** What runs now. */
  label: string;
}

/**
 * Items in the order of tasks, lengths, contexts, settings and questions, the same for the same
 * seed; fewer when the signal fired. Throws EngineError.
 */
export async function runEval(
  engine: EvalEngine,
  text: TextService,
  options: EvalOptions,
): Promise<{ items: ReportItem[]; complete: boolean }> {
  for (const setting of options.settings) engine.checkSetting(setting);
  for (const length of options.lengths) {
    if (length <= engine.maxLength) continue;
    throw new EngineError(
      'ERR_CONTEXT_TOO_LONG',
      `--lengths ${length}: the model's context holds ${engine.maxLength} tokens`,
    );
  }
  const tokenizer = await TaskTokenizer.create(text);
  const jobs = listJobs(options);
  const done = knownJobs(jobs, options);
  const inOrder = (): ReportItem[] =>
    [...done].sort(([left], [right]) => left.rank - right.rank).flatMap(([, items]) => items);
  try {
    for (const job of jobs) {
      if (done.has(job)) continue;
      const run = new ContextRun(engine, tokenizer, options, job);
      const items = await run.run((label) =>
        options.onProgress({ done: done.size, total: jobs.length, label }),
      );
      done.set(job, items);
      options.onContext(inOrder);
    }
  } catch (error) {
    // Whatever an interrupted engine throws, the run has ended because it was told to.
    if (!options.signal.aborted) throw error;
  }
  return { items: inOrder(), complete: done.size === jobs.length };
}

/** Contexts that the known items answer under every setting. */
function knownJobs(jobs: readonly Job[], options: EvalOptions): Map<Job, ReportItem[]> {
  const byContext = new Map(
    groupBy(options.known, ({ context_id }) => context_id).map((items) => [
      items[0]!.context_id,
      items,
    ]),
  );
  const done = new Map<Job, ReportItem[]>();
  for (const job of jobs) {
    const numItems = Math.min(options.numItems, job.task.itemsMax);
    const items = options.settings.flatMap((setting) =>
      (byContext.get(contextId(job)) ?? []).filter(
        (item) => item.item < numItems && isUnder(item, setting),
      ),
    );
    if (items.length === numItems * options.settings.length) done.set(job, items);
  }
  return done;
}

const isUnder = (item: ReportItem, setting: AttentionSetting): boolean =>
  item.attention === setting.attention &&
  item.sparsity === setting.sparsity &&
  item.kept_tokens === setting.keptTokens;

const contextId = ({ task, length, index }: Job): string => `${task.name}-${length}-${index}`;

interface Job {
  task: EvalTask;
  knobs: Knobs;
  length: number;
  index: number;
  /** Place in the report. */
  rank: number;
}

function listJobs({ tasks, lengths, numContexts }: EvalOptions): Job[] {
  const jobs: Job[] = [];
  for (let index = 0; index < numContexts; index++) {
    for (const [l, length] of lengths.entries()) {
      for (const [t, { task, knobs }] of tasks.entries()) {
        const rank = (t * lengths.length + l) * numContexts + index;
        jobs.push({ task, knobs, length, index, rank });
      }
    }
  }
  return jobs;
}

class ContextRun {
  readonly #engine: EvalEngine;
  readonly #tokenizer: TaskTokenizer;
  readonly #options: EvalOptions;
  readonly #job: Job;

  constructor(engine: EvalEngine, tokenizer: TaskTokenizer, options: EvalOptions, job: Job) {
    this.#engine = engine;
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#job = job;
  }

  async run(tell: (label: string) => void): Promise<ReportItem[]> {
    const { signal, settings, seed, numItems, corpus } = this.#options;
    const { task, knobs, length, index } = this.#job;
    const label = `${task.name} ${length}, context ${index + 1}`;
    signal.throwIfAborted();
    tell(label);
    const made = await task.build({
      numItems: Math.min(numItems, task.itemsMax),
      knobs,
      random: new EvalRandom('longhaul eval', seed, task.name, length, index),
      corpus,
      count: this.#tokenizer.count,
      length,
    });
    const tokens = await this.#tokenizer.context(made.text);
    const questions = await Promise.all(made.items.map((item) => this.#tokenizer.question(item)));
    signal.throwIfAborted();
    const context = await this.#engine.openContext(tokens, settings, signal);
    try {
      const items: ReportItem[] = [];
      for (const setting of settings) {
        tell(`${label}: ${describeSetting(setting)}`);
        items.push(...(await this.#ask(context, tokens.length, made.items, questions, setting)));
      }
      return items;
    } finally {
      await context.close();
    }
  }

  async #ask(
    context: EvalContext,
    numContextTokens: number,
    items: readonly TaskItem[],
    questions: readonly EvalQuestion[],
    setting: AttentionSetting,
  ): Promise<ReportItem[]> {
    const { task, length } = this.#job;
    const answers = await context.ask(questions, setting, this.#options.signal);
    return answers.map(({ tokens, logprobs, budgetMeasured }, i): ReportItem => {
      const { expected, depth } = items[i]!;
      const answer = this.#tokenizer.decode(tokens);
      return {
        task: task.name,
        length,
        context_id: contextId(this.#job),
        item: i,
        seed: this.#options.seed,
        attention: setting.attention,
        sparsity: setting.sparsity,
        kept_tokens: setting.keptTokens,
        budget_measured: budgetMeasured,
        answer,
        expected,
        score: recallScore(answer, expected),
        nll: -logprobs.reduce((sum, value) => sum + value, 0) / logprobs.length,
        num_expected_tokens: logprobs.length,
        num_context_tokens: numContextTokens,
        depth,
      };
    });
  }
}
