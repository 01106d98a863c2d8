/**
 * tokenizer.json, tokenizer_config.json and generation_config.json → TokenizerDescription. Two
 * kinds are understood: byte-level BPE with a known pre-tokenizer, and SentencePiece-style BPE (▁
 * for spaces, byte fallback). Anything else (Unigram, WordPiece, unknown rules) is refused by name,
 * because an almost-right tokenizer is worse than none.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { NativeTokenizerSpec, SpacePrefix } from '../binding/addon.js';
import {
  END_OF_TURN_TEXTS,
  TOKEN_BYTE,
  TOKEN_CONTROL,
  TOKEN_NORMAL,
  TOKEN_UNKNOWN,
  TOKEN_UNUSED,
  TOKEN_USER_DEFINED,
} from './eos-tokens.js';
import { isRecord, JsonFields } from './json-file.js';
import type { TokenizerDescription } from './model-types.js';
import { PATTERN_RULES } from './pre-tokenizer-patterns.js';
import { StringTable } from './string-table.js';

const SPACE_MARK = '\u2581';
/** More than any vocabulary, little enough to allocate for a hostile id. */
const VOCABULARY_MAX = 4_000_000;

interface Vocabulary {
  texts: string[];
  types: Uint8Array;
  ids: Map<string, number>;
  /** Texts of added tokens flagged special. */
  special: Set<string>;
}

/** Throws ERR_MODEL_FORMAT naming file and field. */
export function hfTokenizer(folder: string): TokenizerDescription {
  const tokenizer = JsonFields.read(join(folder, 'tokenizer.json'));
  const model = tokenizer.child('model') ?? tokenizer.fault('model', 'an object');
  const type = model.text('type') ?? 'BPE';
  if (type !== 'BPE') model.fault('type', '"BPE" (byte-level or SentencePiece-style)');
  const dropout = model.number('dropout') ?? 0;
  if (dropout > 0) model.fault('dropout', 'none');
  const steps = preTokenizerSteps(tokenizer);
  const byteLevel = steps.some((step) => step.text('type') === 'ByteLevel');
  const vocabulary = readVocabulary(tokenizer, model, byteLevel);
  const normalization = byteLevel ? byteLevelNormalization(tokenizer) : undefined;
  const spec = byteLevel
    ? bpeSpec(model, steps, vocabulary)
    : spmSpec(tokenizer, model, steps, vocabulary);
  return {
    spec,
    ...specialTokens(folder, tokenizer, vocabulary),
    chatTemplate: readChatTemplate(folder),
    ...(normalization ? { normalization } : {}),
  };
}

/** The members of a "Sequence", or the one given, or none. */
function sequence(fields: JsonFields | undefined, list: string): JsonFields[] {
  if (!fields) return [];
  if (fields.text('type') !== 'Sequence') return [fields];
  const members = fields.list(list) ?? [];
  return members.map((member, i) => {
    if (!isRecord(member)) return fields.fault(list, 'a list of objects');
    return new JsonFields(fields.file, member, `${list}[${i}].`);
  });
}

function preTokenizerSteps(tokenizer: JsonFields): JsonFields[] {
  return sequence(tokenizer.child('pre_tokenizer'), 'pretokenizers');
}

function readVocabulary(tokenizer: JsonFields, model: JsonFields, byteLevel: boolean): Vocabulary {
  const vocab: unknown = model.get('vocab');
  if (!isRecord(vocab)) return model.fault('vocab', 'an object of token ids');
  const added = tokenizer.list('added_tokens') ?? [];
  const ids = new Map<string, number>();
  let size = 0;
  const place = (text: string, id: unknown): void => {
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0 || id >= VOCABULARY_MAX) {
      model.fault('vocab', `ids from 0 to ${VOCABULARY_MAX - 1}`);
    }
    ids.set(text, id);
    size = Math.max(size, id + 1);
  };
  for (const [text, id] of Object.entries(vocab)) place(text, id);
  const special = new Set<string>();
  const addedTypes = new Map<number, number>();
  for (const entry of added) {
    if (!isRecord(entry) || typeof entry.content !== 'string') {
      return tokenizer.fault('added_tokens', 'a list of objects with id and content');
    }
    place(entry.content, entry.id);
    addedTypes.set(entry.id as number, entry.special === true ? TOKEN_CONTROL : TOKEN_USER_DEFINED);
    if (entry.special === true) special.add(entry.content);
  }
  const texts = new Array<string>(size);
  const types = new Uint8Array(size).fill(TOKEN_UNUSED);
  const unknown = model.text('unk_token');
  for (const [text, id] of ids) {
    texts[id] = text;
    types[id] = TOKEN_NORMAL;
    if (!byteLevel && /^<0x[0-9A-F]{2}>$/.test(text)) types[id] = TOKEN_BYTE;
    if (text === unknown) types[id] = TOKEN_UNKNOWN;
  }
  for (const [id, kind] of addedTypes) if (types[id] !== TOKEN_UNKNOWN) types[id] = kind;
  for (let id = 0; id < size; id++) texts[id] ??= `[PAD${id}]`;
  return { texts, types, ids, special };
}

