/**
 * The text side of one model, on the main thread. Short texts are encoded here (about 0.1 µs a
 * character); long ones go to a worker, and so does every chat template, because it is code from
 * the model file and may never end.
 */
import { loadAddon, type NativeTokenizer } from '../binding/addon.js';
import type { TokenizerDescription } from '../models/model-types.js';
import { decodeTokens, StreamDetokenizer } from './detokenizer.js';
import { type EncoderProfile, PromptEncoder } from './prompt-encoder.js';
import type { ChatRender, Detokenizer, TextService } from './tokenizer-types.js';
import { WorkerPool } from './worker-pool.js';

export interface TextServiceOptions {
  /** Jinja source used in place of the model's own template. */
  chatTemplateOverride?: string | null;
  /** Most milliseconds one chat template may run; 10,000 unless told. */
  renderTimeoutMs?: number;
  /** Texts of more UTF-16 units than this are encoded on a worker. */
  inlineLengthMax?: number;
  /** MiB of heap a worker may use; 2048 unless told. */
  workerHeapMb?: number;
}

/** Two: one long prompt must not hold up all short conversations. */
const NUM_WORKERS = 2;
const RENDER_TIMEOUT_MS = 10_000;
/** Even the slowest text (one word, all letters) of this length takes about 10 ms. */
const INLINE_LENGTH_MAX = 32_768;
const WORKER_HEAP_MB = 2048;

const TYPE_UNKNOWN = 2;
const TYPE_CONTROL = 3;
const TYPE_USER_DEFINED = 4;

/** Throws EngineError (ERR_MODEL_FORMAT, ERR_UNSUPPORTED) when the description is not usable. */
export function createTextService(
  description: TokenizerDescription,
  options: TextServiceOptions = {},
): TextService {
  const tokenizer = loadAddon().createTokenizer(description.spec);
  return new NativeTextService(tokenizer, description, options);
}

class NativeTextService implements TextService {
  readonly vocabSize: number;
  readonly hasChatTemplate: boolean;
  readonly bosTokenId: number | null;
  readonly eosTokenIds: readonly number[];
  readonly #tokenizer: NativeTokenizer;
  readonly #encoder: PromptEncoder;
  readonly #workers: WorkerPool;
  readonly #stripsLeadingSpace: boolean;
  readonly #inlineLengthMax: number;

  constructor(
    tokenizer: NativeTokenizer,
    description: TokenizerDescription,
    options: TextServiceOptions,
  ) {
    const profile = makeProfile(tokenizer, description, options.chatTemplateOverride ?? null);
    this.vocabSize = tokenizer.vocabSize;
    this.hasChatTemplate = profile.chatTemplate !== null;
    this.bosTokenId = description.bosTokenId;
    this.eosTokenIds = description.eosTokenIds;
    this.#tokenizer = tokenizer;
    this.#encoder = new PromptEncoder(tokenizer, profile);
    this.#stripsLeadingSpace = description.spec.spacePrefix !== 'none';
    this.#inlineLengthMax = options.inlineLengthMax ?? INLINE_LENGTH_MAX;
    this.#workers = new WorkerPool(
      { tokenizerId: tokenizer.id, profile },
      {
        size: NUM_WORKERS,
        renderTimeoutMs: options.renderTimeoutMs ?? RENDER_TIMEOUT_MS,
        heapMb: options.workerHeapMb ?? WORKER_HEAP_MB,
      },
    );
    // Loading takes the worker a moment that the first conversation need not wait for.
    if (this.hasChatTemplate) this.#workers.warmUp();
  }

  async encode(text: string, options: { addSpecialTokens: boolean }): Promise<Int32Array> {
    const { addSpecialTokens } = options;
    if (text.length <= this.#inlineLengthMax) return this.#encoder.encode(text, addSpecialTokens);
    return (await this.#workers.run({ type: 'encode', text, addSpecialTokens })).tokens;
  }

  async encodeChat(request: ChatRender): Promise<{ text: string; tokens: Int32Array }> {
    // Without a template this throws at once; rendering itself is the workers'.
    if (!this.hasChatTemplate) return this.#encoder.encodeChat(request);
    return this.#workers.run({ type: 'chat', request });
  }

  decode(tokens: Int32Array | readonly number[], options: { skipSpecialTokens: boolean }): string {
    return decodeTokens(this.#tokenizer, tokens, {
      skipSpecialTokens: options.skipSpecialTokens,
      stripLeadingSpace: this.#stripsLeadingSpace,
    });
  }

  tokenText(tokenId: number): string {
    return decodeTokens(this.#tokenizer, [tokenId], {
      skipSpecialTokens: false,
      stripLeadingSpace: false,
    });
  }

  tokenBytes(tokenId: number): Uint8Array {
    return this.#tokenizer.tokenBytes(tokenId, true);
  }

  /** For tokens that continue a prompt: a leading space belongs to the text and stays. */
  createDetokenizer(options: { skipSpecialTokens: boolean }): Detokenizer {
    return new StreamDetokenizer(this.#tokenizer, {
      skipSpecialTokens: options.skipSpecialTokens,
      stripLeadingSpace: false,
    });
  }

  async close(): Promise<void> {
    await this.#workers.close();
  }
}

function makeProfile(
  tokenizer: NativeTokenizer,
  description: TokenizerDescription,
  templateOverride: string | null,
): EncoderProfile {
  const text = new TextDecoder('utf-8', { ignoreBOM: true });
  const ends = new Set(description.eosTokenIds);
  if (description.bosTokenId !== null) ends.add(description.bosTokenId);
  const protectedTokens: string[] = [];
  const alwaysParsedTokens: string[] = [];
  description.spec.tokenTypes.forEach((type, id) => {
    const control = type === TYPE_CONTROL || type === TYPE_UNKNOWN;
    // Some files list the tokens that begin and end a turn as user-defined ones.
    const delimiter = type === TYPE_USER_DEFINED && ends.has(id);
    if (!control && !delimiter) return;
    const spelling = text.decode(tokenizer.tokenBytes(id, true));
    protectedTokens.push(spelling);
    if (delimiter) alwaysParsedTokens.push(spelling);
  });
  return {
    bosTokenId: description.bosTokenId,
    eosTokenId: tokenNamed(tokenizer, description.eosTokenIds, description.eosToken),
    addBos: description.addBos,
    addEos: description.addEos,
    normalization: description.normalization ?? null,
    chatTemplate: templateOverride ?? description.chatTemplate,
    bosToken: description.bosToken,
    eosToken: description.eosToken,
    protectedTokens,
    alwaysParsedTokens,
  };
}

/** Of the ids that end a generation, the one spelled as the tokenizer's own end of text. */
function tokenNamed(
  tokenizer: NativeTokenizer,
  ids: readonly number[],
  spelling: string,
): number | null {
  const text = new TextDecoder('utf-8', { ignoreBOM: true });
  const named = ids.find((id) => text.decode(tokenizer.tokenBytes(id, true)) === spelling);
  return named ?? ids[0] ?? null;
}
