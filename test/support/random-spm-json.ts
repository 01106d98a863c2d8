/** A random SentencePiece-style BPE as a tokenizer.json: byte fallback, special and added tokens. */
import { randomMerges } from '../unit/tokenizer/tiny-specs.js';

/** How a tokenizer.json writes "put a space in front". */
export const PREFIX_RULES = {
  never: { pre_tokenizer: metaspace('never') },
  first: { pre_tokenizer: metaspace('first') },
  always: { pre_tokenizer: metaspace('always') },
  normalizer: {
    normalizer: {
      type: 'Sequence',
      normalizers: [{ type: 'Prepend', prepend: '▁' }, spacesToMarks()],
    },
  },
  'normalizer and first': {
    normalizer: spacesToMarks(),
    pre_tokenizer: metaspace('first'),
  },
};
export type PrefixRules = keyof typeof PREFIX_RULES;

export const SPECIAL = ['<unk>', '<s>', '</s>'];
export const ADDED = '[TOOL]';

function metaspace(scheme: string): object {
  return { type: 'Metaspace', replacement: '▁', prepend_scheme: scheme, split: false };
}

function spacesToMarks(): object {
  return { type: 'Replace', pattern: { String: ' ' }, content: '▁' };
}

/** `words`: what merges are drawn from, spaces written as marks. */
export function randomSpmJson(rules: PrefixRules, words: string[], random: () => number): object {
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
  );
  const letters = [...new Set(words.join(''))].filter((letter) => letter !== '日');
  const merges = randomMerges(
    words.map((word) => [...word].filter((letter) => letter !== '日')),
    60,
    random,
  );
  const joined = merges.map((pair) => pair.join(''));
  const texts = [...new Set([...SPECIAL, ...bytes, ...letters, ...joined])];
  const vocab = Object.fromEntries(texts.map((text, id) => [text, id]));
  const added = [...SPECIAL, ADDED].map((content) => ({
    id: vocab[content] ?? texts.length,
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: content !== ADDED,
  }));
  return {
    version: '1.0',
    truncation: null,
    padding: null,
    added_tokens: added,
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: null,
    ...PREFIX_RULES[rules],
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: '<unk>',
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab,
      merges: allSplits(joined, new Set(texts)),
    },
  };
}

/** Converted files list every split of each piece into two others, pieces in order. */
function allSplits(pieces: string[], known: ReadonlySet<string>): string[][] {
  return pieces.flatMap((piece) => {
    const letters = [...piece];
    return letters
      .slice(1)
      .map((_, i) => [letters.slice(0, i + 1).join(''), letters.slice(i + 1).join('')])
      .filter((pair) => pair.every((part) => known.has(part)));
  });
}
