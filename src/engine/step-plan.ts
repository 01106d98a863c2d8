/**
 * The packet that crosses to native code once a step, and the one that comes back. Mirror of
 * native/step_plan.h; test/golden/step-plan.json holds one of each, and both sides test it.
 * All words are little-endian int32; floats are stored as their bits.
 *
 * Plan
 *   header, 16 words   magic "LHSP" | version | step id | words of the operations | sequences |
 *                      tokens | position rows (1) | copies | embedding spans (0) | total words | 0…
 *   operations         [opcode, words of this operation, arguments…], run in order before the rows
 *                        OPEN 1           20 fixed words (OPEN below), history ids, (id, bias)
 *                                         pairs, stop token ids
 *                        CLOSE 2          slot
 *                        APPEND 3         slot, group, count, block ids (−1 = hole: wholly before
 *                                         the window)
 *                        REPLACE_RANGE 4  slot, group, first index, count, block ids
 *                        DROP_PREFIX 5    slot, group, count: entries [0, count) are no longer
 *                                         valid; the indices of the others stay
 *   sequence rows      8 words each: slot | sequence id | tokens (>= 1) | start position | flags |
 *                      prompt token after the last row (−1 = none) | 0 | 0
 *   tokens             one a row of the step; −1 = what the row's slot sampled last
 *   positions          one a row
 *   copies             (from, to) block id pairs
 *
 * Result
 *   header, 16 words   magic "LHSR" | version | step id | sequences | elapsed µs | attention µs |
 *                      tokens computed | total words | 0…
 *   records            one a sequence row, in plan order. 8 words: slot | sequence id | status |
 *                      sampled | top | prompt rows | prompt top | 0; then
 *                        sampled × (id, logprob, rank), sampled × top × (id, logprob),
 *                        prompt rows × (id, logprob, rank), prompt rows × prompt top × (id, logprob)
 *
 * A slot is a small integer that a sequence holds from OPEN to CLOSE.
 */
import type { SamplingParams, TokenWithLogprobs } from '../types.js';

export const PLAN_MAGIC = 0x5053484c;
export const RESULT_MAGIC = 0x5253484c;
export const PLAN_VERSION = 1;
export const PLAN_HEADER_WORDS = 16;
export const RESULT_HEADER_WORDS = 16;
export const SEQUENCE_WORDS = 8;
export const RECORD_WORDS = 8;
/** Words of an OPEN after [opcode, words], before its lists. */
export const OPEN_FIXED_WORDS = 20;

export const OPERATION = { open: 1, close: 2, append: 3, replaceRange: 4, dropPrefix: 5 } as const;
/** Draw a token from the last row; log-probabilities of the known next token of every row. */
export const SEQUENCE_FLAG = { sample: 1, promptLogprobs: 2 } as const;
export const TOKEN_FROM_SLOT = -1;
export const RECORD_STATUS = { ok: 0, aborted: 1, notFinite: 2 } as const;

/** int32 words that grow and are reused from step to step. */
class WordBuffer {
  words: Int32Array;
  floats: Float32Array;
  length = 0;

  constructor(capacity: number) {
    this.words = new Int32Array(capacity);
    this.floats = new Float32Array(this.words.buffer);
  }

  /** Makes room for `count` more words and returns where they start. */
  extend(count: number): number {
    const start = this.length;
    this.length += count;
    if (this.length > this.words.length) {
      const grown = new Int32Array(Math.max(this.length, this.words.length * 2));
      grown.set(this.words.subarray(0, start));
      this.words = grown;
      this.floats = new Float32Array(grown.buffer);
    }
    return start;
  }

  push(word: number): void {
    const at = this.extend(1);
    this.words[at] = word;
  }

  pushAll(words: Int32Array): void {
    const at = this.extend(words.length);
    this.words.set(words, at);
  }
}

export interface OpenOptions {
  slot: number;
  sequenceId: number;
  numPromptTokens: number;
  sampling: SamplingParams;
  /** Ids native code may ban; a subset of sampling.stopTokenIds inside the vocabulary. */
  stopTokenIds: readonly number[];
  /** All tokens known now when a penalty is on, else empty. */
  history: Int32Array;
}

