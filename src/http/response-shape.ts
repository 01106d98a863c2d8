/** How one endpoint spells what a generation says; implemented per OpenAI endpoint. */
import type { Choice, ChoiceUpdate, RequestUsage } from './generation.js';

export type Json = Record<string, unknown>;

/** Everything but progress, which is not part of OpenAI's shapes. */
export type AnswerUpdate = Exclude<ChoiceUpdate, { type: 'progress' }>;

/** One request's answer, either streamed chunk by chunk or collected; never both. */
export interface ResponseShape {
  /** Stream chunks for one update of a choice; often one, sometimes none. */
  chunks(choice: Choice, update: AnswerUpdate): Json[];
  /**
   * The chunks of an update as the JSON text of one, '' for none, where the update adds plain text to
   * an answer that has begun: nearly every token of every stream. Null: ask chunks().
   */
  plainChunk(choice: Choice, update: AnswerUpdate): string | null;
  /** The last chunk of a stream that asked for usage. */
  usageChunk(usage: RequestUsage): Json;
  collect(choice: Choice, update: AnswerUpdate): void;
  /** The whole answer; call after every choice has finished. */
  body(usage: RequestUsage): Json;
}

/** Fields all objects of one answer share. */
export interface AnswerHead {
  id: string;
  created: number;
  model: string;
}

const TEXT_MARK = '\u0000text\u0000';

/** The JSON of chunks that differ in one text only, written once. */
export class ChunkFrame {
  readonly #before: string;
  readonly #after: string;

  /** `make` builds the chunk of a text. */
  constructor(make: (text: string) => Json) {
    const [before, after] = JSON.stringify(make(TEXT_MARK)).split(JSON.stringify(TEXT_MARK));
    this.#before = before!;
    this.#after = after!;
  }

  render(text: string): string {
    return this.#before + JSON.stringify(text) + this.#after;
  }
}

export function usageJson(usage: RequestUsage): Json {
  return {
    prompt_tokens: usage.promptTokens,
    completion_tokens: usage.completionTokens,
    total_tokens: usage.promptTokens + usage.completionTokens,
    prompt_tokens_details: { cached_tokens: usage.cachedTokens },
  };
}

export const progressJson = (computed: number, total: number): Json => ({
  longhaul: { progress: { computed, total } },
});
