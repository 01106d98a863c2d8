/** Seeded draws of the task generators: the same seed and the same calls give the same task. */
import { createHash } from 'node:crypto';
import { seededRandom } from '../bench/statistics.js';

export class EvalRandom {
  readonly #next: () => number;
  readonly #path: string;

  /** `path` names what is drawn: different paths are independent. */
  constructor(...path: ReadonlyArray<string | number>) {
    this.#path = path.join('/');
    const seed = createHash('sha256').update(this.#path).digest().readUInt32LE(0);
    this.#next = seededRandom(seed);
  }

  /** Independent of what was drawn here so far: asked twice, it gives the same draws. */
  fork(name: string | number): EvalRandom {
    return new EvalRandom(this.#path, name);
  }

  /** In [0, 1). */
  unit(): number {
    return this.#next();
  }

  /** A whole number in [0, end). */
  below(end: number): number {
    return Math.floor(this.#next() * end);
  }

  pick<T>(values: readonly T[]): T {
    if (values.length === 0) throw new Error('pick: nothing to pick from');
    return values[this.below(values.length)]!;
  }

  /** A new array in random order. */
  shuffle<T>(values: readonly T[]): T[] {
    const out = [...values];
    for (let i = out.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [out[i], out[j]] = [out[j]!, out[i]!];
    }
    return out;
  }

  /** `count` different values. */
  sample<T>(values: readonly T[], count: number): T[] {
    if (count > values.length) throw new Error(`sample: ${count} of ${values.length} values`);
    return this.shuffle(values).slice(0, count);
  }

  /** A number of so many digits, as text; no leading zero. */
  digits(count: number): string {
    let text = String(1 + this.below(9));
    while (text.length < count) text += String(this.below(10));
    return text;
  }

  letters(count: number): string {
    let text = '';
    while (text.length < count) text += String.fromCharCode(97 + this.below(26));
    return text;
  }

  /** `count` different values of `draw`, in the order they came. */
  distinct(count: number, draw: () => string): string[] {
    const seen = new Set<string>();
    for (let tries = 0; seen.size < count; tries++) {
      if (tries > 100 * count + 1000) throw new Error(`distinct: ${count} values are too many`);
      seen.add(draw());
    }
    return [...seen];
  }
}
