/**
 * A native engine without arithmetic that trusts nobody. It runs real plans, checks every rule of
 * the step-plan contract, and keeps "K/V" per block slot: a number that depends on the token, its
 * position, its group and everything it could see *through the block tables*. Sampled tokens
 * depend on those numbers, so a wrong, stale or foreign block changes what is generated, and
 * `expectedTokens` says what a request must give when it runs alone.
 */
import type { NativeEngineHandle, NativeEngineInfo } from '../../src/binding/addon.js';
import {
  type DecodedPlan,
  decodeStepPlan,
  encodeStepResult,
  type PlanOperation,
  type PlanRow,
  RECORD_STATUS,
  type ResultRecord,
  SEQUENCE_FLAG,
  TOKEN_FROM_SLOT,
} from '../../src/engine/step-plan.js';
import { EngineError } from '../../src/errors.js';
import type { SamplingParams, TokenWithLogprobs } from '../../src/types.js';

export interface FakeOptions {
  numBlocks?: number;
  blockSize?: number;
  groupWindows?: number[];
  maxNumSeqs?: number;
  maxNumBatchedTokens?: number;
  maxModelLen?: number;
  vocabSize?: number;
  /** Plans run only by runNext(); otherwise each runs in a later turn of the event loop. */
  isManual?: boolean;
  /** Simulated length of a step. */
  stepMicros?: (work: { numTokens: number; numSequences: number }) => number;
}

interface Slot {
  sequenceId: number;
  numPromptTokens: number;
  sampling: Omit<SamplingParams, 'maxTokens'>;
  tables: number[][];
  dropped: number[];
  computedEnd: number | null;
  lastSampled: number | null;
  numOutput: number;
  historySum: number;
}

interface QueuedPlan {
  plan: DecodedPlan;
  resolve: (result: Int32Array) => void;
  reject: (error: EngineError) => void;
}

const mix = (a: number, b: number): number => {
  let h = Math.imul(a ^ Math.imul(b, 0xcc9e2d51 | 0), 0x1b873593);
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  return (h ^ (h >>> 13)) | 0;
};

const contentOf = (group: number, token: number, position: number, seen: number): number =>
  mix(mix(mix(group + 1, token), position), seen);

function sampleFrom(
  state: number,
  options: {
    vocabSize: number;
    position: number;
    numOutput: number;
    historySum: number;
    sampling: Omit<SamplingParams, 'maxTokens'>;
  },
): number {
  const { sampling, vocabSize } = options;
  let h = mix(state, options.position);
  if (sampling.temperature > 0) h = mix(h, Number(BigInt.asIntN(32, sampling.seed)));
  if (hasPenalty(sampling)) h = mix(h, options.historySum);
  let token = (h >>> 0) % vocabSize;
  if (options.numOutput < sampling.minTokens) {
    while (sampling.stopTokenIds.includes(token)) token = (token + 1) % vocabSize;
  }
  return token;
}

const hasPenalty = (sampling: Omit<SamplingParams, 'maxTokens'>): boolean =>
  sampling.repetitionPenalty !== 1 ||
  sampling.frequencyPenalty !== 0 ||
  sampling.presencePenalty !== 0;

const firstVisible = (window: number, position: number): number =>
  window === 0 ? 0 : Math.max(0, position - window + 1);

/** What a request generates when it runs alone, without blocks. */
export function expectedTokens(
  prompt: ArrayLike<number>,
  sampling: SamplingParams,
  options: { groupWindows: readonly number[]; vocabSize: number },
): number[] {
  const tokens = Array.from(prompt);
  const contents: number[][] = options.groupWindows.map(() => []);
  const output: number[] = [];
  let state = 0;
  const compute = (position: number): void => {
    state = 0;
    options.groupWindows.forEach((window, group) => {
      let seen = 0;
      for (let q = firstVisible(window, position); q < position; q++) {
        seen = mix(seen, contents[group]![q]!);
      }
      const content = contentOf(group, tokens[position]!, position, seen);
      contents[group]![position] = content;
      state = mix(state, mix(seen, content));
    });
  };
  for (let position = 0; position < tokens.length; position++) {
    compute(position);
    if (position < tokens.length - 1) continue;
    if (output.length >= sampling.maxTokens) break;
    const token = sampleFrom(state, {
      vocabSize: options.vocabSize,
      position,
      numOutput: output.length,
      historySum: tokens.reduce((sum, id) => (sum + mix(7, id)) | 0, 0),
      sampling,
    });
    output.push(token);
    if (output.length > sampling.minTokens && sampling.stopTokenIds.includes(token)) break;
    if (output.length >= sampling.maxTokens) break;
    tokens.push(token);
  }
  return output;
}

