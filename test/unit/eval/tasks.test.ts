/** What the generators make: the facts are in the text, where and as often as they should be. */
import t from 'tap';
import { Corpus, splitSentences } from '../../../src/eval/corpus.js';
import { EvalRandom } from '../../../src/eval/eval-random.js';
import { ANSWER_SLACK, type EvalTask } from '../../../src/eval/eval-task.js';
import type { TaskContext } from '../../../src/eval/eval-types.js';
import { gridDepths, interleave } from '../../../src/eval/haystack.js';
import { knobsOf, PRESETS, parseTasks, presetFor, TASKS } from '../../../src/eval/task-registry.js';
import { countBytes, TEXT, taskRequest } from './make-eval.js';

const taskNamed = (name: string): EvalTask => parseTasks(name)[0]!;
const build = (name: string, changes: Parameters<typeof taskRequest>[1] = {}) =>
  taskNamed(name).build(taskRequest(taskNamed(name), changes));
const occurrences = (text: string, part: string): number => text.split(part).length - 1;

for (const task of TASKS) {
  t.test(`${task.name}: deterministic, as long as asked, under every preset`, async (t) => {
    for (const preset of PRESETS) {
      const knobs = knobsOf(task, preset, []);
      const request = () => taskRequest(task, { knobs });
      const made = await task.build(request());
      t.strictSame(await task.build(request()), made, 'the same again');
      const other = await task.build({ ...request(), random: new EvalRandom('other', task.name) });
      t.not(other.text, made.text, 'another seed, another context');
      t.equal(made.items.length, Math.min(6, task.itemsMax));
      t.equal(new Set(made.items.map(({ question }) => question)).size, made.items.length);
      for (const { question, answer, expected, depth } of made.items) {
        const total = Buffer.byteLength(made.text + question + answer);
        t.ok(total + ANSWER_SLACK <= 20_000, `${total} bytes`);
        for (const text of expected) t.ok(answer.includes(text), 'the answer would score');
        t.ok(answer.length > 0 && question.length > 0);
        t.ok(depth === null || (depth >= 0 && depth <= 1));
        if (task.group === 'retrieval') {
          for (const text of expected) t.ok(made.text.includes(text), `${text} is in the text`);
        }
      }
      const longest = Math.max(
        ...made.items.map(({ question, answer }) => Buffer.byteLength(question + answer)),
      );
      // One more sentence, word or line would not have fitted.
      const missing = 20_000 - Buffer.byteLength(made.text) - longest;
      t.ok(missing < 400, `${missing} bytes were left`);
    }
  });

  t.test(`${task.name}: a length without room is refused`, async (t) => {
    await t.rejects(task.build(taskRequest(task, { length: 300 })), {
      code: 'ERR_INVALID_REQUEST',
    });
  });
}

/** Where a fact stands, as a share of the text. */
const placeOf = (text: string, part: string): number => text.indexOf(part) / text.length;

t.test('niah: facts stand on the grid, keys are apart or alike', async (t) => {
  const single = await build('niah_single');
  for (const { question, answer, depth } of single.items) {
    const fact = `${question.trim()}${answer}`;
    t.equal(occurrences(single.text, fact), 1);
    t.ok(Math.abs(placeOf(single.text, fact) - depth!) < 0.06, `${fact} at ${depth}`);
  }
  t.strictSame(
    single.items.map(({ depth }) => depth!).sort((a, b) => a - b),
    gridDepths(6),
  );
  const words = single.items.flatMap(({ question }) =>
    question.match(/the (\w+) (\w+):/)!.slice(1),
  );
  t.equal(new Set(words).size, 12, 'no word twice');

  const knobs = { digits: 4, distractors: 9 };
  const multikey = await build('niah_multikey', { knobs });
  const keys = [...multikey.text.matchAll(/Secret number of the (\w+) (\w+): \d{4}\./g)];
  t.equal(keys.length, 6 + 9);
  const asked = multikey.items.map(({ question }) => question.match(/the (\w+) (\w+):/)!.slice(1));
  const others = keys
    .map((match) => match.slice(1, 3) as [string, string])
    .filter(([a, n]) => !asked.some(([x, y]) => x === a && y === n));
  t.equal(others.length, 9);
  for (const [adjective, noun] of others) {
    t.ok(
      asked.some(([a, n]) => a === adjective || n === noun),
      `${adjective} ${noun} shares a word with a key that is asked for`,
    );
  }
});