/** Writes plans into one buffer after another step; `finish` returns a view valid until `begin`. */
export class StepPlanEncoder {
  private readonly operations = new WordBuffer(1024);
  private readonly sequences = new WordBuffer(1024);
  private readonly tokens = new WordBuffer(4096);
  private readonly positions = new WordBuffer(4096);
  private packet = new Int32Array(8192);
  private stepId = 0;

  begin(stepId: number): void {
    this.stepId = stepId;
    this.operations.length = 0;
    this.sequences.length = 0;
    this.tokens.length = 0;
    this.positions.length = 0;
  }

  open(options: OpenOptions): void {
    const { sampling, history, stopTokenIds } = options;
    const buffer = this.operations;
    const bias = sampling.logitBias;
    const total = 2 + OPEN_FIXED_WORDS + history.length + bias.length * 2 + stopTokenIds.length;
    let at = buffer.extend(total);
    const { words, floats } = buffer;
    words[at++] = OPERATION.open;
    words[at++] = total;
    words[at++] = options.slot;
    words[at++] = options.sequenceId;
    words[at++] = -1;
    words[at++] = options.numPromptTokens;
    floats[at++] = sampling.temperature;
    floats[at++] = sampling.topP;
    floats[at++] = sampling.minP;
    words[at++] = sampling.topK;
    floats[at++] = sampling.repetitionPenalty;
    floats[at++] = sampling.frequencyPenalty;
    floats[at++] = sampling.presencePenalty;
    words[at++] = Number(BigInt.asIntN(32, sampling.seed));
    words[at++] = Number(BigInt.asIntN(32, sampling.seed >> 32n));
    words[at++] = sampling.numLogprobs;
    words[at++] = sampling.numPromptLogprobs;
    words[at++] = sampling.minTokens;
    words[at++] = history.length;
    words[at++] = bias.length;
    words[at++] = stopTokenIds.length;
    words[at++] = 0;
    words.set(history, at);
    at += history.length;
    for (const [tokenId, value] of bias) {
      words[at++] = tokenId;
      floats[at++] = value;
    }
    for (const tokenId of stopTokenIds) words[at++] = tokenId;
  }

  close(slot: number): void {
    const at = this.operations.extend(3);
    this.operations.words[at] = OPERATION.close;
    this.operations.words[at + 1] = 3;
    this.operations.words[at + 2] = slot;
  }

  /** Appends entries [first, end) of `table`; −1 is a block its window has left behind. */
  append(slot: number, group: number, table: Int32Array, first: number, end: number): void {
    const count = end - first;
    let at = this.operations.extend(5 + count);
    const words = this.operations.words;
    words[at++] = OPERATION.append;
    words[at++] = 5 + count;
    words[at++] = slot;
    words[at++] = group;
    words[at++] = count;
    for (let i = first; i < end; i++) words[at++] = table[i]!;
  }

  dropPrefix(slot: number, group: number, count: number): void {
    let at = this.operations.extend(5);
    const words = this.operations.words;
    words[at++] = OPERATION.dropPrefix;
    words[at++] = 5;
    words[at++] = slot;
    words[at++] = group;
    words[at++] = count;
  }

  /** A sequence's row; its `numTokens` token words follow by pushToken or pushTokens. */
  sequence(
    slot: number,
    sequenceId: number,
    numTokens: number,
    startPosition: number,
    flags: number,
    nextToken: number,
  ): void {
    let at = this.sequences.extend(SEQUENCE_WORDS);
    const words = this.sequences.words;
    words[at++] = slot;
    words[at++] = sequenceId;
    words[at++] = numTokens;
    words[at++] = startPosition;
    words[at++] = flags;
    words[at++] = nextToken;
    words[at++] = 0;
    words[at++] = 0;
    at = this.positions.extend(numTokens);
    for (let i = 0; i < numTokens; i++) this.positions.words[at + i] = startPosition + i;
  }

  pushToken(token: number): void {
    this.tokens.push(token);
  }

  pushTokens(tokens: Int32Array): void {
    this.tokens.pushAll(tokens);
  }

