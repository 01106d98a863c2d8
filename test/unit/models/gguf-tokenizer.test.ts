import t from 'tap';
import { readGguf } from '../../../src/models/gguf.js';
import { GGUF_TYPES } from '../../../src/models/gguf-format.js';
import { ggufTokenizer } from '../../../src/models/gguf-tokenizer.js';
import type { TokenizerDescription } from '../../../src/models/model-types.js';
import { StringTable } from '../../../src/models/string-table.js';
import { ggufBytes, llamaMetadata, withMetadata, writeBytes } from '../../support/write-gguf.js';

const { UINT32, FLOAT32, STRING, BOOL, INT32 } = GGUF_TYPES;
type Changes = Parameters<typeof withMetadata>[1];

function load(folder: string, changes: Changes, vocabSize = 8): TokenizerDescription {
  const path = writeBytes(folder, 'm.gguf', ggufBytes(withMetadata(llamaMetadata(), changes), []));
  return ggufTokenizer(readGguf(path), vocabSize);
}

function texts(bytes: Uint8Array | null, offsets: Uint32Array | null): string[] {
  const table = new StringTable(bytes!, offsets!);
  return Array.from({ length: table.length }, (_, i) => table.text(i));
}

const SPM: Changes = [
  ['tokenizer.ggml.model', STRING, 'llama'],
  [
    'tokenizer.ggml.tokens',
    STRING,
    ['<unk>', '<s>', '</s>', '<0x41>', '\u2581a', '<end_of_turn>', 'x', '\n\n'],
  ],
  ['tokenizer.ggml.token_type', INT32, [2, 3, 3, 6, 1, 3, 1, 4]],
  ['tokenizer.ggml.scores', FLOAT32, [0, 0, 0, 0, -1, 0, -2, -1000]],
  ['tokenizer.ggml.bos_token_id', UINT32, 1],
  ['tokenizer.ggml.eos_token_id', UINT32, 2],
  ['tokenizer.ggml.add_bos_token', null],
];

t.test('byte-level BPE, exactly', async (t) => {
  const { spec, ...rest } = load(t.testdir(), []);
  t.same(rest, {
    bosTokenId: 0,
    eosTokenIds: [0, 4],
    addBos: true,
    addEos: false,
    chatTemplate: '{{ messages }}',
    bosToken: '<|endoftext|>',
    eosToken: '<|endoftext|>',
  });
  t.equal(spec.kind, 'bpe');
  t.same(texts(spec.tokenBytes, spec.tokenOffsets), [
    '<|endoftext|>',
    'a',
    'b',
    'ab',
    '<|im_end|>',
    'c',
    'd',
    '\u0120a',
  ]);
  t.same(texts(spec.mergeBytes, spec.mergeOffsets), ['a b', '\u0120 a']);
  t.same(spec.tokenTypes, Uint8Array.of(3, 1, 1, 1, 3, 1, 1, 1));
  t.same([spec.preTokenizer, spec.ignoreMerges, spec.scores], ['smollm', false, null]);
});

t.test('pre-tokenizers by name; unknown ones are refused', async (t) => {
  const folder = t.testdir();
  const rules = (pre: string) => {
    const { spec, addBos } = load(folder, [
      ['tokenizer.ggml.pre', STRING, pre],
      ['tokenizer.ggml.add_bos_token', null],
    ]);
    return [spec.preTokenizer, spec.ignoreMerges, addBos];
  };
  t.same(rules('gpt-2'), ['gpt2', false, false]);
  t.same(rules('llama-bpe'), ['llama3', true, true]);
  t.same(rules('qwen2'), ['qwen2', false, false]);
  t.same(rules('tekken'), ['tekken', true, true]);
  t.throws(() => rules('command-r'), {
    code: 'ERR_MODEL_FORMAT',
    message: /tokenizer\.ggml\.pre.*found "command-r"/,
  });
  t.throws(() => load(folder, [['tokenizer.ggml.pre', null]]), {
    message: /tokenizer\.ggml\.pre.*found none/,
  });
});