function byteLevelNormalization(tokenizer: JsonFields): 'NFC' | undefined {
  const steps = sequence(tokenizer.child('normalizer'), 'normalizers');
  if (steps.length === 0) return undefined;
  if (steps.length === 1 && steps[0]!.text('type') === 'NFC') return 'NFC';
  return tokenizer.fault('normalizer', 'none or NFC for byte-level BPE');
}

function bpeSpec(
  model: JsonFields,
  steps: JsonFields[],
  vocabulary: Vocabulary,
): NativeTokenizerSpec {
  const tokens = StringTable.from(vocabulary.texts);
  const merges = StringTable.from(readMerges(model));
  return {
    kind: 'bpe',
    tokenBytes: tokens.bytes,
    tokenOffsets: tokens.offsets,
    tokenTypes: vocabulary.types,
    scores: null,
    mergeBytes: merges.bytes,
    mergeOffsets: merges.offsets,
    preTokenizer: preTokenizerRules(steps),
    ignoreMerges: model.flag('ignore_merges') ?? false,
    spacePrefix: 'none',
    unknownTokenId: vocabulary.ids.get(model.text('unk_token') ?? '') ?? -1,
  };
}

/** "left right" in rank order; newer files write pairs instead of joined strings. */
function readMerges(model: JsonFields): string[] {
  const list = model.list('merges') ?? model.fault('merges', 'a list');
  return list.map((entry) => {
    if (typeof entry === 'string') return entry;
    const pair =
      Array.isArray(entry) && entry.length === 2 && entry.every((e) => typeof e === 'string');
    return pair ? `${entry[0]} ${entry[1]}` : model.fault('merges', 'strings or pairs of strings');
  });
}

function preTokenizerRules(steps: JsonFields[]): string {
  const last = steps[steps.length - 1]!;
  const ours = last.text('type') === 'ByteLevel' && last.flag('add_prefix_space') !== true;
  if (!ours) return last.fault('type', 'ByteLevel without add_prefix_space as the last step');
  const usesRegex = last.flag('use_regex') ?? true;
  if (steps.length === 1 && usesRegex) return 'gpt2';
  if (steps.length === 1) return 'none';
  const first = steps[0]!;
  if (steps.length === 2 && first.text('type') === 'Digits' && usesRegex) {
    if (first.flag('individual_digits') === true) return 'smollm';
  }
  if (steps.length === 2 && first.text('type') === 'Split' && !usesRegex) {
    const pattern = first.child('pattern');
    const regex = pattern?.text('Regex');
    const known = regex === undefined ? undefined : PATTERN_RULES.get(regex);
    const isolated = first.text('behavior') === 'Isolated' && first.flag('invert') !== true;
    if (known !== undefined && isolated) return known;
    return (pattern ?? first).fault('Regex', 'the pattern of gpt2, llama3, qwen2 or tekken');
  }
  return first.fault('type', 'Digits, or Split with a known pattern, before ByteLevel');
}

function spmSpec(
  tokenizer: JsonFields,
  model: JsonFields,
  steps: JsonFields[],
  vocabulary: Vocabulary,
): NativeTokenizerSpec {
  if (model.flag('byte_fallback') !== true) {
    model.fault('byte_fallback', 'true, or a ByteLevel pre_tokenizer');
  }
  const spacePrefix = spaceRules(tokenizer, steps);
  const tokens = StringTable.from(vocabulary.texts);
  return {
    kind: 'spm',
    tokenBytes: tokens.bytes,
    tokenOffsets: tokens.offsets,
    tokenTypes: vocabulary.types,
    scores: scoresOfMerges(model, vocabulary),
    mergeBytes: null,
    mergeOffsets: null,
    preTokenizer: 'none',
    ignoreMerges: false,
    spacePrefix,
    unknownTokenId: vocabulary.ids.get(model.text('unk_token') ?? '<unk>') ?? -1,
  };
}