  finish(): Int32Array {
    const { operations, sequences, tokens, positions } = this;
    if (tokens.length !== positions.length) {
      throw new Error(
        `plan ${this.stepId}: ${tokens.length} tokens, ${positions.length} positions`,
      );
    }
    const total =
      PLAN_HEADER_WORDS + operations.length + sequences.length + tokens.length + positions.length;
    if (total > this.packet.length) this.packet = new Int32Array(total * 2);
    const packet = this.packet;
    packet.fill(0, 0, PLAN_HEADER_WORDS);
    packet[0] = PLAN_MAGIC;
    packet[1] = PLAN_VERSION;
    packet[2] = this.stepId;
    packet[3] = operations.length;
    packet[4] = sequences.length / SEQUENCE_WORDS;
    packet[5] = tokens.length;
    packet[6] = 1;
    packet[9] = total;
    let at = PLAN_HEADER_WORDS;
    for (const part of [operations, sequences, tokens, positions]) {
      packet.set(part.words.subarray(0, part.length), at);
      at += part.length;
    }
    return packet.subarray(0, total);
  }
}

export type PlanOperation =
  | {
      type: 'open';
      slot: number;
      sequenceId: number;
      adapterId: number;
      numPromptTokens: number;
      sampling: Omit<SamplingParams, 'maxTokens'>;
      history: number[];
    }
  | { type: 'close'; slot: number }
  | { type: 'append'; slot: number; group: number; blockIds: number[] }
  | { type: 'replaceRange'; slot: number; group: number; first: number; blockIds: number[] }
  | { type: 'dropPrefix'; slot: number; group: number; count: number };

export interface PlanRow {
  slot: number;
  sequenceId: number;
  startPosition: number;
  flags: number;
  nextToken: number;
  tokens: number[];
}

export interface DecodedPlan {
  stepId: number;
  operations: PlanOperation[];
  rows: PlanRow[];
}

function fail(what: string, word: number, expected: unknown, found: unknown): never {
  throw new Error(`step plan: ${what} at word ${word}: expected ${expected}, found ${found}`);
}

/** Reads a plan back; throws an Error with the word index when its shape is wrong. */
export function decodeStepPlan(words: Int32Array): DecodedPlan {
  if (words[0] !== PLAN_MAGIC) fail('magic', 0, PLAN_MAGIC, words[0]);
  if (words[1] !== PLAN_VERSION) fail('version', 1, PLAN_VERSION, words[1]);
  const numOperationWords = words[3]!;
  const numSequences = words[4]!;
  const numTokens = words[5]!;
  if (words[6] !== 1) fail('position rows', 6, 1, words[6]);
  if (words[7] !== 0) fail('copies', 7, 0, words[7]);
  const expected =
    PLAN_HEADER_WORDS + numOperationWords + numSequences * SEQUENCE_WORDS + 2 * numTokens;
  if (words[9] !== expected) fail('total words', 9, expected, words[9]);
  if (words.length !== expected) fail('length', words.length, expected, words.length);

  const operations: PlanOperation[] = [];
  const endOfOperations = PLAN_HEADER_WORDS + numOperationWords;
  for (let at = PLAN_HEADER_WORDS; at < endOfOperations; at += words[at + 1]!) {
    const length = words[at + 1]!;
    if (length < 3 || at + length > endOfOperations) {
      fail('operation length', at + 1, `3…${endOfOperations - at}`, length);
    }
    operations.push(decodeOperation(words, at, length));
  }
  const rows: PlanRow[] = [];
  const positions = endOfOperations + numSequences * SEQUENCE_WORDS + numTokens;
  let token = endOfOperations + numSequences * SEQUENCE_WORDS;
  for (let i = 0; i < numSequences; i++) {
    const at = endOfOperations + i * SEQUENCE_WORDS;
    const count = words[at + 2]!;
    if (count < 1 || token + count > positions) fail('row tokens', at + 2, '>= 1', count);
    for (let k = 0; k < count; k++) {
      const position = words[token + k + numTokens];
      if (position !== words[at + 3]! + k) {
        fail('position', token + k + numTokens, words[at + 3]! + k, position);
      }
    }
    rows.push({
      slot: words[at]!,
      sequenceId: words[at + 1]!,
      startPosition: words[at + 3]!,
      flags: words[at + 4]!,
      nextToken: words[at + 5]!,
      tokens: Array.from(words.subarray(token, token + count)),
    });
    token += count;
  }
  if (token !== positions) fail('sum of row tokens', 5, numTokens, token - positions + numTokens);
  return { stepId: words[2]!, operations, rows };
}

