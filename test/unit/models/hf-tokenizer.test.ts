import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { hfDefaults, hfTokenizer } from '../../../src/models/hf-tokenizer.js';
import { PATTERN_RULES } from '../../../src/models/pre-tokenizer-patterns.js';
import { StringTable } from '../../../src/models/string-table.js';

const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, use_regex: true };

function bpe(changes: object = {}): Record<string, unknown> {
  return {
    added_tokens: [
      { id: 0, content: '<|endoftext|>', special: true },
      { id: 5, content: '<tool>', special: false },
      { id: 7, content: '<|im_end|>', special: true },
    ],
    normalizer: null,
    pre_tokenizer: BYTE_LEVEL,
    post_processor: null,
    model: {
      type: 'BPE',
      vocab: { '<|endoftext|>': 0, a: 1, b: 2, ab: 3, '\u0120a': 4 },
      merges: ['a b', '\u0120 a'],
    },
    ...changes,
  };
}

function spm(changes: object = {}): Record<string, unknown> {
  return {
    added_tokens: [
      { id: 0, content: '<unk>', special: true },
      { id: 1, content: '<s>', special: true },
      { id: 2, content: '</s>', special: true },
    ],
    normalizer: {
      type: 'Sequence',
      normalizers: [
        { type: 'Prepend', prepend: '\u2581' },
        { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' },
      ],
    },
    pre_tokenizer: null,
    post_processor: {
      type: 'TemplateProcessing',
      single: [{ SpecialToken: { id: '<s>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
    },
    model: {
      type: 'BPE',
      unk_token: '<unk>',
      byte_fallback: true,
      vocab: {
        '<unk>': 0,
        '<s>': 1,
        '</s>': 2,
        '<0x41>': 3,
        '\u2581': 4,
        a: 5,
        '\u2581a': 6,
        aa: 7,
        '\u2581aa': 8,
      },
      merges: [
        ['\u2581', 'a'],
        ['a', 'a'],
        ['\u2581', 'aa'],
        ['\u2581a', 'a'],
      ],
    },
    ...changes,
  };
}

function load(folder: string, tokenizer: object, files: Record<string, unknown> = {}) {
  writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(tokenizer));
  for (const [name, value] of Object.entries(files)) {
    writeFileSync(join(folder, name), typeof value === 'string' ? value : JSON.stringify(value));
  }
  return hfTokenizer(folder);
}

function texts(bytes: Uint8Array | null, offsets: Uint32Array | null): string[] {
  const table = new StringTable(bytes!, offsets!);
  return Array.from({ length: table.length }, (_, i) => table.text(i));
}

t.test('byte-level BPE, exactly', async (t) => {
  const { spec, ...rest } = load(t.testdir(), bpe(), {
    'tokenizer_config.json': { bos_token: null, eos_token: '<|endoftext|>', chat_template: 'T' },
    'generation_config.json': { eos_token_id: [7, 3] },
  });
  t.same(rest, {
    bosTokenId: null,
    eosTokenIds: [0, 3, 7],
    addBos: false,
    addEos: false,
    bosToken: '',
    eosToken: '<|endoftext|>',
    chatTemplate: 'T',
  });
  t.same(texts(spec.tokenBytes, spec.tokenOffsets), [
    '<|endoftext|>',
    'a',
    'b',
    'ab',
    '\u0120a',
    '<tool>',
    '[PAD6]',
    '<|im_end|>',
  ]);
  t.same(spec.tokenTypes, Uint8Array.of(3, 1, 1, 1, 1, 4, 5, 3));
  t.same(texts(spec.mergeBytes, spec.mergeOffsets), ['a b', '\u0120 a']);
  t.same(
    [spec.kind, spec.preTokenizer, spec.ignoreMerges, spec.unknownTokenId],
    ['bpe', 'gpt2', false, -1],
  );
});

t.test('merges as pairs, ignore_merges, NFC', async (t) => {
  const model = {
    ...(bpe().model as object),
    ignore_merges: true,
    merges: [
      ['a', 'b'],
      ['\u0120', 'a'],
    ],
  };
  const { spec, normalization } = load(t.testdir(), bpe({ model, normalizer: { type: 'NFC' } }));
  t.same(texts(spec.mergeBytes, spec.mergeOffsets), ['a b', '\u0120 a']);
  t.equal(spec.ignoreMerges, true);
  t.equal(normalization, 'NFC');
});

t.test('pre-tokenizers are recognized by their rules', async (t) => {
  const folder = t.testdir();
  const rules = (...pretokenizers: object[]): string =>
    load(folder, bpe({ pre_tokenizer: { type: 'Sequence', pretokenizers } })).spec.preTokenizer;
  const noRegex = { ...BYTE_LEVEL, use_regex: false };
  t.equal(rules(BYTE_LEVEL), 'gpt2');
  t.equal(rules(noRegex), 'none');
  t.equal(rules({ type: 'Digits', individual_digits: true }, BYTE_LEVEL), 'smollm');
  for (const [pattern, name] of PATTERN_RULES) {
    t.equal(
      rules(
        { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
        noRegex,
      ),
      name,
    );
    t.doesNotThrow(
      () => new RegExp(pattern.replace(/\(\?i:/g, '(?:'), 'u'),
      `${name} is a regular expression`,
    );
  }
  const refuse = (steps: object[], message: RegExp): void => {
    t.throws(() => rules(...steps), { code: 'ERR_MODEL_FORMAT', message });
  };
  refuse(
    [{ type: 'Split', pattern: { Regex: '\\w+' }, behavior: 'Isolated' }, noRegex],
    /Regex.*gpt2, llama3, qwen2 or tekken/,
  );
  refuse([{ type: 'Digits', individual_digits: false }, BYTE_LEVEL], /Digits, or Split/);
  refuse([{ ...BYTE_LEVEL, add_prefix_space: true }], /without add_prefix_space/);
  refuse([{ type: 'Whitespace' }, BYTE_LEVEL], /found "Whitespace"/);
});

t.test(
  'SentencePiece-style BPE: scores from merges, types, BOS from the post-processor',
  async (t) => {
    const { spec, ...rest } = load(t.testdir(), spm(), {
      'special_tokens_map.json': { bos_token: { content: '<s>' }, eos_token: '</s>' },
      'config.json': { eos_token_id: 2 },
    });
    t.same(rest, {
      bosTokenId: 1,
      eosTokenIds: [2],
      addBos: true,
      addEos: false,
      bosToken: '<s>',
      eosToken: '</s>',
      chatTemplate: null,
    });
    t.same(spec.tokenTypes, Uint8Array.of(2, 3, 3, 6, 1, 1, 1, 1, 1));
    t.same(spec.scores, Float32Array.of(0, 0, 0, 0, 0, 0, -0, -1, -2));
    t.same(
      [spec.kind, spec.spacePrefix, spec.unknownTokenId, spec.preTokenizer],
      ['spm', 'segments', 0, 'none'],
    );
  },
);

t.test('where the space goes', async (t) => {
  const folder = t.testdir();
  const replace = { type: 'Replace', pattern: { String: ' ' }, content: '\u2581' };
  const metaspace = (scheme: string): object => ({
    type: 'Metaspace',
    replacement: '\u2581',
    prepend_scheme: scheme,
    split: false,
  });
  const prefix = (changes: object): string => load(folder, spm(changes)).spec.spacePrefix;
  t.equal(prefix({ normalizer: replace }), 'none', 'Gemma');
  t.equal(
    prefix({
      normalizer: replace,
      pre_tokenizer: { type: 'Split', pattern: { String: ' ' }, behavior: 'MergedWithPrevious' },
    }),
    'none',
  );
  t.equal(prefix({ normalizer: null, pre_tokenizer: metaspace('first') }), 'first');
  t.equal(prefix({ normalizer: null, pre_tokenizer: metaspace('always') }), 'always');
  t.equal(prefix({ normalizer: null, pre_tokenizer: metaspace('never') }), 'none');
  t.equal(prefix({ pre_tokenizer: metaspace('first') }), 'segments', 'the normalizer is first');
  t.equal(prefix({ pre_tokenizer: metaspace('never') }), 'segments', 'the normalizer stays');
  t.throws(
    () => prefix({ normalizer: null, pre_tokenizer: metaspace('last') }),
    /prepend_scheme.*first, always or never/,
  );
  t.throws(() => prefix({ normalizer: null }), /normalizer.*writes spaces/);
  t.throws(() => prefix({ normalizer: { type: 'NFKC' } }), /found "NFKC"/);
  for (const split of [true, undefined]) {
    t.throws(
      () => prefix({ normalizer: null, pre_tokenizer: { ...metaspace('always'), split } }),
      /split false/,
    );
  }
});

t.test('add_bos_token counts for the classes that read it', async (t) => {
  const folder = t.testdir();
  const adds = (config: object): boolean[] => {
    const { addBos, addEos } = load(folder, spm(), {
      'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', ...config },
    });
    return [addBos, addEos];
  };
  t.same(adds({ tokenizer_class: 'LlamaTokenizer', add_bos_token: false, add_eos_token: true }), [
    false,
    true,
  ]);
  t.same(adds({ tokenizer_class: 'PreTrainedTokenizerFast', add_bos_token: false }), [true, false]);
  t.same(adds({ tokenizer_class: 'GemmaTokenizerFast' }), [true, false]);
});

t.test('chat templates: file, string, list, processor', async (t) => {
  const folder = t.testdir();
  const template = (files: Record<string, unknown>): string | null =>
    load(folder, bpe(), files).chatTemplate;
  t.equal(template({}), null);
  t.equal(template({ 'chat_template.json': { chat_template: 'P' } }), 'P');
  const list = [
    { name: 'tool_use', template: 'X' },
    { name: 'default', template: 'D' },
  ];
  t.equal(template({ 'tokenizer_config.json': { chat_template: list } }), 'D');
  t.equal(template({ 'tokenizer_config.json': { chat_template: 'S' } }), 'S');
  t.equal(template({ 'chat_template.jinja': 'J' }), 'J');
});

t.test('what is not understood is refused by name', async (t) => {
  const folder = t.testdir();
  const refuse = (tokenizer: object, message: RegExp): void => {
    t.throws(() => load(folder, tokenizer), { code: 'ERR_MODEL_FORMAT', message });
  };
  const model = bpe().model as Record<string, unknown>;
  refuse({}, /model: expected an object, found none/);
  for (const type of ['Unigram', 'WordPiece', 'WordLevel']) {
    refuse(bpe({ model: { ...model, type } }), new RegExp(`model\\.type.*found "${type}"`));
  }
  refuse(bpe({ pre_tokenizer: null }), /byte_fallback/);
  refuse(bpe({ normalizer: { type: 'Lowercase' } }), /normalizer.*none or NFC/);
  refuse(bpe({ model: { ...model, vocab: { a: -1 } } }), /vocab: expected ids/);
  refuse(bpe({ model: { ...model, vocab: { a: 1e12 } } }), /vocab: expected ids from 0 to 3999999/);
  refuse(bpe({ model: { ...model, vocab: 'x' } }), /vocab: expected an object/);
  refuse(bpe({ model: { ...model, merges: [1] } }), /merges: expected strings or pairs/);
  refuse(bpe({ model: { ...model, dropout: 0.1 } }), /dropout/);
  refuse(bpe({ added_tokens: [{ id: 1 }] }), /added_tokens/);
  refuse(
    spm({ model: { ...(spm().model as object), merges: ['x y'] } }),
    /merges: expected only merges into tokens/,
  );
  const many = {
    type: 'TemplateProcessing',
    single: [
      { SpecialToken: { id: '<s>' } },
      { SpecialToken: { id: '<s>' } },
      { Sequence: { id: 'A' } },
    ],
  };
  refuse(spm({ post_processor: many }), /at most one special token before/);
});

t.test('sampling defaults of generation_config.json', async (t) => {
  const folder = t.testdir();
  const write = (value: object): void =>
    writeFileSync(join(folder, 'generation_config.json'), JSON.stringify(value));
  t.same(hfDefaults(folder), {});
  write({ do_sample: true, temperature: 0.6, top_p: 0.9, top_k: 40, repetition_penalty: 1.05 });
  t.same(hfDefaults(folder), { temperature: 0.6, topP: 0.9, topK: 40, repetitionPenalty: 1.05 });
  write({ temperature: 0.6 });
  t.same(hfDefaults(folder), {}, 'greedy models keep no sampling defaults');
});