/** Log-probability the fake claims for `token` after `position`; a function of both alone. */
export function expectedLogprob(token: number, position: number): number {
  return Math.fround(-((mix(token, position) >>> 0) % 1000) / 100);
}

export class FakeNativeEngine implements NativeEngineHandle {
  readonly info: NativeEngineInfo;
  /** Every plan that was submitted, decoded. */
  readonly plans: DecodedPlan[] = [];
  readonly aborts: Array<{ slot: number; sequenceId: number }> = [];
  /** The next plan that runs fails, and all after it, as native code does. */
  failNext: EngineError | null = null;
  /** Sequence ids whose logits are not finite from now on. */
  readonly notFinite = new Set<number>();
  isClosed = false;

  private readonly options: FakeOptions;
  private readonly slots: Array<Slot | null>;
  /** Per block slot: what is stored, and for which position and group; −1 = never written. */
  private readonly contents: Int32Array;
  private readonly positions: Int32Array;
  private readonly groups: Int32Array;
  private readonly queue: QueuedPlan[] = [];
  private readonly aborted = new Set<number>();
  private failure: EngineError | null = null;

  constructor(options: FakeOptions = {}) {
    this.options = options;
    this.info = {
      backend: 'cpu',
      backendReason: 'asked for',
      device: '',
      isa: 'fake',
      kvDtype: 'bf16',
      threads: 1,
      blockSize: options.blockSize ?? 4,
      blockBytes: 64,
      numBlocks: options.numBlocks ?? 11,
      maxModelLen: options.maxModelLen ?? 1000,
      maxNumSeqs: options.maxNumSeqs ?? 4,
      maxNumBatchedTokens: options.maxNumBatchedTokens ?? 64,
      vocabSize: options.vocabSize ?? 100,
      numLayers: 1,
      weightBytes: 0,
      groupWindows: options.groupWindows ?? [0],
    };
    const numSlots = this.info.numBlocks * this.info.blockSize;
    this.contents = new Int32Array(numSlots);
    this.positions = new Int32Array(numSlots).fill(-1);
    this.groups = new Int32Array(numSlots).fill(-1);
    this.slots = new Array<Slot | null>(this.info.maxNumSeqs).fill(null);
  }

  get numQueued(): number {
    return this.queue.length;
  }

  submit(words: Int32Array): Promise<Int32Array> {
    if (this.isClosed) return Promise.reject(new EngineError('ERR_ABORTED', 'closed'));
    return new Promise((resolve, reject) => {
      let plan: DecodedPlan;
      try {
        plan = decodeStepPlan(words.slice());
      } catch (error) {
        reject(new EngineError('ERR_INTERNAL', (error as Error).message));
        return;
      }
      this.plans.push(plan);
      this.queue.push({ plan, resolve, reject });
      if (!this.options.isManual) setImmediate(() => this.runNext());
    });
  }

  abort(slot: number, sequenceId: number): void {
    this.aborts.push({ slot, sequenceId });
    this.aborted.add(sequenceId);
  }

  async close(): Promise<void> {
    this.isClosed = true;
    for (const { reject } of this.queue.splice(0)) reject(new EngineError('ERR_ABORTED', 'closed'));
  }

  /** Runs the oldest queued plan; false when there is none. */
  runNext(): boolean {
    const queued = this.queue.shift();
    if (!queued) return false;
    this.failure ??= this.failNext;
    if (this.failure) {
      queued.reject(this.failure);
      return true;
    }
    try {
      queued.resolve(this.run(queued.plan));
    } catch (error) {
      this.failure = new EngineError('ERR_INTERNAL', (error as Error).message);
      queued.reject(this.failure);
    }
    return true;
  }

  /** Slots that sequences hold after the plans that have run. */
  get numOpenSlots(): number {
    return this.slots.filter((slot) => slot !== null).length;
  }

