/** Intervals against published quantiles and worked examples; rows against sums by hand. */
import t from 'tap';
import { EvalRandom } from '../../../src/eval/eval-random.js';
import type { ReportItem } from '../../../src/eval/eval-report.js';
import {
  bootstrapInterval,
  studentInterval,
  studentQuantile,
} from '../../../src/eval/intervals.js';
import { recallScore } from '../../../src/eval/score.js';
import { judgeResolution, summarize } from '../../../src/eval/summary.js';

t.test('Student quantiles of the tables', async (t) => {
  // One and two degrees of freedom have closed forms; the others are of printed tables.
  const near = (p: number, freedom: number, expected: number, tolerance: number): void => {
    const found = studentQuantile(p, freedom);
    t.ok(Math.abs(found - expected) <= tolerance, `t(${p}, ${freedom}) = ${found}`);
  };
  near(0.975, 1, Math.tan(Math.PI * 0.475), 1e-8);
  near(0.95, 1, Math.tan(Math.PI * 0.45), 1e-8);
  near(0.975, 2, 0.95 / Math.sqrt(2 * 0.975 * 0.025), 1e-8);
  near(0.975, 5, 2.571, 5e-4);
  near(0.95, 9, 1.833, 5e-4);
  near(0.975, 30, 2.042, 5e-4);
  near(0.975, 49, 2.01, 5e-4);
  near(0.975, 1e6, 1.95997, 1e-4);
  near(0.5, 7, 0, 1e-6);
});

t.test('intervals of a mean', async (t) => {
  const { mean, low, high, upper_95 } = studentInterval([1, 2, 3, 4]);
  // Standard error sqrt(5/3)/2, three degrees of freedom: 3.1824 and 2.3534.
  t.equal(mean, 2.5);
  const error = Math.sqrt(5 / 3) / 2;
  t.ok(Math.abs(high! - (2.5 + 3.18245 * error)) < 1e-4);
  t.ok(Math.abs(low! - (2.5 - 3.18245 * error)) < 1e-4);
  t.ok(Math.abs(upper_95! - (2.5 + 2.35336 * error)) < 1e-4);
  t.strictSame(studentInterval([7]), { mean: 7, low: null, high: null, upper_95: null });
});

t.test('the interval covers what it says: drawn from a known mean', async (t) => {
  const random = new EvalRandom('coverage');
  let covered = 0;
  const rounds = 400;
  for (let round = 0; round < rounds; round++) {
    const values = Array.from({ length: 8 }, () => random.unit() + random.unit() + random.unit());
    const { low, high } = studentInterval(values);
    if (low! <= 1.5 && high! >= 1.5) covered += 1;
  }
  t.ok(covered / rounds > 0.92 && covered / rounds < 0.98, `${covered} of ${rounds}`);
});

t.test('bootstrap: whole contexts, within their stratum', async (t) => {
  const clusters = (sums: number[], stratum: string) =>
    sums.map((sum) => ({ stratum, sum, count: 10 }));
  const same = bootstrapInterval(
    [...clusters([5, 5, 5], 'a'), ...clusters([-5, -5], 'b')],
    new EvalRandom(1),
  );
  // Strata are not mixed: nothing varies.
  t.strictSame(same, { mean: 5 / 50, low: 5 / 50, high: 5 / 50, upper_95: 5 / 50 });
  const varied = clusters([0, 10, 0, 10, 0, 10, 0, 10], 'a');
  const found = bootstrapInterval(varied, new EvalRandom(1));
  t.equal(found.mean, 0.5);
  // Of eight contexts with even chances: a standard error of 0.177.
  t.ok(found.low! <= 0.25 && found.low! >= 0.0, `${found.low}`);
  t.ok(found.high! >= 0.75 && found.high! <= 1.0, `${found.high}`);
  t.ok(found.upper_95! <= found.high!);
  t.strictSame(bootstrapInterval(varied, new EvalRandom(1)), found, 'seeded');
  t.equal(bootstrapInterval(clusters([1], 'a'), new EvalRandom(1)).low, null);
});

t.test('recall of expected strings', async (t) => {
  t.equal(recallScore(' the Number is 12345.', ['12345']), 100);
  t.equal(recallScore('apple and PEAR', ['pear', 'plum']), 50);
  t.equal(recallScore('', ['x']), 0);
  t.equal(recallScore('anything', []), null);
});

