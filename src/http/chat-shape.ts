/** OpenAI's chat.completion and chat.completion.chunk objects, with vLLM's additions. */
import type { TokenWithLogprobs } from '../types.js';
import type { Choice, RequestUsage } from './generation.js';
import {
  type ChatLogprobs,
  chatLogprobs,
  type PromptLogprobs,
  promptLogprobs,
  type TokenSpelling,
} from './logprobs.js';
import {
  type AnswerHead,
  type AnswerUpdate,
  ChunkFrame,
  type Json,
  type ResponseShape,
  usageJson,
} from './response-shape.js';

export interface ChatShapeOptions extends AnswerHead {
  spelling: TokenSpelling;
  /** -1: no logprobs. */
  numLogprobs: number;
  /** -1: none. */
  numPromptLogprobs: number;
  returnTokenIds: boolean;
  /** Streams only: each chunk carries `usage: null`, the last one the usage. */
  includeUsage: boolean;
}

interface CollectedChoice {
  content: string;
  logprobs: ChatLogprobs;
  tokenIds: number[];
  finishReason: string | null;
  stopReason: string | number | null;
}

export class ChatShape implements ResponseShape {
  readonly #options: ChatShapeOptions;
  /** Choices whose role has been sent, and the frame of their plain chunks once one was due. */
  readonly #begun = new Map<Choice, ChunkFrame | null>();
  readonly #collected = new Map<Choice, CollectedChoice>();
  #promptLogprobs: PromptLogprobs | null = null;

  constructor(options: ChatShapeOptions) {
    this.#options = options;
  }

  chunks(choice: Choice, update: AnswerUpdate): Json[] {
    const chunks: Json[] = [];
    if (!this.#begun.has(choice)) {
      this.#begun.set(choice, null);
      chunks.push(
        this.#chunk(
          choice,
          { role: 'assistant', content: '' },
          null,
          {},
          {
            ...(this.#options.returnTokenIds && {
              prompt_token_ids: Array.from(choice.prompt.tokens),
            }),
          },
        ),
      );
    }
    if (update.type === 'delta') {
      const extras = this.#tokenFields(update.tokens);
      if (update.text !== '' || extras.told) {
        chunks.push(this.#chunk(choice, { content: update.text }, null, extras.fields));
      }
    } else if (update.type === 'finish') {
      chunks.push(this.#chunk(choice, {}, update.reason, { stop_reason: update.stopReason }));
    }
    return chunks;
  }

  plainChunk(choice: Choice, update: AnswerUpdate): string | null {
    const { numLogprobs, returnTokenIds } = this.#options;
    if (update.type !== 'delta' || numLogprobs >= 0 || returnTokenIds) return null;
    let frame = this.#begun.get(choice);
    if (frame === undefined) return null;
    if (update.text === '') return '';
    if (frame === null) {
      frame = new ChunkFrame((content) => this.#chunk(choice, { content }, null));
      this.#begun.set(choice, frame);
    }
    return frame.render(update.text);
  }

  usageChunk(usage: RequestUsage): Json {
    return { ...this.#head('chat.completion.chunk'), choices: [], usage: usageJson(usage) };
  }

  collect(choice: Choice, update: AnswerUpdate): void {
    const collected = this.#collectedChoice(choice);
    if (update.type === 'delta') {
      collected.content += update.text;
      if (this.#options.numLogprobs >= 0) {
        collected.logprobs.content.push(...this.#logprobs(update.tokens).content);
      }
      if (this.#options.returnTokenIds) {
        collected.tokenIds.push(...update.tokens.map((token) => token.tokenId));
      }
    } else if (update.type === 'finish') {
      collected.finishReason = update.reason;
      collected.stopReason = update.stopReason;
    } else {
      this.#promptLogprobs ??= promptLogprobs(
        update.entries,
        this.#options.numPromptLogprobs,
        this.#options.spelling,
      );
    }
  }

  body(usage: RequestUsage): Json {
    const { numLogprobs, numPromptLogprobs, returnTokenIds } = this.#options;
    const choices = [...this.#collected].sort(([left], [right]) => left.index - right.index);
    const first = choices[0]?.[0];
    return {
      ...this.#head('chat.completion'),
      choices: choices.map(([choice, collected]) => ({
        index: choice.index,
        message: { role: 'assistant', content: collected.content, refusal: null },
        logprobs: numLogprobs >= 0 ? collected.logprobs : null,
        finish_reason: collected.finishReason,
        stop_reason: collected.stopReason,
        ...(returnTokenIds && { token_ids: collected.tokenIds }),
      })),
      usage: usageJson(usage),
      ...(numPromptLogprobs >= 0 && { prompt_logprobs: this.#promptLogprobs }),
      ...(returnTokenIds && first && { prompt_token_ids: Array.from(first.prompt.tokens) }),
    };
  }

  #collectedChoice(choice: Choice): CollectedChoice {
    let collected = this.#collected.get(choice);
    if (collected === undefined) {
      collected = {
        content: '',
        logprobs: { content: [] },
        tokenIds: [],
        finishReason: null,
        stopReason: null,
      };
      this.#collected.set(choice, collected);
    }
    return collected;
  }

  #logprobs(tokens: readonly TokenWithLogprobs[]): ChatLogprobs {
    return chatLogprobs(tokens, this.#options.numLogprobs, this.#options.spelling);
  }

  /** Per-token fields of a chunk's choice, and whether they say anything by themselves. */
  #tokenFields(tokens: readonly TokenWithLogprobs[]): { told: boolean; fields: Json } {
    const { numLogprobs, returnTokenIds } = this.#options;
    const wanted = numLogprobs >= 0 || returnTokenIds;
    return {
      told: wanted && tokens.length > 0,
      fields: {
        logprobs: numLogprobs >= 0 && tokens.length > 0 ? this.#logprobs(tokens) : null,
        ...(returnTokenIds && { token_ids: tokens.map((token) => token.tokenId) }),
      },
    };
  }

  #chunk(
    choice: Choice,
    delta: Json,
    finishReason: string | null,
    choiceFields: Json = {},
    topFields: Json = {},
  ): Json {
    return {
      ...this.#head('chat.completion.chunk'),
      choices: [
        {
          index: choice.index,
          delta,
          logprobs: null,
          finish_reason: finishReason,
          ...choiceFields,
        },
      ],
      ...(this.#options.includeUsage && { usage: null }),
      ...topFields,
    };
  }

  #head(object: string): Json {
    const { id, created, model } = this.#options;
    return { id, object, created, model };
  }
}
