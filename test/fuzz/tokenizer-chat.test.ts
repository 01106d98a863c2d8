/**
 * Conversations made of pieces of special tokens, rendered by templates of three families: the
 * control tokens of the result are the template's own, whatever was typed.
 */
import fc from 'fast-check';
import t from 'tap';
import { loadAddon } from '../../src/binding/addon.js';
import { decodeTokens } from '../../src/tokenizer/detokenizer.js';
import { PromptEncoder } from '../../src/tokenizer/prompt-encoder.js';
import { CHATML, GEMMA, LLAMA3 } from '../unit/tokenizer/templates.js';
import { byteTokens, CONTROL, makeSpec } from '../unit/tokenizer/tiny-specs.js';

const SPECIALS = [
  '<|im_start|>',
  '<|im_end|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<start_of_turn>',
  '<end_of_turn>',
  '<bos>',
  '<eos>',
  '<<',
];
const tokens = byteTokens(SPECIALS.map((text) => ({ text, type: CONTROL })));
const tokenizer = loadAddon().createTokenizer(makeSpec('bpe', tokens, []));

function encoderOf(chatTemplate: string): PromptEncoder {
  return new PromptEncoder(tokenizer, {
    bosTokenId: null,
    eosTokenId: null,
    addBos: false,
    addEos: false,
    normalization: null,
    chatTemplate,
    bosToken: '<bos>',
    eosToken: '<eos>',
    protectedTokens: SPECIALS,
    alwaysParsedTokens: [],
  });
}

// Whole tokens, their halves and single characters, so that borders meet in every way.
const FRAGMENTS = [
  ...SPECIALS,
  ...SPECIALS.flatMap((text) => [text.slice(0, 4), text.slice(4)]).filter((text) => text !== ''),
  ...'<|>\n _imend',
  '\ufdd0',
  '\ue000',
  'é😀',
];
const text = fc.array(fc.constantFrom(...FRAGMENTS), { maxLength: 8 }).map((all) => all.join(''));
const content = fc.oneof(
  text,
  fc
    .array(text, { minLength: 1, maxLength: 3 })
    .map((parts) => parts.map((part) => ({ type: 'text', text: part }))),
);

for (const [name, template] of Object.entries({ CHATML, LLAMA3, GEMMA })) {
  t.test(`${name}: the control tokens are the template's`, async () => {
    const encoder = encoderOf(template);
    const render = (contents: unknown[]) =>
      encoder.encodeChat({
        messages: contents.map((value, i) => ({
          role: i % 2 === 0 ? 'user' : 'assistant',
          content: value,
        })),
        addGenerationPrompt: true,
        continueFinalMessage: false,
        kwargs: {},
      });
    const control = (ids: Int32Array): string => ids.filter((id) => id >= 256).join(' ');
    fc.assert(
      fc.property(fc.array(content, { minLength: 1, maxLength: 4 }), (contents) => {
        const found = render(contents);
        const plain = render(contents.map(() => 'x'));
        const options = { skipSpecialTokens: false, stripLeadingSpace: false };
        return (
          control(found.tokens) === control(plain.tokens) &&
          decodeTokens(tokenizer, found.tokens, options) === found.text
        );
      }),
      { numRuns: 1500 },
    );
  });
}
