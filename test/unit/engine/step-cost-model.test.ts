import t from 'tap';
import { prefillPairs, StepCostModel, type StepWork } from '../../../src/engine/step-cost-model.js';

const work = (changes: Partial<StepWork>): StepWork => ({
  prefillTokens: 0,
  decodeRows: 0,
  decodeContext: 0,
  prefillPairs: 0,
  ...changes,
});

/** A machine: 3 ms a step, 0.4 ms a prompt token, 0.2 ms a decode row, 2 µs and 0.1 µs attention. */
const trueMs = (w: StepWork): number =>
  3 +
  0.4 * w.prefillTokens +
  0.2 * w.decodeRows +
  0.002 * w.decodeContext +
  0.0001 * w.prefillPairs;

/** Steps of all kinds, in a fixed pseudo-random order. */
function* mixedSteps(count: number): Generator<StepWork> {
  for (let i = 0; i < count; i++) {
    const tokens = (i * 37) % 400;
    const rows = (i * 11) % 33;
    yield work({
      prefillTokens: tokens,
      prefillPairs: prefillPairs((i * 613) % 8000, tokens),
      decodeRows: rows,
      decodeContext: rows * ((i * 101) % 3000),
    });
  }
}

const near = (
  t: { ok(value: boolean, message: string): unknown },
  value: number,
  expected: number,
  share: number,
): void => {
  t.ok(Math.abs(value - expected) <= share * expected, `${value} is near ${expected}`);
};

t.test('pairs of causal rows', async (t) => {
  t.equal(prefillPairs(0, 1), 1);
  t.equal(prefillPairs(0, 4), 10);
  t.equal(prefillPairs(10, 2), 11 + 12);
});

t.test('learns a machine from mixed steps', async (t) => {
  const model = new StepCostModel();
  for (const w of mixedSteps(300)) model.observe(w, trueMs(w));
  for (const w of mixedSteps(60)) near(t, model.predictMs(w), trueMs(w), 0.1);
  near(t, model.fixedMs, 3, 0.3);
});

t.test('the prior is one millisecond a token', async (t) => {
  const model = new StepCostModel();
  t.equal(model.prefillMs(0, 100), 100 + (16 / (1 << 20)) * 5050);
});

t.test('one step corrects a prior that is far off', async (t) => {
  const model = new StepCostModel();
  const w = work({ prefillTokens: 200, prefillPairs: prefillPairs(0, 200) });
  model.observe(w, 4000);
  near(t, model.predictMs(w), 4000, 0.2);
  const within = model.prefillTokensWithin(200, 200);
  t.ok(within >= 8 && within <= 20, `${within} tokens of 20 ms each`);
});

t.test('the chunk is the inverse of its cost', async (t) => {
  const model = new StepCostModel();
  for (const w of mixedSteps(200)) model.observe(w, trueMs(w));
  for (const position of [0, 1000, 100_000]) {
    for (const ms of [5, 50, 500]) {
      const tokens = model.prefillTokensWithin(ms, position);
      t.ok(model.prefillMs(position, tokens) <= ms + 1e-9, `${tokens} tokens fit`);
      t.ok(model.prefillMs(position, tokens + 1) > ms - 1e-9, 'one more does not');
    }
  }
  t.ok(model.prefillTokensWithin(50, 100_000) < model.prefillTokensWithin(50, 0));
  t.equal(model.prefillTokensWithin(0, 0), 0);
  t.equal(model.prefillTokensWithin(-5, 0), 0);
});

t.test('a single hiccup moves it little, a lasting change is followed', async (t) => {
  const model = new StepCostModel();
  const w = work({ decodeRows: 8, decodeContext: 8000 });
  for (let i = 0; i < 100; i++) model.observe(w, 20);
  near(t, model.predictMs(w), 20, 0.05);
  model.observe(w, 2000);
  t.ok(model.predictMs(w) < 45, `${model.predictMs(w)} after a hiccup of 2 s`);
  for (let i = 0; i < 200; i++) model.observe(w, 60);
  near(t, model.predictMs(w), 60, 0.05);
});

t.test('costs are never negative, whatever is measured', async (t) => {
  const model = new StepCostModel();
  for (const w of mixedSteps(100)) model.observe(w, 0);
  t.ok(model.predictMs(work({ prefillTokens: 1000 })) >= 0);
  t.ok(model.fixedMs >= 0);
  t.ok(model.prefillTokensWithin(10, 0) >= 10);
});
