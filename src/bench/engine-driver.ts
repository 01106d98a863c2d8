/**
 * Drives a native engine with step plans of a benchmark's own making: what a scheduler would send,
 * without requests, text or HTTP. Sequence i holds slot i for good; its blocks are handed out as it
 * grows and are never shared, so that a batch reads as many keys and values as so many users'
 * conversations would. Going back to a lower depth is free: the positions above are simply computed
 * again, and attention never looks past a sequence's own position.
 *
 * As in the serving loop, the next plan is queued while a step runs, and a decode's next token is
 * whatever its slot sampled last. Time is taken from the first plan to the last result.
 */
import type {
  NativeEngineHandle,
  NativeEngineInfo,
  NativeEngineOptions,
  NativeModel,
} from '../binding/addon.js';
import { loadAddon } from '../binding/addon.js';
import {
  RECORD_STATUS,
  SEQUENCE_FLAG,
  StepPlanEncoder,
  StepResultReader,
  TOKEN_FROM_SLOT,
} from '../engine/step-plan.js';
import { EngineError } from '../errors.js';
import { GREEDY_SAMPLING } from '../types.js';
import { seededRandom } from './statistics.js';
import type { Workload } from './workload.js';

const BLOCK_SIZE = 32;
/** Token budget of a step, the default of `serve`. */
const STEP_TOKENS = 2048;

export interface DriverOptions {
  /** 0 is automatic. */
  threads: number;
  isaLimit: string;
  kvDtype: NativeEngineOptions['kvDtype'];
  /** Most sequences of a row, and the longest position any of them reaches. */
  maxBatch: number;
  maxLength: number;
  seed: number;
}

/** Blocks that hold `tokens` tokens of a model's every layer: native/kv/kv_layout.h's grouping. */
export function kvPoolBytes({ config }: NativeModel, tokens: number): number {
  const kinds = new Map<number, number>();
  for (const { window } of config.layers) kinds.set(window, (kinds.get(window) ?? 0) + 1);
  const layersPerBlock = Math.min(...kinds.values());
  let numGroups = 0;
  for (const count of kinds.values()) numGroups += Math.ceil(count / layersPerBlock);
  const blockBytes = BLOCK_SIZE * layersPerBlock * config.numKvHeads * config.headDim * 4;
  return Math.ceil(tokens / BLOCK_SIZE) * numGroups * blockBytes;
}

interface Row {
  slot: number;
  start: number;
  /** Null: one token, the slot's own. */
  tokens: Int32Array | null;
  sample: boolean;
}

export class EngineDriver {
  readonly info: NativeEngineInfo;
  private readonly native: NativeEngineHandle;
  private readonly random: () => number;
  private readonly encoder = new StepPlanEncoder();
  private stepId = 0;
  private nextBlock = 0;
  /** Of each slot: positions computed from 0 on, and entries of its block tables. */
  private readonly computed: number[] = [];
  private readonly numBlocks: number[] = [];

  private constructor(native: NativeEngineHandle, seed: number) {
    this.native = native;
    this.info = native.info;
    this.random = seededRandom(seed);
  }

  /** Loads a model with a pool that fits the largest row. Throws EngineError. */
  static async create(model: NativeModel, options: DriverOptions): Promise<EngineDriver> {
    const { maxBatch, maxLength } = options;
    if (maxLength > model.config.maxPosition) {
      throw new EngineError(
        'ERR_INVALID_REQUEST',
        `depth and tokens reach ${maxLength}, the model's context ends at ${model.config.maxPosition}`,
      );
    }
    const native = await loadAddon().createEngine(model, {
      backend: 'cpu',
      threads: options.threads,
      isaLimit: options.isaLimit,
      kvMemoryBytes: maxBatch * kvPoolBytes(model, maxLength),
      kvDtype: options.kvDtype,
      blockSize: BLOCK_SIZE,
      maxNumSeqs: maxBatch,
      maxNumBatchedTokens: STEP_TOKENS,
      maxModelLen: 0,
    });
    return new EngineDriver(native, options.seed);
  }

  close(): Promise<void> {
    return this.native.close();
  }

