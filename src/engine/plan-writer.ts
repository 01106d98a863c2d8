/**
 * Puts a planned step into its packet: closes and opens slots, sends the changes of block tables
 * that native code has not been told of, then the rows. Decides nothing.
 */
import type { ScheduledStep, StepRow } from './scheduled-step.js';
import type { Sequence } from './sequence.js';
import { SEQUENCE_FLAG, StepPlanEncoder, TOKEN_FROM_SLOT } from './step-plan.js';

const EMPTY_HISTORY = new Int32Array(0);

export class PlanWriter {
  private readonly encoder = new StepPlanEncoder();
  private readonly vocabSize: number;
  private readonly hasWindows: boolean;

  constructor(vocabSize: number, hasWindows: boolean) {
    this.vocabSize = vocabSize;
    this.hasWindows = hasWindows;
  }

  /**
   * Encodes the step and marks as sent what it says. `slotsToClose` is emptied; `running` are all
   * sequences that hold blocks, with a row in this step or without.
   */
  write(step: ScheduledStep, slotsToClose: number[], running: readonly Sequence[]): Int32Array {
    const { encoder } = this;
    encoder.begin(step.stepId);
    // First, so that a slot closed here can be opened again in the same plan.
    for (const slot of slotsToClose) encoder.close(slot);
    slotsToClose.length = 0;
    // Drops of everybody before the first append: a block may change hands within one plan.
    if (this.hasWindows) for (const sequence of running) this.encodeDrops(sequence);
    for (const row of step.rows) {
      if (!row.sequence.isOpen) this.encodeOpen(row.sequence);
      this.encodeTables(row.sequence);
      this.encodeRow(row);
    }
    return encoder.finish();
  }

  private encodeOpen(sequence: Sequence): void {
    sequence.isOpen = true;
    const { vocabSize } = this;
    this.encoder.open({
      slot: sequence.slot,
      sequenceId: sequence.nativeId,
      numPromptTokens: sequence.numPromptTokens,
      sampling: sequence.sampling,
      stopTokenIds: sequence.sampling.stopTokenIds.filter((id) => id >= 0 && id < vocabSize),
      history: sequence.hasPenalty
        ? sequence.tokens.subarray(0, sequence.numTokens)
        : EMPTY_HISTORY,
    });
  }

  /** Also for a sequence without a row: its window may have moved before it ran out of blocks. */
  private encodeDrops(sequence: Sequence): void {
    const { blocks, slot } = sequence;
    // What native code was never told of is sent as holes.
    if (blocks.numSent === 0) return;
    for (let group = 0; group < blocks.tables.length; group++) {
      const numDropped = blocks.numDropped[group]!;
      if (blocks.numDroppedSent[group]! >= numDropped) continue;
      blocks.numDroppedSent[group] = numDropped;
      this.encoder.dropPrefix(slot, group, numDropped);
    }
  }

  private encodeTables(sequence: Sequence): void {
    const { blocks, slot } = sequence;
    if (blocks.numSent === blocks.numBlocks) return;
    for (let group = 0; group < blocks.tables.length; group++) {
      const table = blocks.tables[group]!;
      this.encoder.append(slot, group, table, blocks.numSent, blocks.numBlocks);
      if (blocks.numSent === 0) blocks.numDroppedSent[group] = blocks.numDropped[group]!;
    }
    blocks.numSent = blocks.numBlocks;
  }

  private encodeRow(row: StepRow): void {
    const { sequence, start, numTokens } = row;
    const end = start + numTokens;
    const owesPrompt =
      sequence.owesPromptLogprobs &&
      start < sequence.numPromptTokens - 1 &&
      end >= sequence.promptLogprobsFrom;
    const flags =
      (row.samples ? SEQUENCE_FLAG.sample : 0) | (owesPrompt ? SEQUENCE_FLAG.promptLogprobs : 0);
    const nextToken = owesPrompt && end < sequence.numPromptTokens ? sequence.tokens[end]! : -1;
    this.encoder.sequence(row.slot, row.nativeId, numTokens, start, flags, nextToken);
    const known = Math.min(end, sequence.numTokens);
    if (numTokens === 1 && known === end) this.encoder.pushToken(sequence.tokens[start]!);
    else if (known > start) this.encoder.pushTokens(sequence.tokens.subarray(start, known));
    for (let i = known; i < end; i++) this.encoder.pushToken(TOKEN_FROM_SLOT);
  }
}