const item = (changes: Partial<ReportItem>): ReportItem => ({
  task: 'a',
  length: 100,
  context_id: 'a-100-0',
  item: 0,
  seed: 0,
  attention: 'exact',
  sparsity: null,
  kept_tokens: null,
  budget_measured: 1,
  answer: '',
  expected: ['x'],
  score: 50,
  nll: 1,
  num_expected_tokens: 2,
  num_context_tokens: 90,
  depth: null,
  ...changes,
});

const OPTIONS = {
  groups: [
    { task: 'a', group: 'retrieval' as const },
    { task: 'b', group: 'retrieval' as const },
    { task: 'c', group: 'continuation' as const },
  ],
  lengths: [100, 200],
  seed: 3,
};

t.test('rows: means by hand, pairs on the same items only', async (t) => {
  const squeezed = { attention: 'squeezed', sparsity: 0.9, budget_measured: 0.2 };
  const items = [
    item({ score: 100, nll: 1, num_expected_tokens: 1 }),
    item({ item: 1, score: 0, nll: 2, num_expected_tokens: 3 }),
    item({ context_id: 'a-100-1', score: 100, nll: 0.5 }),
    item({ ...squeezed, score: 0, nll: 2, num_expected_tokens: 1 }),
    item({ ...squeezed, item: 1, score: 0, nll: 3, num_expected_tokens: 3 }),
    item({ ...squeezed, context_id: 'a-100-1', score: 100, nll: 0.5 }),
    // Exact attention did not answer this one.
    item({ ...squeezed, context_id: 'a-100-2', score: 0, nll: 9 }),
    item({ task: 'c', context_id: 'c-100-0', score: null, expected: [], nll: 4 }),
  ];
  const rows = summarize(items, OPTIONS);
  const row = (task: string, length: number | null, attention: string) =>
    rows.find((r) => r.task === task && r.length === length && r.attention === attention)!;
  const exact = row('a', 100, 'exact');
  t.match(exact, { num_contexts: 2, num_items: 3, budget_measured: 1, paired: null });
  // Contexts first: (50 + 100) / 2 points; ((1 + 6) / 4 + 0.5) / 2 nats.
  t.equal(exact.score!.mean, 75);
  t.equal(exact.nll.mean, (1.75 + 0.5) / 2);
  const other = row('a', 100, 'squeezed');
  t.match(other, { num_contexts: 3, num_items: 4, sparsity: 0.9 });
  t.ok(Math.abs(other.budget_measured - 0.2) < 1e-12);
  t.equal(other.paired!.num_items, 3);
  // One nat more in the first context, none in the second.
  t.equal(other.paired!.nll_difference.mean, 0.5);
  t.equal(other.paired!.score_difference!.mean, -100 / 3);
  t.strictSame(
    [...new Set(rows.map(({ task }) => task))],
    ['a', 'c', 'retrieval', 'all'],
    'no row for what has no items',
  );
  t.equal(row('c', 100, 'exact').score, null);
  t.equal(row('all', null, 'exact').num_items, 4);
  t.equal(row('all', null, 'exact').score!.mean, 75, 'unscored items do not count as wrong');
  t.strictSame(summarize(items, OPTIONS), rows, 'deterministic');
  const clipped = summarize([item({ score: 100 }), item({ context_id: 'x', score: 90 })], OPTIONS);
  t.equal(clipped[0]!.score!.high, 100, 'points end at 100');
});

t.test('resolution: says loudly when exact attention cannot tell', async (t) => {
  const scores = (values: Record<string, number>) =>
    Object.entries(values).map(([task, score]) => item({ task, score }));
  const three = scores({ a: 40, b: 90, c: 65, d: 95 });
  t.match(judgeResolution(three, ['a', 'b', 'c', 'd']), {
    can_tell: true,
    tasks_in_range: ['a', 'b', 'c'],
  });
  const two = judgeResolution(scores({ a: 39.9, b: 90, c: 65, d: 90.1 }), ['a', 'b', 'c', 'd']);
  t.equal(two.can_tell, false);
  t.strictSame(two.tasks_in_range, ['b', 'c']);
  t.match(two.message, /^CANNOT TELL: exact attention scores 40 to 90 on 2 of 4 tasks \(a 39\.9/);
  const without = judgeResolution([item({ attention: 'squeezed' }), item({ score: null })], ['a']);
  t.equal(without.can_tell, false);
  t.match(without.message, /^CANNOT TELL: exact attention answered no scored task/);
});