  /**
   * Seconds of one run of a row. Fills the cache to its depth first, which is not counted. Throws
   * EngineError, also when the model's logits are not finite.
   */
  async measure(workload: Workload): Promise<number> {
    const { work, prompt, generate, depth, batch } = workload;
    await this.fill(batch, depth);
    // Tokens are drawn before the clock starts.
    const prompts = work === 'decode' ? [] : this.prefillSteps(batch, depth, depth + prompt);
    const decodeStart = work === 'both' ? depth + prompt : depth;
    const decodes = work === 'prefill' ? [] : this.decodeSteps(batch, decodeStart, generate, work);
    const begin = performance.now();
    await this.run([...prompts, ...decodes]);
    return (performance.now() - begin) / 1000;
  }

  /** Computes positions below `depth` in slots [0, batch) that are not there yet. */
  private async fill(batch: number, depth: number): Promise<void> {
    for (let slot = 0; slot < batch; slot++) {
      const from = this.computed[slot] ?? 0;
      if (from < depth) await this.run(this.prefillSteps(1, from, depth, slot));
    }
  }

  /** Positions [from, end) of slots [first, first + count), packed into steps. */
  private prefillSteps(count: number, from: number, end: number, first = 0): Row[][] {
    const steps: Row[][] = [];
    let step: Row[] = [];
    let room = STEP_TOKENS;
    for (let slot = first; slot < first + count; slot++) {
      for (let at = from; at < end; ) {
        const take = Math.min(room, end - at);
        const tokens = Int32Array.from({ length: take }, () => this.randomToken());
        step.push({ slot, start: at, tokens, sample: at + take === end });
        at += take;
        room -= take;
        if (room > 0) continue;
        steps.push(step);
        step = [];
        room = STEP_TOKENS;
      }
    }
    if (step.length > 0) steps.push(step);
    return steps;
  }

  private decodeSteps(
    batch: number,
    start: number,
    count: number,
    work: Workload['work'],
  ): Row[][] {
    return Array.from({ length: count }, (_, i) =>
      Array.from({ length: batch }, (_, slot) => ({
        slot,
        start: start + i,
        // After a prefill of the same run every slot has sampled; alone, a run begins afresh.
        tokens: i === 0 && work === 'decode' ? Int32Array.of(this.randomToken()) : null,
        sample: true,
      })),
    );
  }

  private randomToken(): number {
    return Math.floor(this.random() * this.info.vocabSize);
  }

  /** Runs steps in order, one queued behind the one that runs. */
  private async run(steps: Row[][]): Promise<void> {
    let previous: Promise<void> | null = null;
    for (const rows of steps) {
      const current = this.native.submit(this.encode(rows)).then(checkResult);
      current.catch(() => {}); // awaited one step later; until then no unhandled rejection
      await previous;
      previous = current;
    }
    await previous;
  }

  private encode(rows: readonly Row[]): Int32Array {
    const { encoder } = this;
    encoder.begin(++this.stepId);
    for (const { slot, start, tokens } of rows) this.grow(slot, start + (tokens?.length ?? 1));
    for (const { slot, start, tokens, sample } of rows) {
      const flags = sample ? SEQUENCE_FLAG.sample : 0;
      encoder.sequence(slot, slot, tokens?.length ?? 1, start, flags, -1);
      if (tokens) encoder.pushTokens(tokens);
      else encoder.pushToken(TOKEN_FROM_SLOT);
    }
    return encoder.finish();
  }

  /** Opens the slot at first use and appends blocks until `length` positions have a place. */
  private grow(slot: number, length: number): void {
    if (this.numBlocks[slot] === undefined) {
      this.numBlocks[slot] = 0;
      this.encoder.open({
        slot,
        sequenceId: slot,
        numPromptTokens: 0,
        sampling: GREEDY_SAMPLING,
        stopTokenIds: [],
        history: new Int32Array(0),
      });
    }
    const missing = Math.ceil(length / BLOCK_SIZE) - this.numBlocks[slot]!;
    if (missing > 0) {
      for (let group = 0; group < this.info.groupWindows.length; group++) {
        const ids = Int32Array.from({ length: missing }, () => this.nextBlock++);
        this.encoder.append(slot, group, ids, 0, missing);
      }
      this.numBlocks[slot]! += missing;
    }
    this.computed[slot] = Math.max(this.computed[slot] ?? 0, length);
  }
}

function checkResult(words: Int32Array): void {
  const reader = new StepResultReader(words);
  while (reader.next()) {
    if (reader.status === RECORD_STATUS.ok) continue;
    throw new EngineError(
      'ERR_INTERNAL',
      `step ${reader.stepId}: sequence ${reader.sequenceId} ended with status ${reader.status} (2 = logits not finite)`,
    );
  }
}