t.test('niah_multivalue: all values in the order of the text', async (t) => {
  const knobs = { digits: 5, values: 3, examples: 1 };
  const { text, items } = await build('niah_multivalue', { knobs });
  for (const { question, expected } of items) {
    const lead = question.slice(question.lastIndexOf('\n') + 1);
    const told = [...text.matchAll(new RegExp(`${lead} (\\d{5})\\.`, 'g'))].map(
      (match) => match[1],
    );
    t.equal(expected.length, 3);
    t.strictSame(told, expected);
  }
});

t.test('niah_multiquery: examples are true and never asked for', async (t) => {
  const knobs = { digits: 5, queries: 3, examples: 2 };
  const { text, items } = await build('niah_multiquery', { knobs });
  for (const { question, answer, expected } of items) {
    const told = [...(question + answer).matchAll(/Secret number of the [\w ]+: \d{5}\./g)];
    t.equal(told.length, 9);
    for (const [fact] of told) t.equal(occurrences(text, fact), 1, fact);
    for (const value of expected) t.notOk(question.includes(value));
  }
});

t.test('vt and threading: every link is there once; copies in order', async (t) => {
  const vt = await build('vt', { knobs: { hops: 3, digits: 5, examples: 1 } });
  t.equal(occurrences(vt.text, 'Copy of '), 7 * 3);
  for (const { question, answer, expected } of vt.items) {
    const start = question.match(/Copy of (\d{5}):$/)![1]!;
    const links = [start, ...expected]
      .slice(0, -1)
      .map((from, i) => `Copy of ${from}: ${expected[i]}.`);
    t.equal(`${question.slice(question.lastIndexOf('\n') + 1)}${answer}`, links.join('\n'));
    const places = links.map((link) => vt.text.indexOf(link));
    t.ok(
      places.every((place, i) => place > (places[i - 1] ?? -1)),
      'in the order of a program',
    );
  }
  const knobs = { hops: 2, digits: 4, distractors: 5, examples: 1 };
  const threading = await build('threading', { knobs });
  t.equal(occurrences(threading.text, 'Road from '), 7 * 2 + 5);
  for (const { question, expected } of threading.items) {
    const start = question.match(/Road from (\d{4}):$/)![1]!;
    t.ok(threading.text.includes(`Road from ${start}: ${expected[0]}.`));
    t.ok(threading.text.includes(`Road from ${expected[0]}: ${expected[1]}.`));
  }
});

t.test('cwe and fwe: the right words are the frequent ones', async (t) => {
  const rank = (words: string[]): string[] => {
    const counts = new Map<string, number>();
    for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).map(([word]) => word);
  };
  const cwe = await build('cwe', { knobs: { common: 5, times: 12, rare_times: 2 } });
  const listed = [...cwe.text.matchAll(/(\d+)\. (\w+)/g)];
  t.strictSame(
    listed.map((match) => Number(match[1])),
    listed.map((_, i) => i + 1),
  );
  const words = listed.map((match) => match[2]!);
  t.strictSame(new Set(rank(words).slice(0, 5)), new Set(cwe.items[0]!.expected));
  for (const word of cwe.items[0]!.expected) {
    t.equal(words.filter((other) => other === word).length, 12);
  }
  const example = cwe.items[0]!.question.match(/Example list: (.*)\n/)![1]!;
  for (const word of cwe.items[0]!.expected) t.notOk(new RegExp(`\\b${word}\\b`).test(example));

  const fwe = await build('fwe', { knobs: { alpha_tenths: 20, letters: 6 } });
  const coded = fwe.text.slice(fwe.text.indexOf('\n')).trim().split(' ');
  t.strictSame(rank(coded).slice(0, 4), ['...', ...fwe.items[0]!.expected]);
});

t.test('prefixqa: the span stands in the description of the person', async (t) => {
  const { text, items } = await build('prefixqa', { numItems: 12 });
  t.equal(items.length, 12);
  for (const { question, expected } of items) {
    const name = question.match(/Answer: (\w+ \w+) [a-z ]+$/)![1]!;
    const line = text.split(/(?<=\.)\s/).find((sentence) => sentence.includes(name))!;
    t.ok(line.includes(expected[0]!), `${expected[0]} in "${line}"`);
  }
});

