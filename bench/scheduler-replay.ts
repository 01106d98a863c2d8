/**
 * What a step costs in JavaScript: schedule, encode, decode and commit, with no model behind it.
 * Native code is replaced by canned results of the right shape, made outside the measured time.
 *
 *   node dist/bench/scheduler-replay.js [--sequences 64] [--steps 2000] [--context 2000] [--json]
 *
 * Prints median, 95th percentile and maximum in microseconds, for steps of decodes only and for
 * steps with a prefill chunk beside the decodes.
 */

import { cpus } from 'node:os';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { Scheduler, type SchedulerListener } from '../src/engine/scheduler.js';
import { Sequence } from '../src/engine/sequence.js';
import {
  RECORD_WORDS,
  RESULT_HEADER_WORDS,
  RESULT_MAGIC,
  SEQUENCE_FLAG,
  SEQUENCE_WORDS,
} from '../src/engine/step-plan.js';
import { rootHash } from '../src/kv/block-hash.js';
import { BlockManager } from '../src/kv/block-manager.js';
import { BlockPool } from '../src/kv/block-pool.js';
import { PrefixCache } from '../src/kv/prefix-cache.js';
import { GREEDY_SAMPLING } from '../src/types.js';

export interface ReplayOptions {
  numSequences: number;
  numSteps: number;
  contextTokens: number;
}

export interface ReplayRow {
  work: 'decode' | 'mixed';
  sequences: number;
  steps: number;
  micros: { median: number; p95: number; max: number };
}

const BLOCK_SIZE = 32;

/** A result that gives every sampling row of `plan` one token, as native code would lay it out. */
function cannedResult(plan: Int32Array): Int32Array {
  const numSequences = plan[4]!;
  let at = 16 + plan[3]!;
  const words = new Int32Array(RESULT_HEADER_WORDS + numSequences * (RECORD_WORDS + 3));
  let out = RESULT_HEADER_WORDS;
  for (let i = 0; i < numSequences; i++, at += SEQUENCE_WORDS) {
    const samples = (plan[at + 4]! & SEQUENCE_FLAG.sample) !== 0;
    words[out] = plan[at]!;
    words[out + 1] = plan[at + 1]!;
    words[out + 3] = samples ? 1 : 0;
    if (samples) words[out + RECORD_WORDS] = 1 + ((plan[2]! + i) % 1000);
    out += RECORD_WORDS + (samples ? 3 : 0);
  }
  words[0] = RESULT_MAGIC;
  words[1] = 1;
  words[2] = plan[2]!;
  words[3] = numSequences;
  words[4] = 5000;
  words[6] = plan[5]!;
  words[7] = out;
  return words.slice(0, out);
}

const QUIET: SchedulerListener = {
  onAdmit: () => {},
  onPreempt: () => {},
  onProgress: () => {},
  onPromptLogprobs: () => {},
  onTokens: () => {},
  onFinish: () => {},
  onError: (_, error) => {
    throw error;
  },
};

class Replay {
  private readonly manager: BlockManager;
  private readonly scheduler: Scheduler;
  private readonly root = rootHash({
    modelFingerprint: 'replay',
    cacheSalt: '',
    adapterId: -1,
    attentionFingerprint: '',
  });
  private arrival = 0;

  constructor(options: ReplayOptions) {
    const perSequence = Math.ceil((options.contextTokens + options.numSteps + 64) / BLOCK_SIZE);
    const numBlocks = (options.numSequences + 8) * perSequence * 2;
    const pool = new BlockPool(numBlocks);
    const windows = [0, 512];
    this.manager = new BlockManager(pool, new PrefixCache(pool, BLOCK_SIZE, windows.length), {
      blockSize: BLOCK_SIZE,
      groupWindows: windows,
    });
    this.scheduler = new Scheduler(
      this.manager,
      {
        maxNumSeqs: options.numSequences + 1,
        maxNumBatchedTokens: 2048,
        vocabSize: 50_000,
        itlTargetMs: 50,
      },
      QUIET,
    );
  }

  add(numPromptTokens: number, maxTokens: number): void {
    const arrival = this.arrival++;
    this.scheduler.add(
      new Sequence({
        arrival,
        promptTokens: Int32Array.from(
          { length: numPromptTokens },
          (_, i) => (arrival * 7 + i) % 999,
        ),
        sampling: { ...GREEDY_SAMPLING, maxTokens, stopTokenIds: [49_999] },
        priority: 0,
        blocks: this.manager.createSequence(this.root),
        nowMs: 0,
      }),
    );
  }

  get numDecoding(): number {
    return this.scheduler.running.filter((s) => s.numOutputTokens > 0).length;
  }

  /** One step; its cost in microseconds, canned result excluded. */
  step(): number {
    const begin = performance.now();
    const step = this.scheduler.schedule(begin);
    const planned = performance.now();
    if (!step) throw new Error('nothing to do');
    const result = cannedResult(step.words);
    const answered = performance.now();
    this.scheduler.commit(result, answered);
    return (planned - begin + performance.now() - answered) * 1000;
  }

  checkIntegrity(): void {
    this.scheduler.checkIntegrity();
  }
}

function summarize(work: ReplayRow['work'], sequences: number, micros: number[]): ReplayRow {
  const sorted = micros.toSorted((a, b) => a - b);
  const at = (share: number): number =>
    Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]! * 10) / 10;
  return {
    work,
    sequences,
    steps: micros.length,
    micros: { median: at(0.5), p95: at(0.95), max: at(1) },
  };
}

export function replay(options: ReplayOptions): ReplayRow[] {
  const { numSequences, numSteps, contextTokens } = options;
  const run = new Replay(options);
  for (let i = 0; i < numSequences; i++) run.add(contextTokens, 1_000_000);
  while (run.numDecoding < numSequences) run.step();
  for (let i = 0; i < Math.min(300, numSteps); i++) run.step();
  const decode = Array.from({ length: numSteps }, () => run.step());
  const mixed: number[] = [];
  for (let i = 0; i < numSteps; i++) {
    // A new prompt whenever the last one is done.
    if (run.numDecoding === numSequences) run.add(contextTokens, 1);
    mixed.push(run.step());
  }
  run.checkIntegrity();
  return [summarize('decode', numSequences, decode), summarize('mixed', numSequences, mixed)];
}

function main(): void {
  const { values } = parseArgs({
    options: {
      sequences: { type: 'string', default: '64' },
      steps: { type: 'string', default: '2000' },
      context: { type: 'string', default: '2000' },
      json: { type: 'boolean', default: false },
    },
  });
  const rows = replay({
    numSequences: Number(values.sequences),
    numSteps: Number(values.steps),
    contextTokens: Number(values.context),
  });
  const machine = `${cpus()[0]?.model ?? 'unknown'}, node ${process.version}`;
  if (values.json) {
    console.log(JSON.stringify({ machine, rows }));
    return;
  }
  console.log(machine);
  for (const { work, sequences, steps, micros } of rows) {
    console.log(
      `${work.padEnd(7)} ${sequences} sequences, ${steps} steps: median ${micros.median} µs, ` +
        `p95 ${micros.p95} µs, max ${micros.max} µs`,
    );
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) main();
