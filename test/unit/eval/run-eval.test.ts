/** The run over an engine that looks answers up: order, pairing, interruption, refusals. */
import t from 'tap';
import { listSettings } from '../../../src/eval/attention-settings.js';
import { type EvalReport, resumableItems } from '../../../src/eval/eval-report.js';
import { type EvalOptions, runEval } from '../../../src/eval/run-eval.js';
import { summarize } from '../../../src/eval/summary.js';
import { parseTasks } from '../../../src/eval/task-registry.js';
import { TaskTokenizer } from '../../../src/eval/task-tokenizer.js';
import { BOS, END_OF_TURN, EOS, FakeTextService } from '../../support/fake-text-service.js';
import { LookupEngine, toyCorpus } from './make-eval.js';

const TASK_NAMES = 'niah_single,vt,lm_prose';

function options(changes: Partial<EvalOptions> = {}): EvalOptions {
  return {
    tasks: parseTasks(TASK_NAMES).map((task) => ({ task, knobs: task.knobs })),
    lengths: [8000, 12_000],
    numContexts: 2,
    numItems: 3,
    settings: listSettings({ attention: 'worse', sparsity: '0.75', paired: true }),
    seed: 5,
    corpus: toyCorpus(),
    signal: new AbortController().signal,
    onProgress: () => {},
    known: [],
    onContext: () => {},
    ...changes,
  };
}

t.test('all items, in order, paired, the same for the same seed', async (t) => {
  const engine = new LookupEngine();
  const progress: string[] = [];
  const text = new FakeTextService();
  const { items, complete } = await runEval(
    engine,
    text,
    options({ onProgress: ({ done, total, label }) => progress.push(`${done}/${total} ${label}`) }),
  );
  t.equal(complete, true);
  // Two contexts of two lengths under two settings: of 3, 3 and 1 questions.
  t.equal(items.length, 2 * 2 * 2 * (3 + 3 + 1));
  t.equal(engine.opened.length, 12, 'a context is opened once for all its settings');
  t.equal(engine.numClosed, 12);
  t.ok(engine.opened.every((tokens) => tokens[0] === BOS));
  t.strictSame(
    items.slice(0, 7).map((i) => `${i.context_id} ${i.attention} ${i.item} ${i.score} ${i.nll}`),
    [
      'niah_single-8000-0 exact 0 100 1',
      'niah_single-8000-0 exact 1 100 1',
      'niah_single-8000-0 exact 2 100 1',
      'niah_single-8000-0 worse 0 0 1.25',
      'niah_single-8000-0 worse 1 100 1.25',
      'niah_single-8000-0 worse 2 100 1.25',
      'niah_single-8000-1 exact 0 100 1',
    ],
  );
  t.match(items[3], { sparsity: 0.75, kept_tokens: null, budget_measured: 0.25, seed: 5 });
  t.equal(progress[0], '0/12 niah_single 8000, context 1');
  t.equal(progress.at(-1), '11/12 lm_prose 12000, context 2: worse 0.75');
  const again = await runEval(new LookupEngine(), text, options());
  t.strictSame(again.items, items);
  const other = await runEval(new LookupEngine(), text, options({ seed: 6 }));
  t.notSame(
    other.items.map(({ expected }) => expected),
    items.map(({ expected }) => expected),
  );
  const rows = summarize(items, {
    groups: options().tasks.map(({ task }) => ({ task: task.name, group: task.group })),
    lengths: [8000, 12_000],
    seed: 5,
  });
  const all = rows.find((r) => r.task === 'all' && r.length === null && r.attention === 'worse')!;
  t.equal(all.paired!.nll_difference.mean, 0.25);
  t.ok(Math.abs(all.paired!.score_difference!.mean + 100 / 3) < 1e-9);
});

t.test('an interrupted run returns whole contexts and closes the open one', async (t) => {
  const engine = new LookupEngine();
  const controller = new AbortController();
  engine.onAsk = (asked) => {
    // Within the second context.
    if (asked === 8) controller.abort(new Error('interrupted'));
  };
  const { items, complete } = await runEval(
    engine,
    new FakeTextService(),
    options({ signal: controller.signal }),
  );
  t.equal(complete, false);
  t.strictSame(new Set(items.map(({ context_id }) => context_id)), new Set(['niah_single-8000-0']));
  t.equal(engine.numClosed, 2);
});

t.test('known items are taken over where they complete a context', async (t) => {
  const text = new FakeTextService();
  const whole = await runEval(new LookupEngine(), text, options());
  const engine = new LookupEngine();
  // One context lacks an item, one a setting, and one is of another length.
  const known = whole.items.filter(
    ({ context_id, item, attention }) =>
      !(context_id === 'vt-8000-1' && item === 2 && attention === 'worse') &&
      !(context_id === 'lm_prose-8000-0' && attention === 'exact'),
  );
  known.push({ ...whole.items[0]!, context_id: 'niah_single-9000-0' });
  const sizes: number[] = [];
  const { items, complete } = await runEval(
    engine,
    text,
    options({ known, onContext: (soFar) => sizes.push(soFar().length) }),
  );
  t.equal(engine.opened.length, 2);
  t.equal(complete, true);
  t.strictSame(items, whole.items);
  t.strictSame(
    sizes,
    [whole.items.length - 6, whole.items.length].sort((a, b) => a - b),
  );
});