t.test('SentencePiece BPE: scores, byte tokens, BOS and space prefix by default', async (t) => {
  const folder = t.testdir();
  const { spec, ...rest } = load(folder, SPM);
  t.same(rest, {
    bosTokenId: 1,
    eosTokenIds: [2, 5],
    addBos: true,
    addEos: false,
    chatTemplate: '{{ messages }}',
    bosToken: '<s>',
    eosToken: '</s>',
  });
  t.same(
    [spec.kind, spec.spacePrefix, spec.unknownTokenId, spec.mergeBytes, spec.preTokenizer],
    ['spm', 'segments', 0, null, 'none'],
  );
  t.same(spec.scores, Float32Array.of(0, 0, 0, 0, -1, 0, -2, -1000));
  t.same(spec.tokenTypes, Uint8Array.of(2, 3, 3, 6, 1, 3, 1, 4));
  const without = load(folder, [
    ...SPM,
    ['tokenizer.ggml.add_space_prefix', BOOL, false],
    ['tokenizer.ggml.add_bos_token', BOOL, false],
    ['tokenizer.ggml.add_eos_token', BOOL, true],
    ['tokenizer.ggml.unknown_token_id', UINT32, 6],
  ]);
  t.same(
    [without.spec.spacePrefix, without.addBos, without.addEos, without.spec.unknownTokenId],
    ['none', false, true, 6],
  );
});

t.test('end tokens: named ones and turn ends that are control tokens', async (t) => {
  const folder = t.testdir();
  t.same(load(folder, [['tokenizer.ggml.eot_token_id', UINT32, 6]]).eosTokenIds, [0, 4, 6]);
  const plainText = load(folder, [['tokenizer.ggml.token_type', INT32, [3, 1, 1, 1, 1, 1, 1, 1]]]);
  t.same(plainText.eosTokenIds, [0], 'an ordinary token that looks like one does not end a text');
});

t.test('chat templates: none, default of named ones', async (t) => {
  const folder = t.testdir();
  t.equal(load(folder, [['tokenizer.chat_template', null]]).chatTemplate, null);
  t.equal(load(folder, [['tokenizer.chat_template', STRING, '']]).chatTemplate, null);
  const named = load(folder, [
    ['tokenizer.chat_template', null],
    ['tokenizer.chat_template.default', STRING, 'D'],
    ['tokenizer.chat_template.tool_use', STRING, 'T'],
  ]);
  t.equal(named.chatTemplate, 'D');
});

t.test('damaged tokenizers are refused by key', async (t) => {
  const folder = t.testdir();
  const refuse = (changes: Changes, message: RegExp): void => {
    t.throws(() => load(folder, changes), { code: 'ERR_MODEL_FORMAT', message });
  };
  refuse([['tokenizer.ggml.model', STRING, 'bert']], /tokenizer\.ggml\.model.*found "bert"/);
  refuse([['tokenizer.ggml.tokens', null]], /tokenizer\.ggml\.tokens.*found none/);
  refuse([['tokenizer.ggml.tokens', UINT32, [1, 2]]], /tokenizer\.ggml\.tokens.*a list of strings/);
  refuse([['tokenizer.ggml.token_type', INT32, [1]]], /token_type.*8 numbers/);
  refuse(
    [['tokenizer.ggml.token_type', INT32, [3, 1, 9, 1, 3, 1, 1, 1]]],
    /token_type" of token 2: expected 1 to 6, found 9/,
  );
  refuse([['tokenizer.ggml.merges', null]], /merges/);
  refuse([['tokenizer.ggml.bos_token_id', UINT32, 8]], /bos_token_id.*from 0 to 7, found 8/);
  refuse([...SPM, ['tokenizer.ggml.scores', FLOAT32, [1]]], /scores.*8 numbers/);
  t.throws(() => load(folder, [], 7), /at most 7 tokens, the rows of token_embd\.weight, found 8/);
  t.equal(load(folder, [], 64).spec.tokenTypes.length, 8, 'rows beyond the tokens are padding');
});
