/**
 * Decides what each step computes: schedule() → plan, commit(result). No phases: a sequence has
 * numComputedTokens and a length, and a step moves one toward the other under a token budget and a
 * time budget. Pure and synchronous: no promises, no clock of its own, no native code.
 *
 * A step, in this order:
 *   1. decodes: every running sequence that lacks one token, best rank first;
 *   2. admission: waiting sequences in rank order, while slots and blocks for the whole prompt last;
 *   3. prefill: what the time budget leaves, the shortest prompt first with half of it, so that a
 *      short prompt is not stuck behind a long one, then the others in rank order.
 * Rank is priority, then arrival. When blocks run out, the sequence of the worst rank that is not
 * in the step yet gives up its blocks and is computed again later (its tokens stay).
 *
 * Progress: the best-ranked sequence can take the blocks of every other one, and submit() refuses
 * what the whole pool could not hold.
 */

import { EngineError } from '../errors.js';
import type { BlockManager } from '../kv/block-manager.js';
import type { BlockPool } from '../kv/block-pool.js';
import type { FinishReason, TokenWithLogprobs } from '../types.js';
import { PlanWriter } from './plan-writer.js';
import { PrefixWaits } from './prefix-waits.js';
import type { ScheduledStep, StepOutcome, StepRow } from './scheduled-step.js';
import { insertByRank, removeFrom, type Sequence } from './sequence.js';
import { prefillPairs, StepCostModel } from './step-cost-model.js';
import { RECORD_STATUS, StepResultReader } from './step-plan.js';

/** Prefill never gets less than this in a step, however slow the decodes are. */
const MIN_CHUNK_TOKENS = 16;
/** While somebody decodes, prefill may add this share of the decodes' own time to a step. */
const MIN_PREFILL_SHARE = 0.5;
/** A step without decodes: long enough for throughput, short enough for admissions and aborts. */
const IDLE_STEP_MS = 200;
/** A step whose fixed cost (reading the weights) is high gets longer, to be worth that cost. */
const IDLE_FIXED_MULTIPLE = 4;

/** Chunk that window groups get blocks reserved for; with fewer blocks chunks just get smaller. */
const RESERVED_CHUNK_TOKENS = 512;

const NO_WORDS = new Int32Array(0);

export interface SchedulerOptions {
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  vocabSize: number;
  /** Gap between a stream's tokens that prefill chunks are sized for, ms. */
  itlTargetMs: number;
}

/** Told what happened to sequences; called inside schedule() and commit(). */
export interface SchedulerListener {
  /** First time in the running set; `queriedTokens` went through the prefix cache. */
  onAdmit(sequence: Sequence, queriedTokens: number): void;
  onPreempt(sequence: Sequence): void;
  onProgress(sequence: Sequence): void;
  onPromptLogprobs(sequence: Sequence, entries: Array<TokenWithLogprobs | null>): void;
  onTokens(sequence: Sequence, tokens: TokenWithLogprobs[]): void;
  /** The sequence holds nothing any more. */
  onFinish(sequence: Sequence, reason: FinishReason, stopTokenId: number | null): void;
  onError(sequence: Sequence, error: EngineError): void;
}

export class Scheduler {
  readonly costModel = new StepCostModel();
  /** Both sorted by rank, best first. */
  readonly running: Sequence[] = [];
  readonly waiting: Sequence[] = [];

  private readonly manager: BlockManager;
  private readonly pool: BlockPool;
  private readonly options: SchedulerOptions;
  private readonly listener: SchedulerListener;
  private readonly writer: PlanWriter;
  private readonly freeSlots: number[] = [];
  /** Slots whose CLOSE the next plan carries; they are on freeSlots already. */
  private readonly slotsToClose: number[] = [];
  private readonly inFlight: ScheduledStep[] = [];
  private readonly spareSteps: ScheduledStep[] = [];
  private readonly prefixWaits: PrefixWaits;
  private readonly candidates: Sequence[] = [];
  private nextStepId = 1;
  private numFailed = 0;
  private readonly reservedChunk: number;
  private nextNativeId = 1;

