/**
 * Token ids back to text, one at a time or all at once. Bytes that are not (yet) a whole UTF-8
 * sequence are held back; those that never become one come out as U+FFFD. A stream and a whole
 * list give the same text.
 */
import type { NativeTokenizer } from '../binding/addon.js';
import type { Detokenizer } from './tokenizer-types.js';

export interface DetokenizerOptions {
  skipSpecialTokens: boolean;
  /** Drop one leading space: the inverse of a tokenizer that puts one in front of a text. */
  stripLeadingSpace: boolean;
}

const STREAM = { stream: true } as const;

/**
 * Texts of tokens whose bytes are whole characters, as nearly all are: a stream's usual token then
 * costs a look-up instead of a call into native code and a decoder. Null for the other tokens.
 */
class TokenTexts {
  /** Enough for what is common; a vocabulary of a quarter million strings would take megabytes. */
  static readonly SIZE_MAX = 16_384;
  static readonly #ofTokenizer = new WeakMap<object, [TokenTexts, TokenTexts]>();
  readonly #texts = new Map<number, string | null>();
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true, fatal: true });

  static of(tokenizer: object, withSpecial: boolean): TokenTexts {
    let both = TokenTexts.#ofTokenizer.get(tokenizer);
    if (both === undefined) {
      both = [new TokenTexts(), new TokenTexts()];
      TokenTexts.#ofTokenizer.set(tokenizer, both);
    }
    return both[withSpecial ? 1 : 0];
  }

  /** Undefined: not seen before. */
  get(tokenId: number): string | null | undefined {
    return this.#texts.get(tokenId);
  }

  add(tokenId: number, bytes: Uint8Array): string | null {
    let text: string | null = null;
    try {
      text = this.#decoder.decode(bytes);
    } catch {
      // Part of a character, or no UTF-8 at all.
    }
    if (this.#texts.size < TokenTexts.SIZE_MAX) this.#texts.set(tokenId, text);
    return text;
  }
}

export class StreamDetokenizer implements Detokenizer {
  readonly #tokenizer: Pick<NativeTokenizer, 'tokenBytes'>;
  readonly #withSpecial: boolean;
  readonly #texts: TokenTexts;
  // ignoreBOM: a U+FEFF in the text is text.
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #stripSpace: boolean;
  /** The decoder may hold part of a character. */
  #midway = false;

  constructor(tokenizer: Pick<NativeTokenizer, 'tokenBytes'>, options: DetokenizerOptions) {
    this.#tokenizer = tokenizer;
    this.#withSpecial = !options.skipSpecialTokens;
    this.#texts = TokenTexts.of(tokenizer, this.#withSpecial);
    this.#stripSpace = options.stripLeadingSpace;
  }

  push(tokenId: number): string {
    const known = this.#texts.get(tokenId);
    if (known === '' || (typeof known === 'string' && !this.#midway)) return this.#strip(known);
    const bytes = this.#tokenizer.tokenBytes(tokenId, this.#withSpecial);
    const text = known === undefined ? this.#texts.add(tokenId, bytes) : known;
    if (text === '' || (text !== null && !this.#midway)) return this.#strip(text);
    // Whole characters end whatever was begun before them.
    this.#midway = text === null;
    return this.#strip(this.#decoder.decode(bytes, STREAM));
  }

  flush(): string {
    return this.#strip(this.#decoder.decode());
  }

  #strip(text: string): string {
    if (!this.#stripSpace || text === '') return text;
    this.#stripSpace = false;
    return text.startsWith(' ') ? text.slice(1) : text;
  }
}

/** All of `tokens` as one text. A million tokens take a fraction of a second. */
export function decodeTokens(
  tokenizer: Pick<NativeTokenizer, 'tokenBytes'>,
  tokens: Int32Array | readonly number[],
  options: DetokenizerOptions,
): string {
  // Long lists repeat their tokens: each is fetched once, and all bytes are decoded together.
  const known = new Map<number, Uint8Array>();
  const pieces: Uint8Array[] = [];
  for (const token of tokens) {
    let bytes = known.get(token);
    if (!bytes) {
      bytes = tokenizer.tokenBytes(token, !options.skipSpecialTokens);
      known.set(token, bytes);
    }
    pieces.push(bytes);
  }
  const text = new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.concat(pieces));
  return options.stripLeadingSpace && text.startsWith(' ') ? text.slice(1) : text;
}