  private run(plan: DecodedPlan): Int32Array {
    for (const operation of plan.operations) this.apply(operation);
    if (plan.rows.length === 0) throw new Error('a plan without rows');
    const owners = this.countOwners();
    const seen = new Set<number>();
    const records: ResultRecord[] = [];
    let numTokens = 0;
    let planTokens = 0;
    for (const row of plan.rows) {
      if (seen.has(row.slot)) throw new Error(`slot ${row.slot} has two rows`);
      seen.add(row.slot);
      planTokens += row.tokens.length;
      const record = this.runRow(row, owners);
      if (record.status !== RECORD_STATUS.aborted) numTokens += row.tokens.length;
      records.push(record);
    }
    if (planTokens > this.info.maxNumBatchedTokens)
      throw new Error(`${planTokens} tokens in a plan`);
    const work = { numTokens: planTokens, numSequences: plan.rows.length };
    const elapsedMicros = this.options.stepMicros?.(work) ?? 100 + 10 * planTokens;
    const header = { stepId: plan.stepId, elapsedMicros, attentionMicros: 0, numTokens };
    return encodeStepResult(header, records);
  }

  private apply(operation: PlanOperation): void {
    const { slot } = operation;
    if (slot < 0 || slot >= this.slots.length) throw new Error(`slot ${slot} is out of range`);
    const state = this.slots[slot]!;
    if (operation.type === 'open') {
      if (state) throw new Error(`OPEN of slot ${slot}, which sequence ${state.sequenceId} holds`);
      this.slots[slot] = this.openSlot(operation);
      return;
    }
    if (!state) throw new Error(`${operation.type} of slot ${slot}, which is not open`);
    if (operation.type === 'close') {
      this.slots[slot] = null;
      return;
    }
    if (operation.type === 'replaceRange') throw new Error('replaceRange is not expected here');
    const table = state.tables[operation.group];
    if (!table) throw new Error(`group ${operation.group} does not exist`);
    if (operation.type === 'append') {
      for (const id of operation.blockIds) {
        if (id < -1 || id >= this.info.numBlocks) throw new Error(`block id ${id}`);
        // A hole may only precede the first block.
        if (id === -1 && table.some((other) => other >= 0)) throw new Error('a hole in the middle');
        table.push(id);
      }
      return;
    }
    if (operation.count > table.length) throw new Error('dropPrefix beyond the table');
    if (operation.count <= state.dropped[operation.group]!)
      throw new Error('dropPrefix of nothing');
    state.dropped[operation.group] = operation.count;
    table.fill(-1, 0, operation.count);
  }

  private openSlot(operation: PlanOperation & { type: 'open' }): Slot {
    for (const other of this.slots) {
      if (other?.sequenceId === operation.sequenceId) {
        throw new Error(`sequence id ${operation.sequenceId} is open twice`);
      }
    }
    const numHistory = operation.history.length;
    if (numHistory > 0 !== hasPenalty(operation.sampling)) {
      throw new Error(`history of ${numHistory} tokens`);
    }
    return {
      sequenceId: operation.sequenceId,
      numPromptTokens: operation.numPromptTokens,
      sampling: operation.sampling,
      tables: this.info.groupWindows.map(() => []),
      dropped: this.info.groupWindows.map(() => 0),
      computedEnd: null,
      lastSampled: null,
      numOutput: 0,
      historySum: operation.history.reduce((sum, id) => (sum + mix(7, id)) | 0, 0),
    };
  }

  /** How many open tables hold each block. */
  private countOwners(): Int32Array {
    const owners = new Int32Array(this.info.numBlocks);
    for (const slot of this.slots) {
      for (const table of slot?.tables ?? []) {
        for (const id of table) if (id >= 0) owners[id]!++;
      }
    }
    return owners;
  }

