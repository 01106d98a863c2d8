/**
 * tokenizer.ggml.* metadata → TokenizerDescription. Knows which pre-tokenizer names of the format
 * mean which rules of native/tokenizer; an unknown model or pre-tokenizer is refused by name,
 * because guessing one gives almost-right ids.
 */
import {
  END_OF_TURN_TEXTS,
  TOKEN_BYTE,
  TOKEN_CONTROL,
  TOKEN_NORMAL,
  TOKEN_USER_DEFINED,
} from './eos-tokens.js';
import type { GgufFile } from './gguf.js';
import { GgufMetadata } from './gguf-model.js';
import { formatError } from './model-error.js';
import type { TokenizerDescription } from './model-types.js';
import { StringTable } from './string-table.js';

/** tokenizer.ggml.pre → the rule set in native/tokenizer, and whether whole words skip merging. */
const PRE_TOKENIZERS: Record<string, { rules: string; ignoreMerges: boolean }> = {
  'gpt-2': { rules: 'gpt2', ignoreMerges: false },
  smollm: { rules: 'smollm', ignoreMerges: false },
  'llama-bpe': { rules: 'llama3', ignoreMerges: true },
  llama3: { rules: 'llama3', ignoreMerges: true },
  'llama-v3': { rules: 'llama3', ignoreMerges: true },
  qwen2: { rules: 'qwen2', ignoreMerges: false },
  'deepseek-r1-qwen': { rules: 'qwen2', ignoreMerges: false },
  tekken: { rules: 'tekken', ignoreMerges: true },
};

/** Throws ERR_MODEL_FORMAT naming the key. `vocabSize` is the embedding's row count. */
export function ggufTokenizer(gguf: GgufFile, vocabSize: number): TokenizerDescription {
  const metadata: GgufMetadata = new GgufMetadata(gguf);
  const model = metadata.text('tokenizer.ggml.model');
  if (model !== 'gpt2' && model !== 'llama') {
    metadata.fault(
      'tokenizer.ggml.model',
      '"gpt2" (byte-level BPE) or "llama" (SentencePiece BPE)',
    );
  }
  const tokens = requireTable(metadata, 'tokenizer.ggml.tokens');
  if (tokens.length > vocabSize) {
    throw formatError({
      file: metadata.file,
      where: 'metadata "tokenizer.ggml.tokens"',
      expected: `at most ${vocabSize} tokens, the rows of token_embd.weight`,
      found: String(tokens.length),
    });
  }
  const tokenTypes = readTypes(metadata, tokens.length);
  const id = (name: string): number | undefined =>
    metadata.integer(`tokenizer.ggml.${name}_token_id`, 0, tokens.length - 1);
  const spec =
    model === 'gpt2'
      ? bpeSpec(metadata, tokens, tokenTypes, id('unknown'))
      : spmSpec(metadata, tokens, tokenTypes, id('unknown'));
  const bos = id('bos') ?? (model === 'llama' ? lastResort(tokens, '<s>') : null);
  const eos = id('eos') ?? (model === 'llama' ? lastResort(tokens, '</s>') : null);
  return {
    spec,
    bosTokenId: bos,
    eosTokenIds: endTokens(tokens, tokenTypes, [eos, id('eot'), id('eom')]),
    addBos: metadata.flag('tokenizer.ggml.add_bos_token') ?? addsBosByDefault(metadata, model),
    addEos: metadata.flag('tokenizer.ggml.add_eos_token') ?? false,
    chatTemplate: chatTemplate(metadata),
    bosToken: bos === null ? '' : tokens.text(bos),
    eosToken: eos === null ? '' : tokens.text(eos),
  };
}

function requireTable(metadata: GgufMetadata, key: string): StringTable {
  const value = metadata.get(key);
  if (value instanceof StringTable && value.length > 0) return value;
  return metadata.fault(key, 'a list of strings');
}

