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

export class StreamDetokenizer implements Detokenizer {
  readonly #tokenizer: Pick<NativeTokenizer, 'tokenBytes'>;
  readonly #withSpecial: boolean;
  // ignoreBOM: a U+FEFF in the text is text.
  readonly #decoder = new TextDecoder('utf-8', { ignoreBOM: true });
  #stripSpace: boolean;

  constructor(tokenizer: Pick<NativeTokenizer, 'tokenBytes'>, options: DetokenizerOptions) {
    this.#tokenizer = tokenizer;
    this.#withSpecial = !options.skipSpecialTokens;
    this.#stripSpace = options.stripLeadingSpace;
  }

  push(tokenId: number): string {
    const bytes = this.#tokenizer.tokenBytes(tokenId, this.#withSpecial);
    return bytes.length === 0 ? '' : this.#strip(this.#decoder.decode(bytes, STREAM));
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