  constructor(manager: BlockManager, options: SchedulerOptions, listener: SchedulerListener) {
    this.manager = manager;
    this.pool = manager.pool;
    this.options = options;
    this.listener = listener;
    this.prefixWaits = new PrefixWaits(manager);
    this.writer = new PlanWriter(options.vocabSize, manager.hasWindows);
    this.reservedChunk = Math.min(options.maxNumBatchedTokens, RESERVED_CHUNK_TOKENS);
    for (let slot = options.maxNumSeqs - 1; slot >= 0; slot--) this.freeSlots.push(slot);
  }

  get numInFlight(): number {
    return this.inFlight.length;
  }

  /** True while some sequence could make progress now or after a step in flight. */
  get hasWork(): boolean {
    if (this.inFlight.length > 0) return true;
    return this.running.some((s) => !s.isPaused) || this.waiting.some((s) => !s.isPaused);
  }

  /** Tokens of prompts that nobody has begun to compute. */
  get numWaitingTokens(): number {
    return this.waiting.reduce((sum, sequence) => sum + sequence.numTokens, 0);
  }

  add(sequence: Sequence): void {
    insertByRank(this.waiting, sequence);
  }

  /**
   * Takes a sequence out, wherever it is; its blocks are free when this returns. Says what native
   * code may still be computing for it, or null.
   */
  remove(sequence: Sequence): { slot: number; sequenceId: number } | null {
    if (sequence.status === 'finished') return null;
    const native = sequence.isOpen ? { slot: sequence.slot, sequenceId: sequence.nativeId } : null;
    if (sequence.status === 'waiting') removeFrom(this.waiting, sequence);
    else this.stopRunning(sequence);
    this.prefixWaits.forget(sequence);
    sequence.status = 'finished';
    return native;
  }

  /** The next step, or null when nothing can run before a step in flight has finished. */
  schedule(nowMs: number): ScheduledStep | null {
    for (;;) {
      const numFailed = this.numFailed;
      const step = this.planStep(nowMs);
      // A sequence that failed for want of blocks has left them to the others.
      if (step || this.numFailed === numFailed) return step;
    }
  }

  private planStep(nowMs: number): ScheduledStep | null {
    const step = this.takeStep();
    this.scheduleDecodes(step);
    step.predictedMs = this.costModel.predictMs(step.work);
    this.admit(step, nowMs);
    this.schedulePrefills(step);
    if (step.rows.length === 0) {
      this.spareSteps.push(step);
      return null;
    }
    step.predictedMs = this.costModel.predictMs(step.work);
    step.words = this.writer.write(step, this.slotsToClose, this.running);
    this.inFlight.push(step);
    return step;
  }

  /** Takes the result of the oldest step in flight. Throws when it is not that step's. */
  commit(result: Int32Array, nowMs: number): StepOutcome {
    const step = this.inFlight.shift();
    const reader = new StepResultReader(result);
    if (!step || reader.stepId !== step.stepId || reader.numSequences !== step.rows.length) {
      throw new Error(
        `result of step ${reader.stepId} with ${reader.numSequences} records, expected step ` +
          `${step?.stepId} with ${step?.rows.length}`,
      );
    }
    const elapsedMs = reader.elapsedMicros / 1000;
    let prefillTokens = 0;
    for (const row of step.rows) {
      if (!reader.next() || reader.slot !== row.slot || reader.sequenceId !== row.nativeId) {
        throw new Error(
          `step ${step.stepId}: record of slot ${reader.slot}, sequence ${reader.sequenceId}, ` +
            `expected slot ${row.slot}, sequence ${row.nativeId}`,
        );
      }
      prefillTokens += this.commitRow(row, reader, nowMs);
    }
    // Rows that native code dropped make the step shorter than its work: no measurement.
    if (reader.numTokens === step.numTokens) this.costModel.observe(step.work, elapsedMs);
    const outcome = {
      elapsedMs,
      numTokens: reader.numTokens,
      numSequences: step.rows.length,
      prefillTokens,
    };
    this.recycle(step);
    return outcome;
  }

