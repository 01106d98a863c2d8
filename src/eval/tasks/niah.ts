/**
 * Needles in a haystack, the four kinds of RULER (Hsieh et al., 2024, arXiv 2404.06654, §3.1):
 * numbers of keys hidden in real prose. There, a context hides what one question asks; here a
 * context is read once and asked many questions, so it hides a fact for each, on a grid of depths.
 * What makes the kinds differ stays: in `niah_single` no two keys share a word; in `niah_multikey`
 * further keys do, so that half a key is not enough; in `niah_multivalue` a key has several
 * numbers; `niah_multiquery` asks for several keys at once.
 */
import type { EvalRandom } from '../eval-random.js';
import { contextTokens, type EvalTask, knob, type TaskRequest } from '../eval-task.js';
import type { Knobs, TaskContext, TaskItem } from '../eval-types.js';
import { gridDepths, hideInProse, type Needle } from '../haystack.js';
import { ADJECTIVES, NOUNS } from '../words.js';

const HEADER = 'The text below mentions secret numbers. Remember them: questions follow.\n\n';

interface Fact {
  key: string;
  values: string[];
  depths: number[];
}

/** The key stands right before its value: small models find it there and hardly anywhere else. */
const lead = ({ key }: Fact): string => `Secret number of the ${key}:`;

const needlesOf = (fact: Fact): Needle[] =>
  fact.values.map((value, i) => ({
    text: `${lead(fact)} ${value}.`,
    depth: fact.depths[i]!,
  }));

/** A line for each [fact, value]; the first begins after its lead. */
const tellLines = (lines: ReadonlyArray<readonly [Fact, string]>): string =>
  lines.map(([fact, value], i) => `${i === 0 ? '' : `\n${lead(fact)}`} ${value}.`).join('');

/** Keys of two words, no word twice. */
function separateKeys(count: number, random: EvalRandom): string[] {
  const nouns = random.sample(NOUNS, count);
  return random.sample(ADJECTIVES, count).map((adjective, i) => `${adjective} ${nouns[i]}`);
}

/** For each distractor a word of one of the keys with a word that is not its own. */
function likeKeys(keys: readonly string[], count: number, random: EvalRandom): string[] {
  const taken = new Set(keys);
  return random.distinct(count, () => {
    for (;;) {
      const [adjective, noun] = random.pick(keys).split(' ') as [string, string];
      const key =
        random.below(2) === 0
          ? `${adjective} ${random.pick(NOUNS)}`
          : `${random.pick(ADJECTIVES)} ${noun}`;
      if (!taken.has(key)) return key;
    }
  });
}

/** Facts with one value each, by the grid's depths in random order. */
function singleFacts(keys: readonly string[], knobs: Knobs, random: EvalRandom): Fact[] {
  const values = random.distinct(keys.length, () => random.digits(knob(knobs, 'digits')));
  const depths = random.shuffle(gridDepths(keys.length));
  return keys.map((key, i) => ({ key, values: [values[i]!], depths: [depths[i]!] }));
}

const askSingle = (fact: Fact): TaskItem => ({
  question: `\n${lead(fact)}`,
  answer: ` ${fact.values[0]}.`,
  expected: fact.values,
  depth: fact.depths[0]!,
});

async function hide(
  what: string,
  request: TaskRequest,
  items: TaskItem[],
  needles: readonly Needle[],
): Promise<TaskContext> {
  const text = await hideInProse({
    header: HEADER,
    needles,
    maxTokens: await contextTokens(request, items),
    corpus: request.corpus,
    random: request.random.fork('prose'),
    count: request.count,
    what,
  });
  return { text, items };
}

export const NIAH_SINGLE: EvalTask = {
  name: 'niah_single',
  group: 'retrieval',
  about: 'one number in a haystack, keys without a word in common',
  knobs: { digits: 7 },
  itemsMax: 64,
  async build(request) {
    const { random, numItems, knobs } = request;
    const facts = singleFacts(separateKeys(numItems, random), knobs, random);
    return hide('niah_single', request, facts.map(askSingle), facts.flatMap(needlesOf));
  },
};

