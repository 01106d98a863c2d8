/**
 * A TextService over bytes: token b is the byte b, and a few specials follow. Small enough to
 * reason about exactly, real enough that characters and stop strings straddle tokens.
 */
import { EngineError } from '../../src/errors.js';
import type { ChatRender, Detokenizer, TextService } from '../../src/tokenizer/tokenizer-types.js';

export const BOS = 256;
export const EOS = 257;
export const END_OF_TURN = 258;
/** One token for the text "the ", to have a token of several characters. */
export const THE = 259;
/** One token for 64 KiB of text, to fill a socket with few tokens. */
export const LONG = 260;
export const LONG_TEXT = 'x'.repeat(1 << 16);
export const VOCAB_SIZE = 261;

const SPECIALS = new Map([
  [BOS, '<bos>'],
  [EOS, '<eos>'],
  [END_OF_TURN, '<end>'],
]);

export class FakeTextService implements TextService {
  readonly vocabSize = VOCAB_SIZE;
  readonly bosTokenId = BOS;
  readonly eosTokenIds = [EOS, END_OF_TURN];
  hasChatTemplate = true;
  /** Awaited before each encode: a test can hold tokenizing up. */
  gate: Promise<void> = Promise.resolve();
  readonly renders: ChatRender[] = [];
  numOpenEncodes = 0;

  async encode(text: string, options: { addSpecialTokens: boolean }): Promise<Int32Array> {
    this.numOpenEncodes += 1;
    await this.gate;
    this.numOpenEncodes -= 1;
    return Int32Array.from([...(options.addSpecialTokens ? [BOS] : []), ...Buffer.from(text)]);
  }

  async encodeChat(render: ChatRender): Promise<{ text: string; tokens: Int32Array }> {
    if (!this.hasChatTemplate) {
      throw new EngineError('ERR_UNSUPPORTED', 'messages: this model has no chat template', {
        param: 'messages',
      });
    }
    this.renders.push(render);
    const turns = render.messages.map((message) => `${message.role}:${String(message.content)}\n`);
    const text = turns.join('') + (render.addGenerationPrompt ? 'assistant:' : '');
    return { text, tokens: await this.encode(text, { addSpecialTokens: true }) };
  }

  decode(tokens: Int32Array | readonly number[], options: { skipSpecialTokens: boolean }): string {
    const bytes = Array.from(tokens).flatMap((id) => [...this.#bytes(id, options)]);
    return Buffer.from(bytes).toString('utf8');
  }

  tokenText(tokenId: number): string {
    return Buffer.from(this.#bytes(tokenId, { skipSpecialTokens: false })).toString('utf8');
  }

  tokenBytes(tokenId: number): Uint8Array {
    return this.#bytes(tokenId, { skipSpecialTokens: false });
  }

  createDetokenizer(options: { skipSpecialTokens: boolean }): Detokenizer {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    return {
      push: (tokenId) => decoder.decode(this.#bytes(tokenId, options), { stream: true }),
      flush: () => decoder.decode(),
    };
  }

  async close(): Promise<void> {}

  #bytes(tokenId: number, options: { skipSpecialTokens: boolean }): Uint8Array {
    if (tokenId < 256) return Uint8Array.of(tokenId);
    if (tokenId === THE) return Buffer.from('the ');
    if (tokenId === LONG) return Buffer.from(LONG_TEXT);
    return Buffer.from(options.skipSpecialTokens ? '' : (SPECIALS.get(tokenId) ?? ''));
  }
}