  /** Full check of blocks, slots and queues; throws an Error that says what is wrong. */
  checkIntegrity(): void {
    this.manager.checkIntegrity(this.running.map((sequence) => sequence.blocks));
    const slots = new Set(this.freeSlots);
    if (slots.size !== this.freeSlots.length) throw new Error('a free slot is listed twice');
    for (const list of [this.running, this.waiting]) {
      const status = list === this.running ? 'running' : 'waiting';
      list.forEach((sequence, index) => {
        if (sequence.status !== status) {
          throw new Error(`sequence ${sequence.arrival} is ${sequence.status} among the ${status}`);
        }
        const before = list[index - 1];
        if (before && !before.ranksBefore(sequence)) throw new Error(`${status}: wrong order`);
      });
    }
    for (const sequence of this.running) this.checkRunning(sequence, slots);
    if (slots.size !== this.options.maxNumSeqs) {
      throw new Error(`${slots.size} of ${this.options.maxNumSeqs} slots are accounted for`);
    }
    for (const sequence of this.waiting) {
      if (sequence.blocks.numBlocks !== 0 || sequence.slot !== -1) {
        throw new Error(`waiting sequence ${sequence.arrival} holds blocks or a slot`);
      }
    }
  }

  private checkRunning(sequence: Sequence, slots: Set<number>): void {
    const { arrival, slot, blocks } = sequence;
    if (slots.has(slot)) throw new Error(`slot ${slot} of sequence ${arrival} is taken twice`);
    slots.add(slot);
    const covered = blocks.numBlocks * this.manager.blockSize;
    if (sequence.numComputedTokens > covered) {
      throw new Error(
        `sequence ${arrival}: ${sequence.numComputedTokens} tokens computed, ${covered} covered`,
      );
    }
    if (
      sequence.numCommittedTokens > sequence.numComputedTokens ||
      sequence.numComputedTokens > sequence.numTokens + sequence.numPendingSamples
    ) {
      throw new Error(`sequence ${arrival}: token counts out of order`);
    }
  }

  // --- planning -----------------------------------------------------------------------------

  private scheduleDecodes(step: ScheduledStep): void {
    const { candidates } = this;
    candidates.length = 0;
    for (const sequence of this.running) {
      if (!sequence.isPaused && sequence.numRemainingTokens === 1) candidates.push(sequence);
    }
    for (const sequence of candidates) {
      if (step.numTokens >= this.options.maxNumBatchedTokens) return;
      // An earlier candidate may have taken its blocks.
      if (sequence.status !== 'running') continue;
      this.manager.slide(sequence.blocks, sequence.numComputedTokens);
      if (!this.ensureBlocks(step, sequence, sequence.numComputedTokens + 1)) continue;
      step.work.decodeRows++;
      step.work.decodeContext += sequence.numComputedTokens + 1;
      this.addRow(step, sequence, 1);
    }
  }

  /** Moves waiting sequences into the running set, in rank order, until one finds no room. */
  private admit(step: ScheduledStep, nowMs: number): void {
    if (step.numTokens >= this.options.maxNumBatchedTokens) return;
    for (let i = 0; i < this.waiting.length; ) {
      const sequence = this.waiting[i]!;
      if (!this.isAdmissible(sequence, step)) {
        i++;
        continue;
      }
      const room = this.pool.numAvailable - this.reservedBlocks();
      const outcome = this.tryAdmit(sequence, room, nowMs);
      if (outcome === 'no room') {
        if (!this.preemptPaused(step)) return;
        i = 0;
      } else if (outcome === 'waits') {
        i++;
      }
    }
  }