export const NIAH_MULTIKEY: EvalTask = {
  name: 'niah_multikey',
  group: 'retrieval',
  about: 'one number in a haystack, among keys that share words with its key',
  knobs: { digits: 7, distractors: 48 },
  itemsMax: 64,
  async build(request) {
    const { random, numItems, knobs } = request;
    const keys = separateKeys(numItems, random);
    const others = likeKeys(keys, knob(knobs, 'distractors'), random);
    // Drawn together, so that neither the depths nor the values tell them apart.
    const facts = singleFacts([...keys, ...others], knobs, random);
    const asked = facts.slice(0, numItems);
    return hide('niah_multikey', request, asked.map(askSingle), facts.flatMap(needlesOf));
  },
};

export const NIAH_MULTIVALUE: EvalTask = {
  name: 'niah_multivalue',
  group: 'retrieval',
  about: 'all numbers of a key that has several',
  knobs: { digits: 7, values: 4, examples: 2 },
  itemsMax: 48,
  async build(request) {
    const { random, numItems, knobs } = request;
    const numValues = knob(knobs, 'values');
    // The last ones are worked examples.
    const keys = separateKeys(numItems + knob(knobs, 'examples'), random);
    const values = random.distinct(keys.length * numValues, () =>
      random.digits(knob(knobs, 'digits')),
    );
    const depths = random.shuffle(gridDepths(values.length));
    const facts = keys.map((key, i): Fact => {
      const range = [i * numValues, (i + 1) * numValues] as const;
      // As the text tells them, so that the expected order is the natural one.
      return {
        key,
        values: values.slice(...range),
        depths: depths.slice(...range).sort((left, right) => left - right),
      };
    });
    const ask = (fact: Fact): string => `\n\nAll secret numbers of the ${fact.key}:\n${lead(fact)}`;
    const tell = (fact: Fact): string => tellLines(fact.values.map((value) => [fact, value]));
    const examples = facts
      .slice(numItems)
      .map((fact) => ask(fact) + tell(fact))
      .join('');
    const items = facts.slice(0, numItems).map(
      (fact): TaskItem => ({
        question: examples + ask(fact),
        answer: tell(fact),
        expected: fact.values,
        depth: fact.depths.reduce((sum, depth) => sum + depth, 0) / numValues,
        isMultiline: true,
      }),
    );
    return hide('niah_multivalue', request, items, facts.flatMap(needlesOf));
  },
};

export const NIAH_MULTIQUERY: EvalTask = {
  name: 'niah_multiquery',
  group: 'retrieval',
  about: 'the numbers of several keys, asked for at once',
  knobs: { digits: 7, queries: 4, examples: 1 },
  itemsMax: 48,
  async build(request) {
    const { random, numItems, knobs } = request;
    const numQueries = knob(knobs, 'queries');
    const numExamples = knob(knobs, 'examples');
    const numKeys = Math.max(numItems, numQueries) + numExamples * numQueries;
    const facts = singleFacts(separateKeys(numKeys, random), knobs, random);
    const pool = facts.slice(numExamples * numQueries);
    const ask = (asked: readonly Fact[]): string => {
      const names = asked.map(({ key }) => `the ${key}`).join(' and ');
      return `\n\nSecret numbers of ${names}:\n${lead(asked[0]!)}`;
    };
    const tell = (asked: readonly Fact[]): string =>
      tellLines(asked.map((fact) => [fact, fact.values[0]!]));
    // No question asks for a key of an example.
    let examples = '';
    for (let i = 0; i < numExamples; i++) {
      const asked = facts.slice(i * numQueries, (i + 1) * numQueries);
      examples += ask(asked) + tell(asked);
    }
    // Each question has a key of its own and draws the others.
    const items = pool.slice(0, numItems).map((own): TaskItem => {
      const rest = pool.filter((fact) => fact !== own);
      const asked = random.shuffle([own, ...random.sample(rest, numQueries - 1)]);
      return {
        question: examples + ask(asked),
        answer: tell(asked),
        expected: asked.map(({ values }) => values[0]!),
        depth: null,
        isMultiline: true,
      };
    });
    return hide('niah_multiquery', request, items, facts.flatMap(needlesOf));
  },
};