function decodeOperation(words: Int32Array, at: number, length: number): PlanOperation {
  const list = (first: number, count: number): number[] => {
    if (count < 0 || first + count !== at + length) {
      fail('operation words', at + 1, first + count - at, length);
    }
    return Array.from(words.subarray(first, first + count));
  };
  const slot = words[at + 2]!;
  const group = words[at + 3]!;
  switch (words[at]) {
    case OPERATION.open:
      return decodeOpen(words, at, length);
    case OPERATION.close:
      if (length !== 3) fail('operation words', at + 1, 3, length);
      return { type: 'close', slot };
    case OPERATION.append:
      return { type: 'append', slot, group, blockIds: list(at + 5, words[at + 4]!) };
    case OPERATION.replaceRange: {
      const blockIds = list(at + 6, words[at + 5]!);
      return { type: 'replaceRange', slot, group, first: words[at + 4]!, blockIds };
    }
    case OPERATION.dropPrefix:
      if (length !== 5) fail('operation words', at + 1, 5, length);
      return { type: 'dropPrefix', slot, group, count: words[at + 4]! };
    default:
      return fail('opcode', at, '1…5', words[at]);
  }
}

function decodeOpen(words: Int32Array, at: number, length: number): PlanOperation {
  const floats = new Float32Array(words.buffer, words.byteOffset, words.length);
  const first = at + 2;
  const numHistory = words[first + 16]!;
  const numBias = words[first + 17]!;
  const numStop = words[first + 18]!;
  const expected = 2 + OPEN_FIXED_WORDS + numHistory + 2 * numBias + numStop;
  if (length !== expected) fail('operation words', at + 1, expected, length);
  let list = first + OPEN_FIXED_WORDS;
  const history = Array.from(words.subarray(list, list + numHistory));
  list += numHistory;
  const logitBias: Array<[number, number]> = [];
  for (let i = 0; i < numBias; i++, list += 2) logitBias.push([words[list]!, floats[list + 1]!]);
  const low = BigInt(words[first + 11]! >>> 0);
  const high = BigInt(words[first + 12]! >>> 0);
  return {
    type: 'open',
    slot: words[first]!,
    sequenceId: words[first + 1]!,
    adapterId: words[first + 2]!,
    numPromptTokens: words[first + 3]!,
    sampling: {
      temperature: floats[first + 4]!,
      topP: floats[first + 5]!,
      minP: floats[first + 6]!,
      topK: words[first + 7]!,
      repetitionPenalty: floats[first + 8]!,
      frequencyPenalty: floats[first + 9]!,
      presencePenalty: floats[first + 10]!,
      seed: low | (high << 32n),
      numLogprobs: words[first + 13]!,
      numPromptLogprobs: words[first + 14]!,
      minTokens: words[first + 15]!,
      logitBias,
      stopTokenIds: Array.from(words.subarray(list, list + numStop)),
    },
    history,
  };
}

const NO_TOP: TokenWithLogprobs['top'] = [];

/**
 * Walks a result record by record: `next()` moves to the next one, whose fields are then read.
 * Nothing is allocated until tokens are asked for.
 */
export class StepResultReader {
  private readonly words: Int32Array;
  private readonly floats: Float32Array;
  private at = 0;
  private end = RESULT_HEADER_WORDS;
  readonly stepId: number;
  readonly numSequences: number;
  readonly elapsedMicros: number;
  readonly attentionMicros: number;
  readonly numTokens: number;

  /** Throws an Error when the packet is not a result. */
  constructor(words: Int32Array) {
    if (words[0] !== RESULT_MAGIC || words[1] !== PLAN_VERSION || words[7] !== words.length) {
      throw new Error(
        `step result: header ${words[0]}, version ${words[1]}, ${words[7]} of ${words.length} words`,
      );
    }
    this.words = words;
    this.floats = new Float32Array(words.buffer, words.byteOffset, words.length);
    this.stepId = words[2]!;
    this.numSequences = words[3]!;
    this.elapsedMicros = words[4]!;
    this.attentionMicros = words[5]!;
    this.numTokens = words[6]!;
  }