/**
 * SentencePiece scores from merge ranks: such files list, for every piece, all its splits in the
 * order of the pieces' scores, so the rank of a piece's first split orders as its score did. Ranks
 * stay below 2^24 and are exact in f32.
 */
function scoresOfMerges(model: JsonFields, vocabulary: Vocabulary): Float32Array {
  const scores = new Float32Array(vocabulary.texts.length);
  const ranked = new Uint8Array(vocabulary.texts.length);
  const merges = readMerges(model);
  for (let rank = 0; rank < merges.length; rank++) {
    const merge = merges[rank]!;
    // A piece may be a newline run but never holds a space: the mark stands for it.
    const cut = merge.indexOf(' ');
    const id = vocabulary.ids.get(merge.slice(0, cut) + merge.slice(cut + 1));
    if (id === undefined || cut < 0)
      return model.fault('merges', 'only merges into tokens of vocab');
    if (ranked[id]) continue;
    ranked[id] = 1;
    scores[id] = -rank;
  }
  return scores;
}

/** Where a space goes in front of a text; refuses any rule beyond marks for spaces. */
function spaceRules(tokenizer: JsonFields, steps: JsonFields[]): SpacePrefix {
  let prefix: SpacePrefix = 'none';
  let marks = false;
  for (const step of sequence(tokenizer.child('normalizer'), 'normalizers')) {
    const type = step.text('type');
    if (type === 'Prepend' && step.text('prepend') === SPACE_MARK) prefix = 'segments';
    else if (type === 'Replace' && isSpaceToMark(step)) marks = true;
    else step.fault('type', `Prepend or Replace with "${SPACE_MARK}"`);
  }
  for (const step of steps) {
    const type = step.text('type');
    // With spaces already replaced, a split on them cuts nothing.
    if (type === 'Split' && marks && step.child('pattern')?.text('String') === ' ') continue;
    if (
      type !== 'Metaspace' ||
      step.text('replacement') !== SPACE_MARK ||
      // Where the field is missing, the format's own default is true.
      step.flag('split') !== false
    ) {
      return step.fault('type', `Metaspace with "${SPACE_MARK}" and split false`);
    }
    marks = true;
    // A normalizer's mark comes first and leaves this step nothing to put in front.
    if (prefix === 'none') prefix = metaspacePrefix(step);
  }
  if (!marks) tokenizer.fault('normalizer', `a rule that writes spaces as "${SPACE_MARK}"`);
  return prefix;
}

function metaspacePrefix(step: JsonFields): SpacePrefix {
  const byFlag = step.flag('add_prefix_space') === false ? 'never' : 'always';
  const scheme = step.text('prepend_scheme') ?? byFlag;
  if (scheme === 'never') return 'none';
  if (scheme === 'first' || scheme === 'always') return scheme;
  return step.fault('prepend_scheme', 'first, always or never');
}

function isSpaceToMark(step: JsonFields): boolean {
  return step.child('pattern')?.text('String') === ' ' && step.text('content') === SPACE_MARK;
}

type SpecialTokens = Pick<
  TokenizerDescription,
  'bosTokenId' | 'eosTokenIds' | 'addBos' | 'addEos' | 'bosToken' | 'eosToken'
>;