  /** `room` is the number of blocks that nobody running will take for its prompt. */
  private tryAdmit(
    sequence: Sequence,
    room: number,
    nowMs: number,
  ): 'admitted' | 'waits' | 'no room' {
    if (this.freeSlots.length === 0) return 'no room';
    // Alone it may run however little is left: nobody else will give anything back.
    const mustFit = this.running.length > 0;
    // A look-up walks the whole prompt: not again before there is more room.
    if (mustFit && room <= sequence.roomWhenRefused) return 'no room';
    // A token's log-probability comes from the row before it, which must be computed.
    const queried = sequence.owesPromptLogprobs
      ? sequence.promptLogprobsFrom - 1
      : sequence.numTokens - 1;
    const match = this.manager.matchPrefix(sequence.blocks, sequence.tokens, queried);
    if (queried > 0 && this.prefixWaits.begin(sequence, match.numBlocks, queried, this.running)) {
      return 'waits';
    }
    const taken = this.blocksForPrompt(sequence, match.numBlocks) + match.numUnreferenced;
    if (mustFit && taken > room) {
      sequence.roomWhenRefused = room;
      return 'no room';
    }
    removeFrom(this.waiting, sequence);
    this.startRunning(sequence, match.numBlocks, nowMs, queried);
    return 'admitted';
  }

  /** A reader that is behind does not keep others from starting. */
  private preemptPaused(step: ScheduledStep): boolean {
    const paused = this.running.findLast((sequence) => sequence.isPaused);
    if (!paused) return false;
    this.preempt(step, paused);
    return true;
  }

  private isAdmissible(sequence: Sequence, step: ScheduledStep): boolean {
    if (sequence.isPaused || sequence.numPendingSamples > 0) return false;
    // Out and in within one step would only move its blocks around.
    if (sequence.preemptedStepId === step.stepId) return false;
    return !this.prefixWaits.isWaiting(sequence);
  }

  /** Blocks that running sequences will still take to finish their prompts. */
  private reservedBlocks(): number {
    let sum = 0;
    for (const sequence of this.running) {
      if (sequence.numRemainingTokens <= 1) continue;
      sum += this.manager.blocksUntil(sequence.blocks, sequence.numTokens, this.reservedChunk);
    }
    return sum;
  }

  /** Blocks to compute all of its tokens and one more, beyond the matched ones. */
  private blocksForPrompt(sequence: Sequence, numMatched: number): number {
    const { manager } = this;
    const all = manager.blocksForLength(sequence.numTokens + 1, this.reservedChunk);
    const matched = manager.blocksForLength(numMatched * manager.blockSize);
    return Math.max(0, all - matched);
  }

  private startRunning(
    sequence: Sequence,
    numMatched: number,
    nowMs: number,
    queriedTokens: number,
  ): void {
    this.manager.attachPrefix(sequence.blocks, sequence.tokens, numMatched);
    const numHitTokens = numMatched * this.manager.blockSize;
    sequence.numComputedTokens = numHitTokens;
    sequence.numCommittedTokens = numHitTokens;
    sequence.slot = this.freeSlots.pop()!;
    sequence.nativeId = this.nextNativeId;
    this.nextNativeId = nextId(this.nextNativeId);
    sequence.status = 'running';
    sequence.roomWhenRefused = -1;
    insertByRank(this.running, sequence);
    if (sequence.admittedMs !== null) return;
    sequence.admittedMs = nowMs;
    sequence.numCachedTokens = numHitTokens;
    this.listener.onAdmit(sequence, queriedTokens);
  }

