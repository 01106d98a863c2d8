/**
 * Keeps special tokens that a user typed from becoming special tokens once a chat template has put
 * them between real ones. A break mark (one code point the conversation does not use) goes inside
 * every occurrence; the native tokenizer recognizes no special token across a mark and drops it.
 * A token that begins in the template's own text stays one: some write '<|' + role + '|>'.
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
   * template's next text could complete to a special token, also once the template trimmed it.
   */
  guardText(text: string, mark: string): string {
    const begins = this.#begins;
    if (begins === null) return text;
    let guarded = '';
    let copied = 0;
    const markAt = (position: number): void => {
      guarded += text.slice(copied, position) + mark;
      copied = position;
    };
    for (let begin = 0; begin < text.length; begin++) {
      if (begins[text.charCodeAt(begin)] === 0 || !this.#occursAt(text, begin)) continue;
      markAt(begin + (text.codePointAt(begin)! > 0xffff ? 2 : 1));
    }
    const trimmed = text.trimEnd().length;
    // A mark inside the last token may stand behind the trimmed end already.
    if (trimmed < text.length && trimmed >= copied && this.#isOpenAt(text, trimmed))
      markAt(trimmed);
    if (this.#isOpenAt(text, text.length)) markAt(text.length);
    return guarded + text.slice(copied);
  }

  /** A special token is spelled at `begin`. */
  #occursAt(text: string, begin: number): boolean {
    let node = this.#root;
    for (let i = begin; i < text.length; i++) {
      const next = node.next.get(text[i]!);
      if (!next) return false;
      // Of tokens that begin alike the shortest decides: one mark breaks them all.
      if (next.end) return true;
      node = next;
    }
    return false;
  }

  /** The text up to `end` ends inside what could become a special token. */
  #isOpenAt(text: string, end: number): boolean {
    for (let begin = Math.max(0, end - this.#lengthMax + 1); begin < end; begin++) {
      let node: Node | undefined = this.#root;
      for (let i = begin; i < end && node; i++) node = node.next.get(text[i]!);
      if (node && node.next.size > 0) return true;
    }
    return false;
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
