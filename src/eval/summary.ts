/** From items to rows: means and intervals of each task, length and setting, and of pools of them. */

import { EvalRandom } from './eval-random.js';
import type { ReportItem, Resolution, SummaryRow } from './eval-report.js';
import type { TaskGroup } from './eval-types.js';
import { bootstrapInterval, groupBy, type Interval, studentInterval } from './intervals.js';

/** An item beside exact attention's answer to the same question. */
interface Pair {
  item: ReportItem;
  exact: ReportItem;
}

export interface SummaryOptions {
  groups: ReadonlyArray<{ task: string; group: TaskGroup }>;
  lengths: readonly number[];
  /** Of the bootstrap. */
  seed: number;
}

/** Rows in the order of tasks, then pools; by length, then setting. Items may be incomplete. */
export function summarize(items: readonly ReportItem[], options: SummaryOptions): SummaryRow[] {
  const rows: SummaryRow[] = [];
  for (const { name, tasks } of scopes(options)) {
    for (const length of lengthScopes(options.lengths)) {
      const inScope = items.filter(
        (item) => tasks.includes(item.task) && (length === null || item.length === length),
      );
      const exact = new Map(
        inScope.filter((item) => item.attention === 'exact').map((item) => [identity(item), item]),
      );
      for (const members of groupBy(inScope, settingOf)) {
        rows.push(summarizeSetting(name, length, members, exact, options.seed));
      }
    }
  }
  return rows;
}

const identity = (item: ReportItem): string => `${item.context_id}/${item.item}`;
const settingOf = ({ attention, sparsity, kept_tokens }: ReportItem): string =>
  JSON.stringify([attention, sparsity, kept_tokens]);

function scopes({ groups }: SummaryOptions): Array<{ name: string; tasks: string[] }> {
  const out = groups.map(({ task }) => ({ name: task, tasks: [task] }));
  for (const members of groupBy(groups, ({ group }) => group)) {
    if (members.length < 2) continue;
    out.push({ name: members[0]!.group, tasks: members.map(({ task }) => task) });
  }
  if (groups.length > 1) out.push({ name: 'all', tasks: groups.map(({ task }) => task) });
  return out;
}

const lengthScopes = (lengths: readonly number[]): Array<number | null> =>
  lengths.length > 1 ? [...lengths, null] : [...lengths];

/** `members` is not empty. */
function summarizeSetting(
  task: string,
  length: number | null,
  members: readonly ReportItem[],
  exact: ReadonlyMap<string, ReportItem>,
  seed: number,
): SummaryRow {
  const { attention, sparsity, kept_tokens } = members[0]!;
  const contexts = groupBy(members, ({ context_id }) => context_id);
  const scored = contexts
    .map((context) => context.filter((item) => item.score !== null))
    .filter((context) => context.length > 0);
  const pairs = members.flatMap((item): Pair[] => {
    const other = exact.get(identity(item));
    return other ? [{ item, exact: other }] : [];
  });
  return {
    task,
    length,
    attention,
    sparsity,
    kept_tokens,
    num_contexts: contexts.length,
    num_items: members.length,
    budget_measured: meanOf(members, ({ budget_measured }) => budget_measured),
    score:
      scored.length === 0
        ? null
        : withinPoints(
            studentInterval(scored.map((context) => meanOf(context, ({ score }) => score!))),
          ),
    nll: studentInterval(contexts.map((context) => perToken(context, ({ nll }) => nll))),
    paired: attention === 'exact' || pairs.length === 0 ? null : pairedDifference(pairs, seed),
  };
}

function pairedDifference(pairs: readonly Pair[], seed: number): NonNullable<SummaryRow['paired']> {
  const contexts = groupBy(pairs, ({ item }) => item.context_id);
  const scored = pairs.filter(({ item }) => item.score !== null);
  const clusters = groupBy(scored, ({ item }) => item.context_id).map((context) => ({
    stratum: `${context[0]!.item.task}/${context[0]!.item.length}`,
    sum: context.reduce((sum, { item, exact }) => sum + item.score! - exact.score!, 0),
    count: context.length,
  }));
  return {
    num_items: pairs.length,
    nll_difference: studentInterval(
      contexts.map((context) => {
        const nllOf = new Map(context.map(({ item, exact }) => [item, exact.nll]));
        return perToken(
          context.map(({ item }) => item),
          (item) => item.nll - nllOf.get(item)!,
        );
      }),
    ),
    score_difference:
      clusters.length === 0 ? null : bootstrapInterval(clusters, new EvalRandom('bootstrap', seed)),
  };
}

function meanOf<T>(values: readonly T[], measure: (value: T) => number): number {
  return values.reduce((sum, value) => sum + measure(value), 0) / values.length;
}

/** Of values per token, the mean over all tokens of the items. */
function perToken(items: readonly ReportItem[], measure: (item: ReportItem) => number): number {
  const tokens = items.reduce((sum, item) => sum + item.num_expected_tokens, 0);
  return items.reduce((sum, item) => sum + measure(item) * item.num_expected_tokens, 0) / tokens;
}

function withinPoints(interval: Interval): Interval {
  const clip = (value: number | null): number | null =>
    value === null ? null : Math.min(100, Math.max(0, value));
  return {
    mean: interval.mean,
    low: clip(interval.low),
    high: clip(interval.high),
    upper_95: clip(interval.upper_95),
  };
}

export const SCORE_RANGE = [40, 90] as const;
const TASKS_NEEDED = 3;

/**
 * Tasks that exact attention nearly always or nearly never solves cannot show what another way of
 * attending costs. Says whether enough are in between.
 */
export function judgeResolution(
  items: readonly ReportItem[],
  tasks: readonly string[],
): Resolution {
  const scores = new Map<string, number>();
  for (const members of groupBy(
    items.filter((item) => item.attention === 'exact' && item.score !== null),
    ({ task }) => task,
  )) {
    scores.set(
      members[0]!.task,
      meanOf(members, ({ score }) => score!),
    );
  }
  if (scores.size === 0) {
    return {
      can_tell: false,
      tasks_in_range: [],
      message:
        'CANNOT TELL: exact attention answered no scored task in this run, so there is nothing ' +
        'to compare with (--paired, and a task other than lm).',
    };
  }
  const [low, high] = SCORE_RANGE;
  const inRange = tasks.filter((task) => {
    const score = scores.get(task);
    return score !== undefined && score >= low && score <= high;
  });
  const list = [...scores].map(([task, score]) => `${task} ${score.toFixed(1)}`).join(', ');
  const range = `exact attention scores ${low} to ${high} on ${inRange.length} of ${scores.size} tasks (${list})`;
  const canTell = inRange.length >= TASKS_NEEDED;
  return {
    can_tell: canTell,
    tasks_in_range: inRange,
    message: canTell
      ? `${range}.`
      : `CANNOT TELL: ${range}; at least ${TASKS_NEEDED} are needed before differences in score ` +
        'mean anything. Change the difficulty (--set TASK.KNOB=N), the tasks or the length.',
  };
}