  private schedulePrefills(step: ScheduledStep): void {
    const { candidates } = this;
    candidates.length = 0;
    for (const sequence of this.running) {
      if (sequence.isPaused || sequence.scheduledStepId === step.stepId) continue;
      if (sequence.numRemainingTokens > 0) candidates.push(sequence);
    }
    if (candidates.length === 0) return;
    const shortest = shortestOfBestPriority(candidates);
    const budget = {
      ms: this.prefillMs(step),
      tokens: this.options.maxNumBatchedTokens - step.numTokens,
    };
    // Half of it only where somebody of the same priority waits for the other half.
    const isShared = candidates.some((s) => s !== shortest && s.priority === shortest.priority);
    this.prefill(step, shortest, budget, isShared ? 0.5 : 1);
    for (const sequence of candidates) {
      if (sequence !== shortest) this.prefill(step, sequence, budget, 1);
    }
    // What the others could not use (their blocks or tokens ran out) goes on to the shortest.
    if (isShared) this.prefill(step, shortest, budget, 1);
  }

  /** Milliseconds this step may spend on prefill. */
  private prefillMs(step: ScheduledStep): number {
    const decodeMs = step.predictedMs;
    if (step.work.decodeRows > 0) {
      return Math.max(this.options.itlTargetMs - decodeMs, decodeMs * MIN_PREFILL_SHARE);
    }
    const fixedMs = this.costModel.fixedMs;
    return Math.max(IDLE_STEP_MS - fixedMs, fixedMs * IDLE_FIXED_MULTIPLE);
  }

  /** Gives one sequence a share of what is left of the prefill budget; extends its row if it has one. */
  private prefill(
    step: ScheduledStep,
    sequence: Sequence,
    budget: { ms: number; tokens: number },
    share: number,
  ): void {
    // It may have been preempted for one before it, or have got all it can use already.
    if (sequence.status !== 'running' || budget.tokens <= 0) return;
    const row = this.rowOf(step, sequence);
    const remaining = sequence.numRemainingTokens;
    if (row?.samples || remaining <= 0) return;
    const start = sequence.numComputedTokens;
    let chunk = this.costModel.prefillTokensWithin(budget.ms * share, start);
    if (step.work.prefillTokens === 0) chunk = Math.max(chunk, MIN_CHUNK_TOKENS);
    chunk = Math.min(chunk, remaining, Math.ceil(budget.tokens * share));
    if (chunk <= 0) return;
    if (row === null) {
      this.manager.slide(sequence.blocks, start);
      if (!this.ensureBlocks(step, sequence, start + 1)) return;
    }
    chunk = Math.min(chunk, this.manager.coverableTokens(sequence.blocks) - start);
    if (chunk <= 0) return;
    this.manager.append(sequence.blocks, start + chunk);
    budget.ms -= this.costModel.prefillMs(start, chunk);
    budget.tokens -= chunk;
    step.work.prefillTokens += chunk;
    step.work.prefillPairs += prefillPairs(start, chunk);
    if (row) this.extendRow(step, row, chunk);
    else this.addRow(step, sequence, chunk);
  }

  private addRow(step: ScheduledStep, sequence: Sequence, count: number): void {
    sequence.scheduledStepId = step.stepId;
    const row = {
      sequence,
      slot: sequence.slot,
      nativeId: sequence.nativeId,
      start: sequence.numComputedTokens,
      numTokens: 0,
      samples: false,
    };
    step.rows.push(row);
    this.extendRow(step, row, count);
  }

  private extendRow(step: ScheduledStep, row: StepRow, count: number): void {
    const { sequence } = row;
    step.numTokens += count;
    row.numTokens += count;
    sequence.numComputedTokens += count;
    const isComplete =
      sequence.numComputedTokens === sequence.numTokens + sequence.numPendingSamples;
    row.samples = isComplete && sequence.sampling.maxTokens > 0;
    if (row.samples) sequence.numPendingSamples++;
  }

  private rowOf(step: ScheduledStep, sequence: Sequence): StepRow | null {
    if (sequence.scheduledStepId !== step.stepId) return null;
    return step.rows.find((row) => row.sequence === sequence) ?? null;
  }

  // --- blocks -------------------------------------------------------------------------------

