/**
 * Keeps special tokens that a user typed from becoming special tokens once a chat template has put
 * them between real ones. A break mark (one code point the conversation does not use) goes inside
 * every occurrence; the native tokenizer recognizes no special token across a mark and drops it.
 */
import { EngineError } from '../errors.js';

/** Deeper JSON is refused: walking it is recursive. */
const DEPTH_MAX = 100;
// Noncharacters first: interchange forbids them, so real text does not have them.
const CANDIDATES = /[\uFDD0-\uFDEF\uE000-\uF8FF]/g;
const CANDIDATE_RANGES = [
  [0xfdd0, 0xfdef],
  [0xe000, 0xf8ff],
] as const;

interface Node {
  next: Map<string, Node>;
  end: boolean;
}

export class UserTextGuard {
  readonly #root: Node = { next: new Map(), end: false };
  /** By UTF-16 unit: 1 where a special token may begin. Null when there is none to guard against. */
  readonly #begins: Uint8Array | null;
  readonly #lengthMax: number;

  /** `specialTokens`: texts of every token that must not come out of what a user typed. */
  constructor(specialTokens: Iterable<string>) {
    let longest = 0;
    for (const text of specialTokens) {
      // A token of one character has no inside. None is known that a template could end a turn by.
      if ([...text].length < 2) continue;
      longest = Math.max(longest, text.length);
      let node = this.#root;
      for (const unit of text.split('')) {
        const next = node.next.get(unit) ?? { next: new Map(), end: false };
        node.next.set(unit, next);
        node = next;
      }
      node.end = true;
    }
    this.#lengthMax = longest;
    this.#begins = this.#root.next.size > 0 ? new Uint8Array(0x10000) : null;
    for (const unit of this.#root.next.keys()) this.#begins![unit.charCodeAt(0)] = 1;
  }

  /** A mark that occurs in no string of `values` (deep). Throws when all candidates do. */
  chooseMark(...values: unknown[]): string {
    const used = new Set<string>();
    mapStrings(values, (text) => {
      for (const found of text.match(CANDIDATES) ?? []) used.add(found);
      return text;
    });
    for (const [first, last] of CANDIDATE_RANGES) {
      for (let code = first; code <= last; code++) {
        const mark = String.fromCharCode(code);
        if (!used.has(mark)) return mark;
      }
    }
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      'messages: expected some private-use character to be unused, found every one in use',
    );
  }

  /** `value` with marks put into each string and key (deep). */
  guard<T>(value: T, mark: string): T {
    return mapStrings(value, (text) => this.guardText(text, mark)) as T;
  }

  /**
   * Marks go one character into each occurrence (overlapping ones too), and behind an end that the
   * template's next text could complete to a special token.
   */
  guardText(text: string, mark: string): string {
    const begins = this.#begins;
    if (begins === null) return text;
    let guarded = '';
    let copied = 0;
    let openEnd = false;
    for (let begin = 0; begin < text.length; begin++) {
      if (begins[text.charCodeAt(begin)] === 0) continue;
      const found = this.#look(text, begin);
      if (found === 'open') openEnd = true;
      if (found !== 'whole') continue;
      const inside = begin + (text.codePointAt(begin)! > 0xffff ? 2 : 1);
      guarded += text.slice(copied, inside) + mark;
      copied = inside;
    }
    guarded += text.slice(copied);
    return openEnd ? guarded + mark : guarded;
  }

  /** 'whole': a special token begins here; 'open': the text ends inside what may become one. */
  #look(text: string, begin: number): 'whole' | 'open' | null {
    let node = this.#root;
    const limit = Math.min(text.length, begin + this.#lengthMax);
    for (let i = begin; i < limit; i++) {
      const next = node.next.get(text[i]!);
      if (!next) return null;
      // The whole token of a longer one that the end cuts off: its mark breaks both.
      if (next.end) return 'whole';
      node = next;
    }
    return limit === text.length && node.next.size > 0 ? 'open' : null;
  }
}

/** A copy of a JSON-like value with every string and key changed; other values stay. */
export function mapStrings(value: unknown, change: (text: string) => string, depth = 0): unknown {
  if (typeof value === 'string') return change(value);
  if (typeof value !== 'object' || value === null) return value;
  if (depth >= DEPTH_MAX) {
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      `messages: expected at most ${DEPTH_MAX} levels of nesting, found more`,
    );
  }
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [change(key), mapStrings(item, change, depth + 1)]),
  );
}
