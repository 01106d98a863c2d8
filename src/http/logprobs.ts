/** Log-probabilities in OpenAI's two shapes and vLLM's prompt_logprobs. */
import type { TextService } from '../tokenizer/tokenizer-types.js';
import type { TokenWithLogprobs } from '../types.js';

/** JSON has no -Infinity; this is the value vLLM's clients know for "impossible". */
const LOGPROB_MIN = -9999;

const finite = (logprob: number): number =>
  Number.isFinite(logprob) ? Math.max(logprob, LOGPROB_MIN) : LOGPROB_MIN;

/** How tokens are spelled in logprobs: as text, or as `token_id:7` where asked for. */
export class TokenSpelling {
  readonly #text: TextService;
  readonly #asIds: boolean;

  constructor(text: TextService, asIds: boolean) {
    this.#text = text;
    this.#asIds = asIds;
  }

  name(tokenId: number): string {
    return this.#asIds ? `token_id:${tokenId}` : this.#text.tokenText(tokenId);
  }

  bytes(tokenId: number): number[] {
    return Array.from(this.#text.tokenBytes(tokenId));
  }

  /** Characters (code points) a token adds to the text. */
  length(tokenId: number): number {
    return Array.from(this.#text.tokenText(tokenId)).length;
  }
}

export interface ChatTokenLogprob {
  token: string;
  logprob: number;
  bytes: number[];
}
export interface ChatLogprobs {
  content: Array<ChatTokenLogprob & { top_logprobs: ChatTokenLogprob[] }>;
}

export function chatLogprobs(
  tokens: readonly TokenWithLogprobs[],
  numTop: number,
  spelling: TokenSpelling,
): ChatLogprobs {
  const entry = (tokenId: number, logprob: number): ChatTokenLogprob => ({
    token: spelling.name(tokenId),
    logprob: finite(logprob),
    bytes: spelling.bytes(tokenId),
  });
  return {
    content: tokens.map((token) => ({
      ...entry(token.tokenId, token.logprob),
      top_logprobs: token.top.slice(0, numTop).map((top) => entry(top.tokenId, top.logprob)),
    })),
  };
}

/** The completions shape: parallel arrays, one entry a token. */
export interface CompletionLogprobs {
  tokens: string[];
  /** Null for the first prompt token, which nothing predicts. */
  token_logprobs: Array<number | null>;
  top_logprobs: Array<Record<string, number> | null>;
  /** Position of each token in the choice's text, in characters. */
  text_offset: number[];
}

/** Appends to the completions shape, keeping the running text offset of one choice. */
export class CompletionLogprobsWriter {
  readonly #numTop: number;
  readonly #spelling: TokenSpelling;
  #offset = 0;

  constructor(numTop: number, spelling: TokenSpelling) {
    this.#numTop = numTop;
    this.#spelling = spelling;
  }

  /** Generated tokens. */
  output(tokens: readonly TokenWithLogprobs[]): CompletionLogprobs {
    return this.#write(tokens.map((token) => ({ tokenId: token.tokenId, scored: token })));
  }

  /** Prompt tokens, for echo. `entries[i]` belongs to `promptTokens[i]`. */
  prompt(
    promptTokens: Int32Array,
    entries: ReadonlyArray<TokenWithLogprobs | null>,
  ): CompletionLogprobs {
    return this.#write(
      Array.from(promptTokens, (tokenId, index) => ({ tokenId, scored: entries[index] ?? null })),
    );
  }

  #write(
    tokens: ReadonlyArray<{ tokenId: number; scored: TokenWithLogprobs | null }>,
  ): CompletionLogprobs {
    const logprobs = emptyCompletionLogprobs();
    for (const { tokenId, scored } of tokens) {
      logprobs.tokens.push(this.#spelling.name(tokenId));
      logprobs.token_logprobs.push(scored === null ? null : finite(scored.logprob));
      logprobs.top_logprobs.push(scored === null ? null : this.#top(scored));
      logprobs.text_offset.push(this.#offset);
      this.#offset += this.#spelling.length(tokenId);
    }
    return logprobs;
  }

  #top(token: TokenWithLogprobs): Record<string, number> {
    const top = token.top.slice(0, this.#numTop);
    // The drawn token is always listed, as OpenAI's server does. Entries go last to first so that
    // of tokens spelled alike the likelier one stays.
    const entries = [{ tokenId: token.tokenId, logprob: token.logprob }, ...top.toReversed()];
    const named = entries.map(
      ({ tokenId, logprob }) => [this.#spelling.name(tokenId), finite(logprob)] as const,
    );
    const likeliest = new Map(named);
    return Object.fromEntries([...likeliest].sort((left, right) => right[1] - left[1]));
  }
}

export const emptyCompletionLogprobs = (): CompletionLogprobs => ({
  tokens: [],
  token_logprobs: [],
  top_logprobs: [],
  text_offset: [],
});

export function appendCompletionLogprobs(to: CompletionLogprobs, from: CompletionLogprobs): void {
  // Loops rather than spreads: a prompt may have more tokens than a call can have arguments.
  for (const item of from.tokens) to.tokens.push(item);
  for (const item of from.token_logprobs) to.token_logprobs.push(item);
  for (const item of from.top_logprobs) to.top_logprobs.push(item);
  for (const item of from.text_offset) to.text_offset.push(item);
}

/** vLLM's shape: for each prompt token, token id → its logprob, rank and text. */
export type PromptLogprobs = Array<Record<
  string,
  { logprob: number; rank: number; decoded_token: string }
> | null>;

export function promptLogprobs(
  entries: ReadonlyArray<TokenWithLogprobs | null>,
  numTop: number,
  spelling: TokenSpelling,
): PromptLogprobs {
  return entries.map((entry) => {
    if (entry === null) return null;
    const ranked = entry.top.slice(0, numTop).map((top, index) => ({ ...top, rank: index + 1 }));
    return Object.fromEntries(
      [...ranked, entry].map(({ tokenId, logprob, rank }) => [
        String(tokenId),
        { logprob: finite(logprob), rank, decoded_token: spelling.name(tokenId) },
      ]),
    );
  });
}
