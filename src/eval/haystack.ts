/** Contexts of a wanted length: facts among real sentences, and what fills lists to a length. */
import { EngineError } from '../errors.js';
import type { Corpus, Sentence } from './corpus.js';
import type { EvalRandom } from './eval-random.js';
import type { CountTokens } from './eval-types.js';

export interface Needle {
  text: string;
  /** 0 is the beginning of the haystack, 1 its end. */
  depth: number;
}

/** A token is longer than this only in texts that no task makes. */
const CHARACTERS_PER_TOKEN = 6;

/**
 * The largest number of units in [least, most] whose text has at most `maxTokens` tokens. More
 * units must not make fewer tokens. Throws ERR_INVALID_REQUEST when even `least` are too many.
 */
export async function fitUnits(options: {
  least: number;
  most: number;
  maxTokens: number;
  count: CountTokens;
  render: (units: number) => string;
  what: string;
}): Promise<string> {
  const { least, maxTokens, count, render } = options;
  const smallest = await count(render(least));
  if (smallest > maxTokens) {
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      `${options.what}: needs a context of at least ${smallest} tokens, there is room for ` +
        `${maxTokens}. Give it a larger length, fewer items or smaller knobs.`,
    );
  }
  let low = least;
  let high = options.most;
  while (low < high) {
    const middle = Math.ceil((low + high) / 2);
    if ((await count(render(middle))) <= maxTokens) low = middle;
    else high = middle - 1;
  }
  return render(low);
}

/** `header`, then real sentences with the needles among them, as long as `maxTokens` allow. */
export async function hideInProse(options: {
  header: string;
  needles: readonly Needle[];
  maxTokens: number;
  corpus: Corpus;
  random: EvalRandom;
  count: CountTokens;
  what: string;
}): Promise<string> {
  const { header, maxTokens, corpus, random, count } = options;
  const sentences = corpus.sentences(maxTokens * CHARACTERS_PER_TOKEN, random);
  const needles = [...options.needles].sort((left, right) => left.depth - right.depth);
  return fitUnits({
    least: 0,
    most: sentences.length,
    maxTokens,
    count,
    render: (units) => `${header}${interleave(sentences.slice(0, units), needles)}\n`,
    what: options.what,
  });
}

/** `needles` by ascending depth; one at depth d stands before sentence round(d × count). */
export function interleave(sentences: readonly Sentence[], needles: readonly Needle[]): string {
  const pieces: string[] = [];
  let next = 0;
  for (let i = 0; i <= sentences.length; i++) {
    while (
      next < needles.length &&
      (i === sentences.length || Math.round(needles[next]!.depth * sentences.length) <= i)
    ) {
      pieces.push(needles[next]!.text, ' ');
      next += 1;
    }
    const sentence = sentences[i];
    if (sentence) pieces.push(sentence.text, sentence.separator);
  }
  return pieces.join('').trimEnd();
}

/** `count` depths: one in the middle of each of `count` equal parts. */
export function gridDepths(count: number): number[] {
  return Array.from({ length: count }, (_, i) => (i + 0.5) / count);
}
