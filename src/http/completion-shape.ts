/** OpenAI's text_completion objects, streamed and whole, with echo and vLLM's additions. */
import type { TextService } from '../tokenizer/tokenizer-types.js';
import type { TokenWithLogprobs } from '../types.js';
import type { Choice, RequestUsage } from './generation.js';
import {
  appendCompletionLogprobs,
  type CompletionLogprobs,
  CompletionLogprobsWriter,
  emptyCompletionLogprobs,
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

export interface CompletionShapeOptions extends AnswerHead {
  text: TextService;
  spelling: TokenSpelling;
  /** -1: no logprobs. */
  numLogprobs: number;
  /** -1: none. Asked for by the client, beside what echo needs. */
  numPromptLogprobs: number;
  echo: boolean;
  returnTokenIds: boolean;
  includeUsage: boolean;
}

/** A stretch of a choice's answer: the echoed prompt or some generated tokens. */
interface Piece {
  text: string;
  logprobs: CompletionLogprobs | null;
  tokenIds: number[];
}

interface ChoiceState {
  writer: CompletionLogprobsWriter;
  promptEntries: ReadonlyArray<TokenWithLogprobs | null>;
  begun: boolean;
  /** Of plain chunks; made when the first one is due. */
  frame: ChunkFrame | null;
  /** Collected answers only. */
  pieces: Piece[];
  promptLogprobs: PromptLogprobs | null;
  finishReason: string | null;
  stopReason: string | number | null;
}

export class CompletionShape implements ResponseShape {
  readonly #options: CompletionShapeOptions;
  readonly #states = new Map<Choice, ChoiceState>();

  constructor(options: CompletionShapeOptions) {
    this.#options = options;
  }

  chunks(choice: Choice, update: AnswerUpdate): Json[] {
    const { returnTokenIds, numLogprobs } = this.#options;
    const state = this.#state(choice);
    const first = !state.begun && update.type !== 'promptLogprobs';
    const chunks = this.#pieces(choice, state, update)
      .filter(
        (piece) =>
          piece.text !== '' || (piece.tokenIds.length > 0 && (returnTokenIds || numLogprobs >= 0)),
      )
      .map((piece) => this.#chunk(choice, piece));
    if (update.type === 'finish') {
      const nothing: Piece = { text: '', logprobs: null, tokenIds: [] };
      chunks.push(this.#chunk(choice, nothing, update.reason, update.stopReason));
    }
    const firstChoice = (chunks[0]?.choices as Json[] | undefined)?.[0];
    if (first && returnTokenIds && firstChoice) {
      firstChoice.prompt_token_ids = Array.from(choice.prompt.tokens);
    }
    return chunks;
  }

  plainChunk(choice: Choice, update: AnswerUpdate): string | null {
    const { numLogprobs, returnTokenIds } = this.#options;
    if (update.type !== 'delta' || numLogprobs >= 0 || returnTokenIds) return null;
    const state = this.#state(choice);
    if (!state.begun) return null;
    if (update.text === '') return '';
    state.frame ??= new ChunkFrame((text) =>
      this.#chunk(choice, { text, logprobs: null, tokenIds: [] }),
    );
    return state.frame.render(update.text);
  }

  usageChunk(usage: RequestUsage): Json {
    return { ...this.#head(), choices: [], usage: usageJson(usage) };
  }

  collect(choice: Choice, update: AnswerUpdate): void {
    const state = this.#state(choice);
    state.pieces.push(...this.#pieces(choice, state, update));
    if (update.type === 'finish') {
      state.finishReason = update.reason;
      state.stopReason = update.stopReason;
    } else if (update.type === 'promptLogprobs' && this.#options.numPromptLogprobs >= 0) {
      const { numPromptLogprobs, spelling } = this.#options;
      state.promptLogprobs = promptLogprobs(update.entries, numPromptLogprobs, spelling);
    }
  }

  body(usage: RequestUsage): Json {
    const states = [...this.#states].sort(([left], [right]) => left.index - right.index);
    return {
      ...this.#head(),
      choices: states.map(([choice, state]) => this.#choiceBody(choice, state)),
      usage: usageJson(usage),
    };
  }

  #choiceBody(choice: Choice, state: ChoiceState): Json {
    const { numLogprobs, numPromptLogprobs, returnTokenIds } = this.#options;
    const logprobs = emptyCompletionLogprobs();
    for (const piece of state.pieces) {
      if (piece.logprobs !== null) appendCompletionLogprobs(logprobs, piece.logprobs);
    }
    return {
      index: choice.index,
      text: state.pieces.map((piece) => piece.text).join(''),
      logprobs: numLogprobs >= 0 ? logprobs : null,
      finish_reason: state.finishReason,
      stop_reason: state.stopReason,
      ...(numPromptLogprobs >= 0 && { prompt_logprobs: state.promptLogprobs }),
      ...(returnTokenIds && {
        prompt_token_ids: Array.from(choice.prompt.tokens),
        token_ids: state.pieces.flatMap((piece) => piece.tokenIds),
      }),
    };
  }

  /** What an update adds to the text; the echoed prompt comes before the first addition. */
  #pieces(choice: Choice, state: ChoiceState, update: AnswerUpdate): Piece[] {
    if (update.type === 'promptLogprobs') {
      state.promptEntries = update.entries;
      return [];
    }
    const pieces: Piece[] = [];
    if (!state.begun) {
      state.begun = true;
      if (this.#options.echo) pieces.push(this.#echo(choice, state));
    }
    if (update.type === 'delta') {
      pieces.push({
        text: update.text,
        logprobs:
          this.#options.numLogprobs >= 0 && update.tokens.length > 0
            ? state.writer.output(update.tokens)
            : null,
        tokenIds: update.tokens.map((token) => token.tokenId),
      });
    }
    return pieces;
  }

  #echo(choice: Choice, state: ChoiceState): Piece {
    const { tokens, text } = choice.prompt;
    return {
      text: text ?? this.#options.text.decode(tokens, { skipSpecialTokens: false }),
      logprobs:
        this.#options.numLogprobs >= 0 ? state.writer.prompt(tokens, state.promptEntries) : null,
      // Echoed ids are the prompt_token_ids; token_ids lists generated ones only.
      tokenIds: [],
    };
  }

  #state(choice: Choice): ChoiceState {
    let state = this.#states.get(choice);
    if (state === undefined) {
      state = {
        writer: new CompletionLogprobsWriter(this.#options.numLogprobs, this.#options.spelling),
        promptEntries: [],
        begun: false,
        frame: null,
        pieces: [],
        promptLogprobs: null,
        finishReason: null,
        stopReason: null,
      };
      this.#states.set(choice, state);
    }
    return state;
  }

  #chunk(
    choice: Choice,
    piece: Piece,
    finishReason: string | null = null,
    stopReason: string | number | null = null,
  ): Json {
    return {
      ...this.#head(),
      choices: [
        {
          index: choice.index,
          text: piece.text,
          logprobs: piece.logprobs,
          finish_reason: finishReason,
          stop_reason: stopReason,
          ...(this.#options.returnTokenIds && { token_ids: piece.tokenIds }),
        },
      ],
      ...(this.#options.includeUsage && { usage: null }),
    };
  }

  #head(): Json {
    const { id, created, model } = this.#options;
    return { id, object: 'text_completion', created, model };
  }
}
