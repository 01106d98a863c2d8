/** Toy engines for tests: 11 blocks of 4 tokens unless said otherwise. */
import type { SchedulerListener } from '../../src/engine/scheduler.js';
import { Scheduler } from '../../src/engine/scheduler.js';
import { Sequence } from '../../src/engine/sequence.js';
import { rootHash } from '../../src/kv/block-hash.js';
import { BlockManager } from '../../src/kv/block-manager.js';
import { BlockPool } from '../../src/kv/block-pool.js';
import { PrefixCache } from '../../src/kv/prefix-cache.js';
import type { SamplingParams } from '../../src/types.js';
import { FakeNativeEngine, type FakeOptions } from './fake-native-engine.js';

export const GREEDY: SamplingParams = {
  temperature: 0,
  topP: 1,
  minP: 0,
  topK: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  seed: 0n,
  numLogprobs: -1,
  numPromptLogprobs: -1,
  logitBias: [],
  minTokens: 0,
  maxTokens: 8,
  stopTokenIds: [],
};

export const sampling = (changes: Partial<SamplingParams> = {}): SamplingParams => ({
  ...GREEDY,
  ...changes,
});

export const testRoot = (cacheSalt = ''): Uint8Array =>
  rootHash({ modelFingerprint: 'toy', cacheSalt, adapterId: -1, attentionFingerprint: '' });

/** `count` token ids counting up from `first`. */
export const counting = (count: number, first = 1): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (first + i) % 100);

export function makeManager(
  options: {
    numBlocks?: number;
    blockSize?: number;
    groupWindows?: number[];
    cache?: boolean;
  } = {},
): BlockManager {
  const { numBlocks = 11, blockSize = 4, groupWindows = [0], cache = true } = options;
  const pool = new BlockPool(numBlocks);
  const prefixCache = cache ? new PrefixCache(pool, blockSize, groupWindows.length) : null;
  return new BlockManager(pool, prefixCache, { blockSize, groupWindows });
}

/** What happened to sequences, in order, one line each. */
export interface ToyScheduler {
  scheduler: Scheduler;
  manager: BlockManager;
  native: FakeNativeEngine;
  log: string[];
  add(promptTokens: Int32Array, changes?: Partial<SamplingParams>, priority?: number): Sequence;
  /** Plans one step; rows as "arrival:start+tokens", or null. Checks integrity. */
  plan(): string | null;
  /** Runs and commits the oldest planned step. */
  finish(): Promise<void>;
  /** plan() and finish(). */
  step(): Promise<string | null>;
}

export function makeScheduler(
  options: FakeOptions & { cache?: boolean; itlTargetMs?: number } = {},
): ToyScheduler {
  const native = new FakeNativeEngine({ ...options, isManual: true });
  const { info } = native;
  const manager = makeManager({ ...info, cache: options.cache ?? true });
  const log: string[] = [];
  const note = (sequence: Sequence, text: string): void => {
    log.push(`${sequence.arrival} ${text}`);
  };
  const listener: SchedulerListener = {
    onAdmit: (s, queried) => note(s, `admit ${s.numCachedTokens}/${queried}`),
    onPreempt: (s) => note(s, 'preempt'),
    onProgress: (s) => note(s, `progress ${s.reportedProgress}`),
    onPromptLogprobs: (s, entries) => note(s, `prompt logprobs ${entries.length}`),
    onTokens: (s, tokens) => note(s, `tokens ${tokens.map((token) => token.tokenId).join(',')}`),
    onFinish: (s, reason, stop) => note(s, `finish ${reason} ${stop}`),
    onError: (s, error) => note(s, `error ${error.code}`),
  };
  const scheduler = new Scheduler(
    manager,
    { ...info, itlTargetMs: options.itlTargetMs ?? 50 },
    listener,
  );
  const results: Array<Promise<Int32Array>> = [];
  let arrival = 0;
  const toy: ToyScheduler = {
    scheduler,
    manager,
    native,
    log,
    add(promptTokens, changes, priority = 0) {
      const blocks = manager.createSequence(testRoot());
      const sequence = new Sequence({
        arrival: arrival++,
        promptTokens,
        sampling: sampling(changes),
        priority,
        blocks,
        nowMs: 0,
      });
      scheduler.add(sequence);
      return sequence;
    },
    plan() {
      const step = scheduler.schedule(0);
      scheduler.checkIntegrity();
      if (!step) return null;
      results.push(native.submit(step.words));
      return step.rows.map((r) => `${r.sequence.arrival}:${r.start}+${r.numTokens}`).join(' ');
    },
    async finish() {
      native.runNext();
      scheduler.commit(await results.shift()!, 0);
      scheduler.checkIntegrity();
    },
    async step() {
      const rows = toy.plan();
      if (rows !== null) await toy.finish();
      return rows;
    },
  };
  return toy;
}
