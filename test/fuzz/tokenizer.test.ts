/**
 * Random vocabularies and texts: byte-level BPE against @huggingface/tokenizers, SentencePiece BPE
 * against the definition written out, and round trips.
 * LONGHAUL_FUZZ_SEED=N reruns one seed.
 */
import { Tokenizer } from '@huggingface/tokenizers';
import t from 'tap';
import { loadAddon, type NativeTokenizer } from '../../src/binding/addon.js';
import { decodeTokens } from '../../src/tokenizer/detokenizer.js';
import {
  BYTE,
  BYTE_ALPHABET,
  byteTokens,
  CONTROL,
  makeSpec,
  NORMAL,
  randomMerges,
  seededRandom,
  spellBytes,
  type TinyToken,
  UNKNOWN,
} from '../unit/tokenizer/tiny-specs.js';

const addon = loadAddon();
const SEEDS = process.env.LONGHAUL_FUZZ_SEED
  ? [Number(process.env.LONGHAUL_FUZZ_SEED)]
  : [1, 2, 3, 4, 5, 6];

// Left out on purpose: U+0085 and U+FEFF, which JavaScript's \s and Unicode's disagree about, and
// the long s, which the library's rewriting of (?i:...) does not fold.
const ALPHABETS = [
  'etaoin shrdlu',
  "I'm you're WE'LL they'd 'S",
  '0123456789 .,',
  ' \t\n\r',
  'éàüßñ Ωω',
  '日本語カナひら、。',
  'мир и труд',
  'a\u0301e\u0300\u0915\u093f',
  '😀👍🏽\u200d❤\ufe0f',
  '!?#$%/\\(){}<>=+-*_',
  'ABCabc XyZ',
  '\u00a0\u3000\u2028',
  '\u0000\u007f',
  '<|end|>',
];

function randomText(random: () => number, lengthMax: number): string {
  const pools = Array.from({ length: 1 + Math.floor(random() * 4) }, () => [
    ...ALPHABETS[Math.floor(random() * ALPHABETS.length)]!,
  ]);
  const length = Math.floor(random() * lengthMax);
  let text = '';
  for (let i = 0; i < length; i++) {
    const pool = pools[Math.floor(random() * pools.length)]!;
    text += pool[Math.floor(random() * pool.length)]!;
  }
  return text;
}

const SUFFIXES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST = '| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+';
const WORDS = '|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+';
const byteLevel = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
});
const split = (regex: string) => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: regex }, behavior: 'Isolated', invert: false },
    byteLevel(false),
  ],
});
const PRE_TOKENIZERS: Record<string, unknown> = {
  gpt2: byteLevel(true),
  smollm: {
    type: 'Sequence',
    pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
  },
  llama3: split(`${SUFFIXES}${WORDS}|\\p{N}{1,3}${REST}`),
  qwen2: split(`${SUFFIXES}${WORDS}|\\p{N}${REST}`),
  tekken: split(
    '[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+' +
      '|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*' +
      '|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
  ),
  none: byteLevel(false),
};

interface Pair {
  ours: NativeTokenizer;
  reference: Tokenizer;
}

/** The same random byte-level model twice. `shuffle`: ranks in an order no training gives. */
function randomBpe(
  random: () => number,
  pre: string,
  ignoreMerges: boolean,
  shuffle: boolean,
): Pair {
  const words = Array.from({ length: 60 }, () => [...spellBytes(randomText(random, 30))]);
  const merges = randomMerges(words, 150, random);
  if (shuffle) merges.sort(() => random() - 0.5);
  const tokens: TinyToken[] = byteTokens(
    [...new Set(merges.map((pair) => pair.join('')))].map((text) => ({ text, type: NORMAL })),
  );
  const control = { text: '<|end|>', type: CONTROL };
  const vocab = Object.fromEntries(tokens.map((token, id) => [token.text, id]));
  const reference = new Tokenizer(
    {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: [
        {
          id: tokens.length,
          content: control.text,
          special: true,
          single_word: false,
          lstrip: false,
          rstrip: false,
          normalized: false,
        },
      ],
      normalizer: null,
      pre_tokenizer: PRE_TOKENIZERS[pre],
      post_processor: null,
      decoder: { type: 'ByteLevel' },
      model: {
        type: 'BPE',
        dropout: null,
        unk_token: null,
        continuing_subword_prefix: null,
        end_of_word_suffix: null,
        fuse_unk: false,
        byte_fallback: false,
        ignore_merges: ignoreMerges,
        vocab,
        merges: merges.map((pair) => pair.join(' ')),
      },
    },
    {},
  );
  const spec = makeSpec(
    'bpe',
    [...tokens, control],
    merges.map((pair) => pair.join(' ')),
    {
      preTokenizer: pre,
      ignoreMerges,
    },
  );
  return { ours: addon.createTokenizer(spec), reference };
}