t.test('reports that may be gone on with', async (t) => {
  const { items } = await runEval(new LookupEngine(), new FakeTextService(), options());
  const head = {
    isa: 'avx2',
    commit: 'abc',
    model: 'm',
    kv_dtype: 'f16',
    seed: 5,
    items_per_context: 3,
    texts_sha256: 'x',
    knobs: { vt: { hops: 2 } },
  };
  const report = { ...head, items } as unknown as EvalReport;
  t.equal(resumableItems(report, head), items);
  t.equal(resumableItems({ ...report, commit: 'abc-dirty' }, head), items);
  t.equal(resumableItems({ ...report, knobs: {} }, head), items, 'a task that it did not have');
  for (const [changes, message] of [
    [{ seed: 6 }, /--resume: expected a report with seed 5, received "6"/],
    [{ isa: 'amx' }, /isa/],
    [{ items_per_context: 4 }, /items_per_context/],
    [{ texts_sha256: 'y' }, /texts_sha256/],
    [{ commit: 'abd' }, /a report of commit abc/],
    [{ knobs: { vt: { hops: 3 } } }, /a report with vt/],
  ] as const) {
    t.throws(() => resumableItems({ ...report, ...changes }, head), message);
  }
});

t.test('refused before anything runs; failures come through', async (t) => {
  const engine = new LookupEngine();
  const text = new FakeTextService();
  const unknown = [{ attention: 'nope', sparsity: null, keptTokens: null }];
  await t.rejects(runEval(engine, text, options({ settings: unknown })), {
    code: 'ERR_UNSUPPORTED',
  });
  await t.rejects(runEval(engine, text, options({ lengths: [8000, 40_000] })), {
    code: 'ERR_CONTEXT_TOO_LONG',
  });
  t.equal(engine.opened.length, 0);
  engine.onAsk = () => {
    throw new Error('broken');
  };
  await t.rejects(runEval(engine, text, options()), /broken/);
  t.equal(engine.numClosed, 1);
});

t.test('tokens of a question: stop at the line, unless the answer has several', async (t) => {
  const text = new FakeTextService();
  const tokenizer = await TaskTokenizer.create(text);
  const item = { question: 'Q:', answer: ' 12.', expected: ['12'], depth: null };
  const question = await tokenizer.question(item);
  t.equal(Buffer.from(question.tokens).toString(), 'Q:');
  t.equal(Buffer.from(question.expected).toString(), ' 12.');
  t.equal(question.maxTokens, 4 + 8);
  t.strictSame(new Set(question.stopTokenIds), new Set([EOS, END_OF_TURN, 10]));
  const lines = await tokenizer.question({ ...item, isMultiline: true });
  t.strictSame(lines.stopTokenIds, [EOS, END_OF_TURN]);
  t.equal((await tokenizer.question({ ...item, expected: [] })).maxTokens, 0);
  t.equal(tokenizer.decode([...Buffer.from('über')]), 'über');
  t.equal(await tokenizer.count('abc'), 3, 'without special tokens');
});

t.test('an answer that merges with its question is encoded by itself', async (t) => {
  const text = new FakeTextService();
  // A tokenizer that joins "ab" into one token.
  text.encode = async (input) =>
    Int32Array.from([...input.replaceAll('ab', '\x01')].map((c) => c.charCodeAt(0)));
  const tokenizer = await TaskTokenizer.create(text);
  const merged = await tokenizer.question({
    question: 'xa',
    answer: 'bc',
    expected: [],
    depth: null,
  });
  t.strictSame([...merged.tokens], [...Buffer.from('xa')]);
  t.strictSame([...merged.expected], [...Buffer.from('bc')]);
});

t.test('settings from flags', async (t) => {
  const list = (flags: Partial<Parameters<typeof listSettings>[0]>) =>
    listSettings({ attention: 'exact', paired: false, ...flags }).map(
      ({ attention, sparsity, keptTokens }) => `${attention} ${sparsity} ${keptTokens}`,
    );
  t.strictSame(list({}), ['exact null null']);
  t.strictSame(list({ attention: 'squeezed' }), ['squeezed null null']);
  t.strictSame(list({ attention: 'squeezed', paired: true }), [
    'exact null null',
    'squeezed null null',
  ]);
  t.strictSame(
    list({ attention: 'squeezed, exact', sparsity: '0.9,0', keptTokens: '64', paired: true }),
    ['squeezed 0.9 null', 'squeezed 0 null', 'squeezed null 64', 'exact null null'],
  );
  for (const [flags, message] of [
    [{ attention: '' }, /--attention/],
    [{ attention: 'squeezed', sparsity: '1' }, /--sparsity: expected numbers from 0 to 0\.999/],
    [{ attention: 'squeezed', sparsity: '0.5,' }, /--sparsity/],
    [{ attention: 'squeezed', keptTokens: '1.5' }, /--kept-tokens/],
    [{ sparsity: '0.9' }, /--sparsity: expected an --attention other than exact/],
  ] as const) {
    t.throws(() => list(flags), message);
  }
});