  private runRow(row: PlanRow, owners: Int32Array): ResultRecord {
    const slot = this.slots[row.slot];
    if (!slot || slot.sequenceId !== row.sequenceId) {
      throw new Error(`row of slot ${row.slot} for sequence ${row.sequenceId}: not open`);
    }
    const { blockSize } = this.info;
    if (
      slot.computedEnd === null
        ? row.startPosition % blockSize !== 0
        : row.startPosition !== slot.computedEnd
    ) {
      throw new Error(`row starts at ${row.startPosition}, expected ${slot.computedEnd}`);
    }
    slot.computedEnd = row.startPosition + row.tokens.length;
    if (slot.computedEnd > this.info.maxModelLen) throw new Error('row beyond maxModelLen');
    const isAborted = this.aborted.has(row.sequenceId);
    let state = 0;
    row.tokens.forEach((word, i) => {
      if (word === TOKEN_FROM_SLOT && slot.lastSampled === null) {
        throw new Error(`slot ${row.slot} has not sampled yet`);
      }
      const token = word === TOKEN_FROM_SLOT ? slot.lastSampled! : word;
      if (token < 0 || token >= this.info.vocabSize) throw new Error(`token id ${token}`);
      state = this.computeToken(slot, token, row.startPosition + i, owners, isAborted);
    });
    const record: ResultRecord = {
      slot: row.slot,
      sequenceId: row.sequenceId,
      status: RECORD_STATUS.ok,
      sampled: [],
      numTop: 0,
      promptRows: [],
      numPromptTop: 0,
    };
    if (isAborted) {
      // The next row of the slot, if any, is aborted as well.
      slot.lastSampled ??= 0;
      return { ...record, status: RECORD_STATUS.aborted };
    }
    if (this.notFinite.has(row.sequenceId)) {
      slot.lastSampled ??= 0;
      return { ...record, status: RECORD_STATUS.notFinite };
    }
    if (row.flags & SEQUENCE_FLAG.promptLogprobs) this.addPromptRows(slot, row, record);
    if (row.flags & SEQUENCE_FLAG.sample) this.sample(slot, state, record);
    return record;
  }

  /** Reads what the token sees, writes its K/V in every group, returns the last hidden state. */
  private computeToken(
    slot: Slot,
    token: number,
    position: number,
    owners: Int32Array,
    isAborted: boolean,
  ): number {
    let state = 0;
    this.info.groupWindows.forEach((window, group) => {
      let seen = 0;
      for (let q = firstVisible(window, position); q < position; q++) {
        seen = mix(seen, this.read(slot, group, q));
      }
      const at = this.address(slot, group, position);
      const blockId = Math.floor(at / this.info.blockSize);
      if (owners[blockId] !== 1) {
        throw new Error(`write to block ${blockId}, which ${owners[blockId]} tables hold`);
      }
      const content = contentOf(group, token, position, seen);
      // An aborted row may stop anywhere: what it leaves must never be read.
      this.contents[at] = isAborted ? 0x0badbad : content;
      this.positions[at] = position;
      this.groups[at] = group;
      state = mix(state, mix(seen, content));
    });
    return state;
  }

  private read(slot: Slot, group: number, position: number): number {
    const at = this.address(slot, group, position);
    if (this.positions[at] !== position || this.groups[at] !== group) {
      throw new Error(
        `stale read: position ${position} of group ${group} finds position ` +
          `${this.positions[at]} of group ${this.groups[at]}`,
      );
    }
    return this.contents[at]!;
  }

  private address(slot: Slot, group: number, position: number): number {
    const { blockSize } = this.info;
    const id = slot.tables[group]![Math.floor(position / blockSize)];
    if (id === undefined || id < 0) {
      throw new Error(`position ${position} of group ${group} is not covered (${id})`);
    }
    return id * blockSize + (position % blockSize);
  }

  private sample(slot: Slot, state: number, record: ResultRecord): void {
    const position = slot.computedEnd! - 1;
    slot.numOutput = position + 1 - slot.numPromptTokens;
    const token = sampleFrom(state, {
      vocabSize: this.info.vocabSize,
      position,
      numOutput: slot.numOutput,
      historySum: slot.historySum,
      sampling: slot.sampling,
    });
    slot.lastSampled = token;
    slot.historySum = (slot.historySum + mix(7, token)) | 0;
    record.numTop = Math.max(0, slot.sampling.numLogprobs);
    record.sampled.push(this.withLogprobs(token, position, slot.sampling.numLogprobs));
  }

  private addPromptRows(slot: Slot, row: PlanRow, record: ResultRecord): void {
    const wanted = slot.sampling.numPromptLogprobs;
    record.numPromptTop = Math.max(0, wanted);
    row.tokens.forEach((_, i) => {
      const next = i + 1 < row.tokens.length ? row.tokens[i + 1]! : row.nextToken;
      if (next < 0) return;
      record.promptRows.push(this.withLogprobs(next, row.startPosition + i, wanted));
    });
  }

  private withLogprobs(tokenId: number, position: number, wanted: number): TokenWithLogprobs {
    if (wanted < 0) return { tokenId, logprob: 0, rank: 0, top: [] };
    return {
      tokenId,
      logprob: expectedLogprob(tokenId, position),
      rank: 1 + (tokenId % 5),
      top: Array.from({ length: wanted }, (_, k) => ({
        tokenId: (tokenId + k) % this.info.vocabSize,
        logprob: -k,
      })),
    };
  }
}