for (const pre of Object.keys(PRE_TOKENIZERS)) {
  t.test(`byte-level BPE with ${pre} equals @huggingface/tokenizers`, async (t) => {
    let compared = 0;
    for (const seed of SEEDS) {
      const random = seededRandom(seed * 7919 + pre.length);
      const { ours, reference } = randomBpe(random, pre, seed % 3 === 0, seed % 2 === 0);
      for (let i = 0; i < 250; i++) {
        const text = randomText(random, i % 50 === 0 ? 600 : 60);
        const expected =
          text === '' ? [] : reference.encode(text, { add_special_tokens: false }).ids;
        const found = [...ours.encode(text, true, '')];
        compared += found.length;
        if (JSON.stringify(found) !== JSON.stringify(expected)) {
          t.same(found, expected, `seed ${seed}: ${JSON.stringify(text)}`);
          return;
        }
      }
    }
    t.ok(compared > 1000, `${compared} ids compared`);
  });
}

t.test('byte-level BPE: what goes in comes out', async (t) => {
  for (const seed of SEEDS) {
    const random = seededRandom(seed);
    for (const pre of Object.keys(PRE_TOKENIZERS)) {
      const { ours } = randomBpe(random, pre, false, false);
      for (let i = 0; i < 100; i++) {
        const text = randomText(random, 120);
        const ids = ours.encode(text, i % 2 === 0, '');
        const back = decodeTokens(ours, ids, {
          skipSpecialTokens: false,
          stripLeadingSpace: false,
        });
        if (back !== text) return t.equal(back, text, `seed ${seed} ${pre}`);
      }
    }
  }
  t.equal(BYTE_ALPHABET.length, 256);
});

interface Piece {
  text: string;
  id: number;
  score: number;
}

/** SentencePiece's BPE as its paper defines it: best pair first, leftmost of equals. Quadratic. */
function spmOracle(pieces: ReadonlyMap<string, Piece>, text: string): number[] {
  const symbols = [...text.replaceAll(' ', '▁')];
  for (;;) {
    let best: { at: number; score: number } | null = null;
    for (let at = 0; at + 1 < symbols.length; at++) {
      const piece = pieces.get(symbols[at]! + symbols[at + 1]!);
      if (piece && (best === null || piece.score > best.score)) best = { at, score: piece.score };
    }
    if (best === null) break;
    symbols.splice(best.at, 2, symbols[best.at]! + symbols[best.at + 1]!);
  }
  return symbols.flatMap((symbol) => {
    const piece = pieces.get(symbol);
    return piece ? [piece.id] : [...Buffer.from(symbol)].map((byte) => 1 + byte);
  });
}

t.test('SentencePiece BPE equals its definition', async (t) => {
  for (const seed of SEEDS) {
    const random = seededRandom(seed * 31);
    const letters = [...'abcde ▁éж日\n😀'.replace('▁', '')];
    const sample = () =>
      Array.from({ length: 20 }, () => letters[Math.floor(random() ** 2 * letters.length)]!).join(
        '',
      );
    const words = Array.from({ length: 40 }, () => [...sample().replaceAll(' ', '▁')]);
    const texts = new Set(['▁', 'a', 'b', 'c', 'd', 'é']);
    // Short runs of equal scores: ties must go to the left.
    for (const [left, right] of randomMerges(words, 80, random)) texts.add(left + right);
    const tokens: TinyToken[] = [
      { text: '<unk>', type: UNKNOWN },
      ...Array.from({ length: 256 }, (_, byte) => ({
        text: `<0x${byte.toString(16).toUpperCase().padStart(2, '0')}>`,
        type: BYTE,
      })),
      ...[...texts].map((text) => ({
        text,
        type: NORMAL,
        score: -Math.floor(random() * 40) / 4,
      })),
    ];
    const ours = addon.createTokenizer(makeSpec('spm', tokens, [], { unknownTokenId: 0 }));
    const pieces = new Map(
      tokens
        .map((token, id): [string, Piece] => [
          token.text,
          { text: token.text, id, score: token.score ?? 0 },
        ])
        .slice(257),
    );
    for (let i = 0; i < 300; i++) {
      const text = Array.from({ length: 1 + (i % 6) }, sample).join('');
      const found = [...ours.encode(text, true, '')];
      const expected = spmOracle(pieces, text);
      if (JSON.stringify(found) !== JSON.stringify(expected)) {
        return t.same(found, expected, `seed ${seed}: ${JSON.stringify(text)}`);
      }
      const back = decodeTokens(ours, found, { skipSpecialTokens: true, stripLeadingSpace: false });
      if (back !== text) return t.equal(back, text, `seed ${seed}`);
    }
  }
  t.pass(`${SEEDS.length} seeds`);
});
