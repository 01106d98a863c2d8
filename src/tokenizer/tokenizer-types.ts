/** What the rest of the server knows of tokenizers and chat templates. */

export interface ChatMessage {
  role: string;
  content: unknown;
  [key: string]: unknown;
}

export interface ChatRender {
  messages: ChatMessage[];
  addGenerationPrompt: boolean;
  continueFinalMessage: boolean;
  /** chat_template_kwargs of the request. */
  kwargs: Record<string, unknown>;
}

/** Everything that turns text into tokens; runs long work on a worker thread. */
export interface TextService {
  readonly vocabSize: number;
  /** False when the model ships no chat template. */
  readonly hasChatTemplate: boolean;
  readonly bosTokenId: number | null;
  /** Ids that end a generation: the model's eos and end-of-turn tokens. */
  readonly eosTokenIds: readonly number[];
  /** Text typed by a user: special tokens in it stay text. Adds BOS (and EOS) as the model's
   * tokenizer does when addSpecialTokens. */
  encode(text: string, options: { addSpecialTokens: boolean }): Promise<Int32Array>;
  /** Throws ERR_INVALID_REQUEST when the template rejects the messages, ERR_UNSUPPORTED without one. */
  encodeChat(render: ChatRender): Promise<{ text: string; tokens: Int32Array }>;
  decode(tokens: Int32Array | readonly number[], options: { skipSpecialTokens: boolean }): string;
  /** One token as text, replacement characters where it is not valid UTF-8 by itself. */
  tokenText(tokenId: number): string;
  tokenBytes(tokenId: number): Uint8Array;
  createDetokenizer(options: { skipSpecialTokens: boolean }): Detokenizer;
  close(): Promise<void>;
}

/** Turns a token stream into text deltas, holding back incomplete UTF-8 sequences. */
export interface Detokenizer {
  push(tokenId: number): string;
  /** The rest, replacement characters for bytes that never became complete. */
  flush(): string;
}