  /**
   * Makes the tables of a running sequence cover `numTokens` tokens, preempting worse-ranked ones
   * that are not in this step. False: it stays out of this step, with what it holds.
   */
  private ensureBlocks(step: ScheduledStep, sequence: Sequence, numTokens: number): boolean {
    while (!this.manager.append(sequence.blocks, numTokens)) {
      const victim = this.pickVictim(step, sequence);
      if (victim) {
        this.preempt(step, victim);
        continue;
      }
      // Somebody else's progress will free blocks, or a step in flight will complete blocks that
      // then slide out of a window of this one. If neither is there, nothing ever will.
      if (this.isAlone(sequence) && this.inFlight.length === 0) this.failForBlocks(sequence);
      return false;
    }
    return true;
  }

  /**
   * Whose blocks `sequence` may take: a paused sequence, else the worst-ranked one below it.
   * Sequences of this step are spared; null when nobody is left.
   */
  private pickVictim(step: ScheduledStep, sequence: Sequence): Sequence | null {
    let worst: Sequence | null = null;
    for (let i = this.running.length - 1; i >= 0; i--) {
      const other = this.running[i]!;
      if (other === sequence || other.scheduledStepId === step.stepId) continue;
      if (other.blocks.numBlocks === 0) continue;
      if (other.isPaused) return other;
      if (worst === null && sequence.ranksBefore(other)) worst = other;
    }
    return worst;
  }

  private isAlone(sequence: Sequence): boolean {
    return this.running.every((other) => other === sequence || other.blocks.numBlocks === 0);
  }

  private preempt(step: ScheduledStep, sequence: Sequence): void {
    this.stopRunning(sequence);
    sequence.status = 'waiting';
    sequence.preemptedStepId = step.stepId;
    sequence.numPreemptions++;
    insertByRank(this.waiting, sequence);
    this.listener.onPreempt(sequence);
  }

  /** Releases slot and blocks at once; see block-manager.ts for why that is safe in flight. */
  private stopRunning(sequence: Sequence): void {
    removeFrom(this.running, sequence);
    this.manager.release(sequence.blocks);
    if (sequence.isOpen) this.slotsToClose.push(sequence.slot);
    this.freeSlots.push(sequence.slot);
    sequence.resetProgress();
  }

  private failForBlocks(sequence: Sequence): void {
    const held = sequence.blocks.numBlocks * this.manager.numGroups;
    this.remove(sequence);
    this.numFailed++;
    const message =
      `No KV block is left for this request: it holds ${held} of ` +
      `${this.pool.numBlocks} blocks and no other request runs.`;
    this.listener.onError(sequence, new EngineError('ERR_KV_EXHAUSTED', message));
  }

  // --- results ------------------------------------------------------------------------------

  /** Returns the prompt tokens this row counts for. */
  private commitRow(row: StepRow, reader: StepResultReader, nowMs: number): number {
    const { sequence } = row;
    // Ended since it was planned: the row's outcome is nobody's.
    if (sequence.status === 'finished') return 0;
    if (reader.status !== RECORD_STATUS.ok) {
      this.failRow(sequence, reader.status);
      return 0;
    }
    const end = row.start + row.numTokens;
    const isCurrent = sequence.status === 'running' && sequence.nativeId === row.nativeId;
    if (isCurrent) sequence.numCommittedTokens = end;
    const prefillTokens = countPrefill(sequence, end);
    if (sequence.owesPromptLogprobs) this.collectPromptLogprobs(row, reader);
    if (!row.samples) {
      // Registered before anybody reacts to the event: a listener may abort the sequence.
      if (isCurrent) this.manager.register(sequence.blocks, sequence.tokens, end);
      this.commitPrefill(sequence, end);
      return prefillTokens;
    }
    this.commitSample(sequence, reader, isCurrent, nowMs);
    return prefillTokens;
  }

