/** The engine of the process behind the harness: log-probabilities, reuse of the context, abort. */
import t from 'tap';
import { LocalEngine } from '../../../src/engine/engine.js';
import { listSettings } from '../../../src/eval/attention-settings.js';
import { LocalEvalEngine } from '../../../src/eval/local-eval-engine.js';
import {
  expectedLogprob,
  expectedTokens,
  FakeNativeEngine,
} from '../../support/fake-native-engine.js';
import { counting, sampling } from '../../support/make-sequence.js';

const EXACT = { attention: 'exact', sparsity: null, keptTokens: null };
const never = new AbortController().signal;

function makeEngine() {
  const native = new FakeNativeEngine({
    numBlocks: 40,
    blockSize: 4,
    maxNumSeqs: 4,
    maxNumBatchedTokens: 16,
    maxModelLen: 128,
  });
  const engine = new LocalEngine({
    native,
    options: {
      itlTargetMs: 1000,
      maxQueueRequests: 0,
      maxQueueTokens: 0,
      prefixCache: true,
      overlap: true,
      check: true,
    },
    fingerprint: 'toy',
    observer: null,
  });
  return { native, engine, evaluated: new LocalEvalEngine(engine) };
}

t.test('answers and log-probabilities; the context is computed once', async (t) => {
  const { native, engine, evaluated } = makeEngine();
  t.equal(evaluated.maxLength, 128);
  const context = counting(40);
  const open = await evaluated.openContext(context, [EXACT], never);
  const computed = () => native.plans.reduce((sum, { rows }) => sum + rows.length, 0);
  const rowsOf = () =>
    native.plans
      .flatMap(({ rows }) => rows.map((row) => row.tokens.length))
      .reduce((a, b) => a + b, 0);
  t.equal(rowsOf(), 40);
  t.ok(computed() > 0);
  const questions = [0, 1, 2, 3, 4, 5].map((i) => ({
    tokens: Int32Array.of(50 + i, 60, 61),
    expected: Int32Array.of(70 + i, 71),
    maxTokens: i === 5 ? 0 : 4,
    stopTokenIds: [],
  }));
  const answers = await open.ask(questions, EXACT, never);
  for (const [i, answer] of answers.entries()) {
    const prompt = Int32Array.from([...context, ...questions[i]!.tokens]);
    const alone = expectedTokens(prompt, sampling({ maxTokens: 4 }), native.info);
    t.strictSame(answer.tokens, i === 5 ? [] : alone);
    // A token's log-probability is of the row before it.
    t.strictSame(answer.logprobs, [expectedLogprob(70 + i, 42), expectedLogprob(71, 43)]);
    t.equal(answer.budgetMeasured, 1);
  }
  // 5 questions: 3 tokens, 3 generated behind the first; 6 forced: 3 and 2, and a sample's row none.
  const extra = rowsOf() - 40;
  t.ok(extra <= 5 * (3 + 4) + 6 * 5, `${extra} rows for the questions`);
  await open.close();
  await engine.close();
});

t.test('a stop token is no part of the answer', async (t) => {
  const { native, engine, evaluated } = makeEngine();
  const open = await evaluated.openContext(counting(20), [EXACT], never);
  const prompt = Int32Array.from([...counting(20), 33]);
  const alone = expectedTokens(prompt, sampling({ maxTokens: 6 }), native.info);
  const stop = alone[2]!;
  const question = {
    tokens: Int32Array.of(33),
    expected: Int32Array.of(5),
    maxTokens: 6,
    stopTokenIds: [stop],
  };
  const [answer] = await open.ask([question], EXACT, never);
  t.strictSame(answer!.tokens, alone.slice(0, alone.indexOf(stop)));
  await engine.close();
});

t.test('interrupting ends what runs; the engine stays whole', async (t) => {
  const { engine, evaluated } = makeEngine();
  const open = await evaluated.openContext(counting(20), [EXACT], never);
  const controller = new AbortController();
  const questions = Array.from({ length: 6 }, (_, i) => ({
    tokens: Int32Array.of(30 + i),
    expected: Int32Array.of(5),
    maxTokens: 60,
    stopTokenIds: [],
  }));
  const asking = open.ask(questions, EXACT, controller.signal);
  setImmediate(() => controller.abort(new Error('interrupted')));
  await t.rejects(asking, /interrupted/);
  await t.rejects(open.ask(questions, EXACT, controller.signal), /interrupted/);
  await new Promise((resolve) => setImmediate(resolve));
  t.equal(engine.stats().hasWork, false);
  engine.checkIntegrity();
  await engine.close();
});

t.test('a setting that the engine does not compute', async (t) => {
  const { engine, evaluated } = makeEngine();
  const settings = listSettings({ attention: 'squeezed', sparsity: '0.9', paired: true });
  const wanted = {
    code: 'ERR_UNSUPPORTED',
    message: '--attention squeezed 0.9: this engine knows exact only (ERR_UNSUPPORTED)',
  };
  await t.rejects(evaluated.openContext(counting(20), settings, never), wanted);
  await engine.close();
});