function readTypes(metadata: GgufMetadata, count: number): Uint8Array {
  const key = 'tokenizer.ggml.token_type';
  const value = metadata.get(key);
  if (value === undefined) return new Uint8Array(count).fill(TOKEN_NORMAL);
  if (!(value instanceof Int32Array || value instanceof Uint32Array) || value.length !== count) {
    return metadata.fault(key, `${count} numbers`);
  }
  const types = new Uint8Array(count);
  for (let i = 0; i < count; i++) {
    const type = value[i]!;
    if (type < TOKEN_NORMAL || type > TOKEN_BYTE) {
      throw formatError({
        file: metadata.file,
        where: `metadata "${key}" of token ${i}`,
        expected: '1 to 6',
        found: String(type),
      });
    }
    types[i] = type;
  }
  return types;
}

function bpeSpec(
  metadata: GgufMetadata,
  tokens: StringTable,
  tokenTypes: Uint8Array,
  unknown: number | undefined,
): TokenizerDescription['spec'] {
  const pre = metadata.text('tokenizer.ggml.pre');
  const known = pre === undefined ? undefined : PRE_TOKENIZERS[pre];
  if (!known) {
    metadata.fault('tokenizer.ggml.pre', `one of ${Object.keys(PRE_TOKENIZERS).join(', ')}`);
  }
  const merges = metadata.get('tokenizer.ggml.merges');
  if (!(merges instanceof StringTable))
    metadata.fault('tokenizer.ggml.merges', 'a list of strings');
  return {
    kind: 'bpe',
    tokenBytes: tokens.bytes,
    tokenOffsets: tokens.offsets,
    tokenTypes,
    scores: null,
    mergeBytes: merges.bytes,
    mergeOffsets: merges.offsets,
    preTokenizer: known.rules,
    ignoreMerges: known.ignoreMerges,
    spacePrefix: 'none',
    unknownTokenId: unknown ?? -1,
  };
}

function spmSpec(
  metadata: GgufMetadata,
  tokens: StringTable,
  tokenTypes: Uint8Array,
  unknown: number | undefined,
): TokenizerDescription['spec'] {
  const key = 'tokenizer.ggml.scores';
  const scores = metadata.get(key);
  if (!(scores instanceof Float32Array) || scores.length !== tokens.length) {
    metadata.fault(key, `${tokens.length} numbers`);
  }
  return {
    kind: 'spm',
    tokenBytes: tokens.bytes,
    tokenOffsets: tokens.offsets,
    tokenTypes,
    scores,
    mergeBytes: null,
    mergeOffsets: null,
    preTokenizer: 'none',
    ignoreMerges: false,
    spacePrefix: (metadata.flag('tokenizer.ggml.add_space_prefix') ?? true) ? 'segments' : 'none',
    unknownTokenId: unknown ?? lastResort(tokens, '<unk>') ?? -1,
  };
}

function lastResort(tokens: StringTable, text: string): number | null {
  const index = tokens.indexOf(text);
  return index < 0 ? null : index;
}

/** What llama.cpp does where the key is missing: SentencePiece and Llama 3 begin with BOS. */
function addsBosByDefault(metadata: GgufMetadata, model: string): boolean {
  if (model === 'llama') return true;
  const pre = metadata.text('tokenizer.ggml.pre');
  return pre !== undefined && PRE_TOKENIZERS[pre]?.ignoreMerges === true;
}

function endTokens(
  tokens: StringTable,
  types: Uint8Array,
  named: ReadonlyArray<number | null | undefined>,
): number[] {
  const ids = new Set<number>();
  for (const id of named) if (typeof id === 'number') ids.add(id);
  for (const text of END_OF_TURN_TEXTS) {
    const id = tokens.indexOf(text);
    if (id >= 0 && (types[id] === TOKEN_CONTROL || types[id] === TOKEN_USER_DEFINED)) ids.add(id);
  }
  return [...ids].sort((a, b) => a - b);
}

/** The default template; of a list of named ones, the one named "default". */
function chatTemplate(metadata: GgufMetadata): string | null {
  const template = metadata.text('tokenizer.chat_template');
  if (template !== undefined) return template.length > 0 ? template : null;
  return metadata.text('tokenizer.chat_template.default') ?? null;
}
