/** Turns a task's texts into the tokens an engine is asked with. */
import type { TextService } from '../tokenizer/tokenizer-types.js';
import { ANSWER_SLACK } from './eval-task.js';
import type { CountTokens, EvalQuestion, TaskItem } from './eval-types.js';

const NEWLINE = 0x0a;

export class TaskTokenizer {
  readonly #text: TextService;
  readonly #first: readonly number[];
  readonly #lineEndIds: readonly number[];

  private constructor(text: TextService, first: readonly number[]) {
    this.#text = text;
    this.#first = first;
    // A token may hold more than a line's end.
    const ends = new Set(text.eosTokenIds);
    for (let id = 0; id < text.vocabSize; id++) {
      if (text.tokenBytes(id).includes(NEWLINE)) ends.add(id);
    }
    this.#lineEndIds = [...ends];
  }

  static async create(text: TextService): Promise<TaskTokenizer> {
    const specials = await text.encode('', { addSpecialTokens: true });
    const hasBos = text.bosTokenId !== null && specials[0] === text.bosTokenId;
    return new TaskTokenizer(text, hasBos ? [text.bosTokenId!] : []);
  }

  readonly count: CountTokens = async (text) => (await this.#encode(text)).length;

  /** With the token that begins a sequence, where the model has one. */
  async context(text: string): Promise<Int32Array> {
    return Int32Array.from([...this.#first, ...(await this.#encode(text))]);
  }

  async question(item: TaskItem): Promise<EvalQuestion> {
    const tokens = await this.#encode(item.question);
    const expected = await this.#continuation(item.question, tokens, item.answer);
    const isScored = item.expected.length > 0;
    return {
      tokens,
      expected,
      maxTokens: isScored ? expected.length + ANSWER_SLACK : 0,
      stopTokenIds: item.isMultiline ? this.#text.eosTokenIds : this.#lineEndIds,
    };
  }

  decode(tokens: readonly number[]): string {
    const detokenizer = this.#text.createDetokenizer({ skipSpecialTokens: true });
    return tokens.map((id) => detokenizer.push(id)).join('') + detokenizer.flush();
  }

  /** The answer's tokens as they follow the question; by itself where the two would merge. */
  async #continuation(question: string, tokens: Int32Array, answer: string): Promise<Int32Array> {
    const joined = await this.#encode(question + answer);
    const follows = tokens.every((token, i) => joined[i] === token);
    return follows && joined.length > tokens.length
      ? joined.subarray(tokens.length)
      : this.#encode(answer);
  }

  #encode(text: string): Promise<Int32Array> {
    return this.#text.encode(text, { addSpecialTokens: false });
  }
}