  private commitPrefill(sequence: Sequence, end: number): void {
    if (sequence.sampling.maxTokens === 0 && end >= sequence.numPromptTokens) {
      this.remove(sequence);
      this.listener.onFinish(sequence, 'length', null);
      return;
    }
    if (end <= sequence.reportedProgress || end > sequence.numPromptTokens) return;
    sequence.reportedProgress = end;
    this.listener.onProgress(sequence);
  }

  private commitSample(
    sequence: Sequence,
    reader: StepResultReader,
    isCurrent: boolean,
    nowMs: number,
  ): void {
    if (reader.numSampled === 0) {
      throw new Error(`sequence ${reader.sequenceId} sampled nothing`);
    }
    sequence.numPendingSamples--;
    const tokens: TokenWithLogprobs[] = [];
    let ended = null;
    for (let i = 0; i < reader.numSampled && !ended; i++) {
      const token = reader.sampledToken(i);
      tokens.push(token);
      ended = sequence.appendToken(token.tokenId);
    }
    if (isCurrent) {
      this.manager.register(sequence.blocks, sequence.tokens, sequence.numCommittedTokens);
    }
    sequence.firstTokenMs ??= nowMs;
    if (ended) this.remove(sequence);
    this.listener.onTokens(sequence, tokens);
    sequence.lastTokenMs = nowMs;
    if (ended) this.listener.onFinish(sequence, ended.reason, ended.stopTokenId);
  }

  private collectPromptLogprobs(row: StepRow, reader: StepResultReader): void {
    const { sequence } = row;
    const entries = sequence.promptLogprobs!;
    for (let i = 0; i < reader.numPromptRows; i++) {
      const position = row.start + i + 1;
      const isWanted = position >= sequence.promptLogprobsFrom && position < entries.length;
      if (isWanted) entries[position] = reader.promptToken(i);
    }
    if (row.start + row.numTokens < sequence.numPromptTokens - 1) return;
    sequence.promptLogprobsSent = true;
    this.listener.onPromptLogprobs(sequence, entries);
  }

  private failRow(sequence: Sequence, status: number): void {
    this.remove(sequence);
    const what =
      status === RECORD_STATUS.notFinite
        ? 'The model produced logits that are not finite; the sequence cannot go on.'
        : `The engine dropped the sequence's rows (status ${status}).`;
    this.listener.onError(sequence, new EngineError('ERR_INTERNAL', what));
  }

  private takeStep(): ScheduledStep {
    const step = this.spareSteps.pop() ?? {
      stepId: 0,
      words: NO_WORDS,
      rows: [],
      work: { prefillTokens: 0, decodeRows: 0, decodeContext: 0, prefillPairs: 0 },
      predictedMs: 0,
      numTokens: 0,
    };
    (step as { stepId: number }).stepId = this.nextStepId;
    // Also when nothing comes of it: marks of this attempt must not hold in the next one.
    this.nextStepId = nextId(this.nextStepId);
    step.rows.length = 0;
    step.numTokens = 0;
    step.work.prefillTokens = 0;
    step.work.decodeRows = 0;
    step.work.decodeContext = 0;
    step.work.prefillPairs = 0;
    return step;
  }

  private recycle(step: ScheduledStep): void {
    step.rows.length = 0;
    this.spareSteps.push(step);
  }
}

/** Ids are positive int32 and wrap. */
function nextId(id: number): number {
  return id === 0x7fffffff ? 1 : id + 1;
}

/** Fewest remaining tokens among the sequences of the best priority; ties go to the better rank. */
function shortestOfBestPriority(sequences: readonly Sequence[]): Sequence {
  let shortest = sequences[0]!;
  for (const sequence of sequences) {
    if (sequence.priority !== shortest.priority) break;
    if (sequence.numRemainingTokens < shortest.numRemainingTokens) shortest = sequence;
  }
  return shortest;
}

function countPrefill(sequence: Sequence, end: number): number {
  const reached = Math.min(end, sequence.numPromptTokens);
  const counted = Math.max(0, reached - sequence.numPrefillCounted);
  sequence.numPrefillCounted += counted;
  return counted;
}