t.test('lm: context, question and answer are one piece of the text', async (t) => {
  const task = taskNamed('lm_prose');
  const { text, items } = (await task.build(taskRequest(task))) as TaskContext;
  const { question, answer, expected } = items[0]!;
  t.ok(TEXT.includes(text + question + answer));
  t.ok((await countBytes(question)) <= 64 && (await countBytes(question)) > 40);
  t.ok((await countBytes(answer)) <= 256 && (await countBytes(answer)) > 230);
  t.strictSame(expected, [], 'nothing to score');
  const short = new Corpus('One. Two. Three.\n');
  await t.rejects(task.build(taskRequest(task, { corpus: short })), /too few/);
});

t.test('sentences and needles among them', async (t) => {
  t.strictSame(splitSentences('A b. C d! “E?” F\n\nG.'), [
    { text: 'A b.', separator: ' ' },
    { text: 'C d!', separator: ' ' },
    { text: '“E?”', separator: ' ' },
    { text: 'F', separator: '\n' },
    { text: 'G.', separator: '\n' },
  ]);
  const sentences = splitSentences('A. B. C. D.');
  const at = (depth: number) => interleave(sentences, [{ text: 'N.', depth }]);
  t.equal(at(0), 'N. A. B. C. D.');
  t.equal(at(0.5), 'A. B. N. C. D.');
  t.equal(at(1), 'A. B. C. D.\nN.');
  t.equal(interleave([], [{ text: 'N.', depth: 0.3 }]), 'N.');
});

t.test('the texts that come with the program', async (t) => {
  const corpus = Corpus.load(null);
  t.ok(corpus.prose.length > 400_000 && corpus.words().length > 3000);
  t.ok(corpus.words().every((word) => /^[a-z]{4,8}$/.test(word)));
  t.match(corpus.code, /\/\/ src\/eval\/corpus\.ts\n/);
  const sentences = corpus.sentences(corpus.prose.length + 5000, new EvalRandom('round'));
  const length = sentences.reduce((sum, { text }) => sum + text.length + 1, 0);
  t.ok(length >= corpus.prose.length + 5000, 'goes round at the end');
  t.throws(() => Corpus.load('/no/such/text'), { code: 'ERR_INVALID_REQUEST' });
  t.equal(
    Corpus.load(import.meta.filename ?? new URL(import.meta.url).pathname).code.length > 0,
    true,
  );
});

t.test('names, groups, presets, knobs', async (t) => {
  t.strictSame(
    parseTasks('lm,niah_single,lm_code').map(({ name }) => name),
    ['lm_prose', 'lm_code', 'niah_single'],
  );
  t.equal(parseTasks('all').length, TASKS.length);
  t.throws(() => parseTasks('vt,nope'), /--tasks: expected some of niah_single.*received "nope"/);
  t.strictSame([presetFor(134e6), presetFor(268e6), presetFor(1.2e9)], ['135m', '270m', 'full']);
  const vt = taskNamed('vt');
  t.strictSame(knobsOf(vt, 'full', ['vt.hops=3', 'cwe.common=2']), { ...vt.knobs, hops: 3 });
  t.throws(() => knobsOf(vt, 'full', ['vt.nope=3']), /--set: expected one of vt\.hops/);
  for (const wrong of ['vt.hops', 'vt.hops=-1', 'nope.hops=1', 'vt.hops=1.5', 'vt.hops=999999']) {
    t.throws(() => knobsOf(vt, 'full', [wrong]), { name: 'ConfigError' }, wrong);
  }
});

t.test('draws: independent by path, repeatable, in range', async (t) => {
  const draw = (random: EvalRandom) => Array.from({ length: 20 }, () => random.below(1000));
  t.strictSame(draw(new EvalRandom('a', 1)), draw(new EvalRandom('a', 1)));
  t.notSame(draw(new EvalRandom('a', 1)), draw(new EvalRandom('a', 2)));
  const random = new EvalRandom('b');
  const forked = draw(random.fork('x'));
  draw(random);
  t.strictSame(draw(random.fork('x')), forked, 'a fork does not depend on what was drawn before');
  t.match(random.digits(6), /^[1-9]\d{5}$/);
  t.match(random.letters(4), /^[a-z]{4}$/);
  t.strictSame(random.shuffle([1, 2, 3, 4]).sort(), [1, 2, 3, 4]);
  t.equal(new Set(random.sample([1, 2, 3], 3)).size, 3);
  t.throws(() => random.sample([1], 2), /2 of 1/);
  t.throws(() => random.distinct(11, () => String(random.below(10))), /too many/);
});
