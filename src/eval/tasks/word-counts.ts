/**
 * What is frequent in a long list, RULER's aggregation tasks (arXiv 2404.06654, §3.3). `cwe`: a
 * numbered list in which a few words are common. `fwe`: coded words whose frequencies fall with
 * the rank to the power -alpha, the most frequent of them replaced by dots, which do not count.
 *
 * One context has one right answer. Further questions of a context differ in their worked example
 * only, hence the low itemsMax.
 */
import { EngineError } from '../../errors.js';
import type { EvalRandom } from '../eval-random.js';
import { contextTokens, type EvalTask, knob } from '../eval-task.js';
import type { TaskItem } from '../eval-types.js';
import { fitUnits } from '../haystack.js';

/** "1. whale 2. rope …": each of `words` as often as its count says, in random order. */
function numberedList(
  counts: ReadonlyArray<readonly [string, number]>,
  random: EvalRandom,
): string {
  const all = counts.flatMap(([word, times]) => new Array<string>(times).fill(word));
  return random
    .shuffle(all)
    .map((word, i) => `${i + 1}. ${word}`)
    .join(' ');
}

const timesEach = (words: readonly string[], times: number): Array<[string, number]> =>
  words.map((word) => [word, times]);

export const COMMON_WORDS: EvalTask = {
  name: 'cwe',
  group: 'aggregation',
  about: 'the common words of a long list',
  knobs: { common: 10, times: 30, rare_times: 3 },
  itemsMax: 4,
  async build(request) {
    const { random, numItems, knobs, corpus } = request;
    const [numCommon, times, rareTimes] = ['common', 'times', 'rare_times'].map((name) =>
      knob(knobs, name),
    ) as [number, number, number];
    const vocabulary = random.shuffle(corpus.words());
    const common = vocabulary.slice(0, numCommon);
    const examples = vocabulary.slice(numCommon, numCommon + numItems * EXAMPLE_WORDS);
    const rare = vocabulary.slice(numCommon + numItems * EXAMPLE_WORDS);
    const ask = (where: string): string =>
      `\nThe ${numCommon} words that appear most often in the ${where} above are:`;
    const items = Array.from({ length: numItems }, (_, i): TaskItem => {
      const words = examples.slice(i * EXAMPLE_WORDS, (i + 1) * EXAMPLE_WORDS);
      const often = words.slice(0, numCommon);
      const list = numberedList(
        [...timesEach(often, 5), ...timesEach(words.slice(numCommon, EXAMPLE_WORDS), 1)],
        random,
      );
      return {
        question: `\nExample list: ${list}${ask('example list')} ${often.join(', ')}.${ask('long list')}`,
        answer: ` ${common.join(', ')}`,
        expected: common,
        depth: null,
      };
    });
    const maxTokens = await contextTokens(request, items);
    // Rare words come round again when they run out, as long as they stay rarer than the common.
    const roundsMax = Math.max(1, Math.ceil(times / rareTimes) - 1);
    const rareCounts = (units: number): Array<[string, number]> => {
      const counts = new Map<string, number>();
      for (let i = 0; i < units; i++) {
        const word = rare[i % rare.length]!;
        counts.set(word, (counts.get(word) ?? 0) + rareTimes);
      }
      return [...counts];
    };
    const most = rare.length * roundsMax;
    const text = await fitUnits({
      least: 1,
      most: Math.min(most, Math.ceil(maxTokens / rareTimes)),
      maxTokens,
      count: request.count,
      render: (units) =>
        'Long list of words. Some words appear often in it, most appear rarely.\n' +
        `${numberedList([...timesEach(common, times), ...rareCounts(units)], random.fork('list'))}\n`,
      what: 'cwe',
    });
    if ((await request.count(text)) < FILLED * maxTokens) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        `cwe: ${rare.length} different words do not fill ${maxTokens} tokens; raise cwe.times`,
      );
    }
    return { text, items };
  },
};

/** Share of the room that a list must take to count as of the wanted length. */
const FILLED = 0.9;
const EXAMPLE_WORDS = 20;

/** `counts[rank]` of `total` draws when frequencies are proportional to (rank + 1)^-alpha. */
function zetaCounts(total: number, numRanks: number, alpha: number): number[] {
  const weights = Array.from({ length: numRanks }, (_, rank) => (rank + 1) ** -alpha);
  const sum = weights.reduce((left, right) => left + right, 0);
  return weights.map((weight) => Math.max(1, Math.round((total * weight) / sum)));
}

const DOTS = '...';
const TOP = 3;

function codedText(
  words: readonly string[],
  total: number,
  alpha: number,
  random: EvalRandom,
): string {
  const counts = zetaCounts(total, words.length + 1, alpha);
  const all = [DOTS, ...words].flatMap((word, rank) => new Array<string>(counts[rank]!).fill(word));
  return random.shuffle(all).join(' ');
}

export const FREQUENT_WORDS: EvalTask = {
  name: 'fwe',
  group: 'aggregation',
  about: 'the three most frequent words of a coded text',
  knobs: { alpha_tenths: 20, letters: 6 },
  itemsMax: 4,
  async build(request) {
    const { random, numItems, knobs } = request;
    const alpha = knob(knobs, 'alpha_tenths') / 10;
    const numWords = Math.max(TOP + 1, Math.floor(request.length / 50));
    const numExample = 6;
    const words = random.distinct(numWords + numItems * numExample, () =>
      random.letters(knob(knobs, 'letters')),
    );
    const coded = words.slice(0, numWords);
    const answer = coded.slice(0, TOP);
    const ask = (where: string): string =>
      `\nThe three words that appear most often in the ${where} above, dots left out, are:`;
    const items = Array.from({ length: numItems }, (_, i): TaskItem => {
      const own = words.slice(numWords + i * numExample, numWords + (i + 1) * numExample);
      return {
        question:
          `\nExample: ${codedText(own, 40, 1.5, random)}` +
          `${ask('example')} ${own.slice(0, TOP).join(', ')}.${ask('coded text')}`,
        answer: ` ${answer.join(', ')}`,
        expected: answer,
        depth: null,
      };
    });
    const text = await fitUnits({
      least: numWords + 1,
      most: Math.max(numWords + 1, request.length),
      maxTokens: await contextTokens(request, items),
      count: request.count,
      render: (units) =>
        'Coded text. Some words appear more often in it than others; dots mean nothing.\n' +
        `${codedText(coded, units, alpha, random.fork('text'))}\n`,
      what: 'fwe',
    });
    return { text, items };
  },
};