function specialTokens(
  folder: string,
  tokenizer: JsonFields,
  vocabulary: Vocabulary,
): SpecialTokens {
  const settings = optionalFile(folder, 'tokenizer_config.json');
  const tokenMap = optionalFile(folder, 'special_tokens_map.json');
  const config = optionalFile(folder, 'config.json');
  const generation = optionalFile(folder, 'generation_config.json');
  const template = templateOf(tokenizer);
  const text = (name: string): string =>
    tokenText(settings, name) ?? tokenText(tokenMap, name) ?? '';
  const bosToken = text('bos_token');
  const eosToken = text('eos_token');
  const lookUp = (token: string): number | null => vocabulary.ids.get(token) ?? null;
  const bosId = lookUp(bosToken) ?? (template.first === null ? null : lookUp(template.first));
  const eos = new Set<number>();
  for (const id of [...idsOf(generation, vocabulary), ...idsOf(config, vocabulary)]) eos.add(id);
  const named = lookUp(eosToken);
  if (named !== null) eos.add(named);
  for (const end of END_OF_TURN_TEXTS) {
    const id = lookUp(end);
    if (id !== null && vocabulary.special.has(end)) eos.add(id);
  }
  return {
    bosTokenId: bosId,
    eosTokenIds: [...eos].sort((a, b) => a - b),
    addBos: addsToken(settings, 'add_bos_token', template.first !== null) && bosId !== null,
    addEos: addsToken(settings, 'add_eos_token', template.last !== null),
    bosToken,
    eosToken,
  };
}

function optionalFile(folder: string, name: string): JsonFields | null {
  const path = join(folder, name);
  return existsSync(path) ? JsonFields.read(path) : null;
}

/** A token written as a string or as an object with its content. */
function tokenText(fields: JsonFields | null, name: string): string | undefined {
  const value = fields?.get(name);
  if (typeof value === 'string') return value;
  if (isRecord(value) && typeof value.content === 'string') return value.content;
  return undefined;
}

function idsOf(fields: JsonFields | null, vocabulary: Vocabulary): number[] {
  const value = fields?.get('eos_token_id') ?? fields?.child('text_config')?.get('eos_token_id');
  const list = Array.isArray(value) ? value : [value];
  return list.filter(
    (id): id is number => Number.isInteger(id) && id >= 0 && id < vocabulary.texts.length,
  );
}

/** The flags count for the tokenizer classes that read them; the post-processor for all others. */
function addsToken(settings: JsonFields | null, flag: string, byTemplate: boolean): boolean {
  const reads = /^(Code)?(Llama|Gemma)Tokenizer(Fast)?$/.test(
    settings?.text('tokenizer_class') ?? '',
  );
  return (reads ? settings?.flag(flag) : undefined) ?? byTemplate;
}

/** Special tokens that the post-processor puts before and after a single text. */
function templateOf(tokenizer: JsonFields): { first: string | null; last: string | null } {
  for (const step of sequence(tokenizer.child('post_processor'), 'processors')) {
    if (step.text('type') !== 'TemplateProcessing') continue;
    const items = step.list('single') ?? [];
    const at = items.findIndex((item) => isRecord(item) && isRecord(item.Sequence));
    if (at < 0 || at > 1 || items.length - at > 2) {
      step.fault('single', 'at most one special token before and one after the text');
    }
    const special = (item: unknown): string | null => {
      const token = isRecord(item) ? item.SpecialToken : undefined;
      return isRecord(token) && typeof token.id === 'string' ? token.id : null;
    };
    return { first: at === 1 ? special(items[0]) : null, last: special(items[at + 1]) };
  }
  return { first: null, last: null };
}

/** chat_template.jinja, then tokenizer_config.json (a string, or named ones: "default"), then chat_template.json. */
function readChatTemplate(folder: string): string | null {
  const file = join(folder, 'chat_template.jinja');
  if (existsSync(file)) return readFileSync(file, 'utf8');
  for (const name of ['tokenizer_config.json', 'chat_template.json']) {
    const value = optionalFile(folder, name)?.get('chat_template');
    if (typeof value === 'string') return value;
    if (!Array.isArray(value)) continue;
    const entry = value.find((item) => isRecord(item) && item.name === 'default');
    if (isRecord(entry) && typeof entry.template === 'string') return entry.template;
  }
  return null;
}

/** Sampling defaults of generation_config.json; none where it asks for greedy decoding. */
export function hfDefaults(folder: string): {
  temperature?: number;
  topP?: number;
  topK?: number;
  repetitionPenalty?: number;
} {
  const generation = optionalFile(folder, 'generation_config.json');
  if (generation?.flag('do_sample') !== true) return {};
  const temperature = generation.number('temperature');
  const topP = generation.number('top_p');
  const topK = generation.integer('top_k', 0);
  const repetitionPenalty = generation.number('repetition_penalty');
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(topP === undefined ? {} : { topP }),
    ...(topK === undefined ? {} : { topK }),
    ...(repetitionPenalty === undefined ? {} : { repetitionPenalty }),
  };
}
