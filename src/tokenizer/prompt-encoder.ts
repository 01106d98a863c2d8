/**
 * Text and conversations to token ids, on whatever thread it runs: the main thread and the worker
 * each hold one over the same native tokenizer. Plain data makes one, so that it can be sent.
 */
import type { NativeTokenizer } from '../binding/addon.js';
import { EngineError } from '../errors.js';
import { ChatTemplate } from './chat-template.js';
import type { ChatRender } from './tokenizer-types.js';
import { mapStrings, UserTextGuard } from './user-text-guard.js';

/** What an encoder needs beside the native tokenizer; survives structured clone. */
export interface EncoderProfile {
  bosTokenId: number | null;
  /** Appended where the model's tokenizer ends a text itself. */
  eosTokenId: number | null;
  addBos: boolean;
  addEos: boolean;
  normalization: 'NFC' | null;
  chatTemplate: string | null;
  bosToken: string;
  eosToken: string;
  /** Tokens that no text of a user may become: control tokens and those that end a turn. */
  protectedTokens: string[];
  /** Protected tokens that the native tokenizer recognizes in plain text too. */
  alwaysParsedTokens: string[];
}

/** Most UTF-16 units a template may make: twice the largest body, and far below V8's limit. */
const RENDERED_LENGTH_MAX = 128 * 1024 * 1024;

export class PromptEncoder {
  readonly #tokenizer: NativeTokenizer;
  readonly #profile: EncoderProfile;
  #template: ChatTemplate | null = null;
  #conversationGuard: UserTextGuard | null = null;
  readonly #textGuard: UserTextGuard | null;

  constructor(tokenizer: NativeTokenizer, profile: EncoderProfile) {
    this.#tokenizer = tokenizer;
    this.#profile = profile;
    const always = profile.alwaysParsedTokens;
    this.#textGuard = always.length > 0 ? new UserTextGuard(always) : null;
  }

  encode(text: string, addSpecialTokens: boolean): Int32Array {
    const normalized = this.#normalize(text);
    const ids = this.#encodePlain(normalized);
    if (!addSpecialTokens) return ids;
    const { addBos, addEos, bosTokenId, eosTokenId } = this.#profile;
    const first = addBos && bosTokenId !== null ? [bosTokenId] : [];
    const last = addEos && eosTokenId !== null ? [eosTokenId] : [];
    return joinIds(first, ids, last);
  }

  /**
   * The rendered conversation without its BOS and EOS added twice. `onRendered` is called between
   * rendering, which runs the model's code, and encoding, which takes bounded time.
   */
  encodeChat(
    request: ChatRender,
    onRendered: () => void = () => {},
  ): { text: string; tokens: Int32Array } {
    const template = this.#openTemplate();
    this.#conversationGuard ??= new UserTextGuard(this.#profile.protectedTokens);
    const guard = this.#conversationGuard;
    const messages = mapStrings(request.messages, (text) => this.#normalize(text));
    const kwargs = mapStrings(request.kwargs, (text) => this.#normalize(text));
    const mark = guard.chooseMark(messages, kwargs, this.#profile.chatTemplate);
    const rendered = template.render({
      ...request,
      messages: guard.guard(messages, mark) as ChatRender['messages'],
      kwargs: guard.guard(kwargs, mark) as ChatRender['kwargs'],
    });
    if (rendered.length > RENDERED_LENGTH_MAX) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        `messages: expected at most ${RENDERED_LENGTH_MAX} characters once rendered, ` +
          `found ${rendered.length}`,
        { param: 'messages' },
      );
    }
    onRendered();
    const ids = this.#tokenizer.encode(rendered, true, mark);
    const { addBos, bosTokenId } = this.#profile;
    const needsBos = addBos && bosTokenId !== null && ids[0] !== bosTokenId;
    return {
      text: rendered.replaceAll(mark, ''),
      tokens: needsBos ? joinIds([bosTokenId], ids, []) : ids,
    };
  }

  #encodePlain(text: string): Int32Array {
    if (!this.#textGuard) return this.#tokenizer.encode(text, false, '');
    const mark = this.#textGuard.chooseMark(text);
    return this.#tokenizer.encode(this.#textGuard.guardText(text, mark), false, mark);
  }

  #normalize(text: string): string {
    return this.#profile.normalization === 'NFC' ? text.normalize('NFC') : text;
  }

  #openTemplate(): ChatTemplate {
    const { chatTemplate } = this.#profile;
    if (chatTemplate === null) {
      throw new EngineError(
        'ERR_UNSUPPORTED',
        'The model has no chat template: use /v1/completions, or start with --chat-template FILE.',
      );
    }
    this.#template ??= new ChatTemplate(chatTemplate, this.#profile);
    return this.#template;
  }
}

function joinIds(first: readonly number[], ids: Int32Array, last: readonly number[]): Int32Array {
  if (first.length + last.length === 0) return ids;
  const joined = new Int32Array(first.length + ids.length + last.length);
  joined.set(first, 0);
  joined.set(ids, first.length);
  joined.set(last, first.length + ids.length);
  return joined;
}
