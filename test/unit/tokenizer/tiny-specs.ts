/** Tokenizers small enough to reason about, and random ones, for the tests of this room. */
import type { NativeTokenizerSpec } from '../../../src/binding/addon.js';
import type { TokenizerDescription } from '../../../src/models/model-types.js';

export const NORMAL = 1;
export const UNKNOWN = 2;
export const CONTROL = 3;
export const USER_DEFINED = 4;
export const BYTE = 6;

export interface TinyToken {
  text: string;
  type: number;
  score?: number;
}

/** Entry b is how byte-level vocabularies spell byte b. */
export const BYTE_ALPHABET: readonly string[] = makeAlphabet();

function makeAlphabet(): string[] {
  let next = 0x100;
  return Array.from({ length: 256 }, (_, byte) => {
    const itself = (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte !== 0xad);
    return String.fromCharCode(itself ? byte : next++);
  });
}

export function spellBytes(text: string): string {
  return Array.from(Buffer.from(text, 'utf8'), (byte) => BYTE_ALPHABET[byte]).join('');
}

function packStrings(strings: readonly string[]): { bytes: Uint8Array; offsets: Uint32Array } {
  const encoded = strings.map((text) => Buffer.from(text, 'utf8'));
  const offsets = new Uint32Array(strings.length + 1);
  encoded.forEach((bytes, i) => {
    offsets[i + 1] = offsets[i]! + bytes.length;
  });
  return { bytes: new Uint8Array(Buffer.concat(encoded)), offsets };
}

export function makeSpec(
  kind: 'bpe' | 'spm',
  tokens: readonly TinyToken[],
  merges: readonly string[],
  changes: Partial<NativeTokenizerSpec> = {},
): NativeTokenizerSpec {
  const packed = packStrings(tokens.map((token) => token.text));
  const packedMerges = packStrings(merges);
  return {
    kind,
    tokenBytes: packed.bytes,
    tokenOffsets: packed.offsets,
    tokenTypes: Uint8Array.from(tokens, (token) => token.type),
    scores: kind === 'spm' ? Float32Array.from(tokens, (token) => token.score ?? 0) : null,
    mergeBytes: kind === 'bpe' ? packedMerges.bytes : null,
    mergeOffsets: kind === 'bpe' ? packedMerges.offsets : null,
    preTokenizer: kind === 'bpe' ? 'gpt2' : 'none',
    ignoreMerges: false,
    spacePrefix: 'none',
    unknownTokenId: -1,
    ...changes,
  };
}

/** Token b is byte b; then the given ones. */
export function byteTokens(more: readonly TinyToken[] = []): TinyToken[] {
  return [...BYTE_ALPHABET.map((text) => ({ text, type: NORMAL })), ...more];
}

export function describe(
  spec: NativeTokenizerSpec,
  changes: Partial<TokenizerDescription> = {},
): TokenizerDescription {
  return {
    spec,
    bosTokenId: null,
    eosTokenIds: [],
    addBos: false,
    addEos: false,
    chatTemplate: null,
    bosToken: '',
    eosToken: '',
    ...changes,
  };
}

/** mulberry32: small seeded generator, floats in [0, 1). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * A vocabulary as training gives it, but with pairs taken at random rather than by count: every
 * merge really occurs in `sample`. `pieces` splits the sample into words.
 */
export function randomMerges(
  words: ReadonlyArray<readonly string[]>,
  count: number,
  random: () => number,
): Array<[left: string, right: string]> {
  const work = words.map((word) => [...word]);
  const merges: Array<[string, string]> = [];
  const seen = new Set<string>();
  for (let tries = 0; merges.length < count && tries < count * 20; tries++) {
    const word = work[Math.floor(random() * work.length)]!;
    if (word.length < 2) continue;
    const at = Math.floor(random() * (word.length - 1));
    const [left, right] = [word[at]!, word[at + 1]!];
    if (seen.has(left + right)) continue;
    seen.add(left + right);
    merges.push([left, right]);
    for (const other of work) {
      for (let i = 0; i + 1 < other.length; i++) {
        if (other[i] === left && other[i + 1] === right) other.splice(i, 2, left + right);
      }
    }
  }
  return merges;
}