  next(): boolean {
    this.at = this.end;
    if (this.at >= this.words.length) return false;
    const sampled = this.numSampled * (3 + 2 * this.numTop);
    const prompt = this.numPromptRows * (3 + 2 * this.numPromptTop);
    this.end = this.at + RECORD_WORDS + sampled + prompt;
    if (this.end > this.words.length) {
      throw new Error(`step result: record at word ${this.at} ends at ${this.end}`);
    }
    return true;
  }

  get slot(): number {
    return this.words[this.at]!;
  }
  get sequenceId(): number {
    return this.words[this.at + 1]!;
  }
  /** One of RECORD_STATUS. */
  get status(): number {
    return this.words[this.at + 2]!;
  }
  get numSampled(): number {
    return this.words[this.at + 3]!;
  }
  get numTop(): number {
    return this.words[this.at + 4]!;
  }
  get numPromptRows(): number {
    return this.words[this.at + 5]!;
  }
  get numPromptTop(): number {
    return this.words[this.at + 6]!;
  }

  sampledToken(index: number): TokenWithLogprobs {
    const base = this.at + RECORD_WORDS;
    const tops = base + this.numSampled * 3 + index * this.numTop * 2;
    return this.token(base + index * 3, tops, this.numTop);
  }

  /** Log-probability of the token after prompt row `row` of this record. */
  promptToken(row: number): TokenWithLogprobs {
    const base = this.at + RECORD_WORDS + this.numSampled * (3 + 2 * this.numTop);
    const tops = base + this.numPromptRows * 3 + row * this.numPromptTop * 2;
    return this.token(base + row * 3, tops, this.numPromptTop);
  }

  private token(at: number, tops: number, numTop: number): TokenWithLogprobs {
    return {
      tokenId: this.words[at]!,
      logprob: this.floats[at + 1]!,
      rank: this.words[at + 2]!,
      top: numTop === 0 ? NO_TOP : this.top(tops, numTop),
    };
  }

  private top(at: number, count: number): Array<{ tokenId: number; logprob: number }> {
    return Array.from({ length: count }, (_, i) => ({
      tokenId: this.words[at + 2 * i]!,
      logprob: this.floats[at + 2 * i + 1]!,
    }));
  }
}

export interface ResultRecord {
  slot: number;
  sequenceId: number;
  status: number;
  sampled: TokenWithLogprobs[];
  /** Entries of each sampled token's `top`. */
  numTop: number;
  promptRows: TokenWithLogprobs[];
  numPromptTop: number;
}

/** Writes a result packet as native code does: for fakes, replays and the golden file. */
export function encodeStepResult(
  header: { stepId: number; elapsedMicros: number; attentionMicros: number; numTokens: number },
  records: readonly ResultRecord[],
): Int32Array {
  const buffer = new WordBuffer(RESULT_HEADER_WORDS + records.length * (RECORD_WORDS + 3));
  const pushFloat = (value: number): void => {
    const at = buffer.extend(1);
    buffer.floats[at] = value;
  };
  const pushTokens = (tokens: readonly TokenWithLogprobs[], numTop: number): void => {
    for (const token of tokens) {
      buffer.push(token.tokenId);
      pushFloat(token.logprob);
      buffer.push(token.rank);
    }
    for (const token of tokens) {
      for (let i = 0; i < numTop; i++) {
        buffer.push(token.top[i]!.tokenId);
        pushFloat(token.top[i]!.logprob);
      }
    }
  };
  buffer.extend(RESULT_HEADER_WORDS);
  for (const record of records) {
    buffer.push(record.slot);
    buffer.push(record.sequenceId);
    buffer.push(record.status);
    buffer.push(record.sampled.length);
    buffer.push(record.numTop);
    buffer.push(record.promptRows.length);
    buffer.push(record.numPromptTop);
    buffer.push(0);
    pushTokens(record.sampled, record.numTop);
    pushTokens(record.promptRows, record.numPromptTop);
  }
  const words = buffer.words.slice(0, buffer.length);
  words[0] = RESULT_MAGIC;
  words[1] = PLAN_VERSION;
  words[2] = header.stepId;
  words[3] = records.length;
  words[4] = header.elapsedMicros;
  words[5] = header.attentionMicros;
  words[6] = header.numTokens;
  words[7] = words.length;
  return words;
}
