/**
 * llama.cpp as a child of bench/compare.ts, through the npm package node-llama-cpp, which carries
 * llama.cpp built for many processors and loads the variant that fits.
 *
 * Batches go straight to llama_decode by the package's own binding, as llama-bench does it: no
 * sampling, no queue. The settings:
 *   package         file URL of the installed package's entry
 *   flashAttention  on | off
 *   kv              F16, BF16 or Q8_0
 */

import { seededRandom } from '../../src/bench/statistics.js';
import type { Workload } from '../../src/bench/workload.js';
import { type PeerSetup, servePeer } from './protocol.js';

/** The parts of the package used here; version 3. */
interface Package {
  getLlama(options: object): Promise<{
    systemInfo: string;
    loadModel(options: object): Promise<Model>;
  }>;
}
interface Model {
  fileInsights: { swaSize?: number };
  fileInfo: { metadata: { tokenizer: { ggml: { tokens: readonly string[] } } } };
  createContext(options: object): Promise<{ _ctx: Context }>;
}
/** dist/bindings/AddonTypes.d.ts of the package. */
interface Context {
  initBatch(size: number): void;
  addToBatch(
    sequence: number,
    firstPosition: number,
    tokens: Uint32Array,
    logitIndexes: Uint32Array,
  ): Uint32Array;
  decodeBatch(): Promise<void>;
  disposeSequence(sequence: number): void;
  removeTokenCellsFromSequence(sequence: number, start: number, end: number): boolean;
  getThreads(): number;
}

/** llama-bench's default for both the batch and the micro-batch. */
const BATCH_TOKENS = 512;

class LlamaDriver {
  /** Positions of each sequence that are in the cache. */
  private readonly computed: number[] = [];

  constructor(
    private readonly context: Context,
    private readonly vocabSize: number,
    private readonly random: () => number,
    /** Windowed layers keep only their window: going back means starting over. */
    private readonly windowed: boolean,
  ) {}

  async measure({ work, prompt, generate, depth, batch }: Workload): Promise<number> {
    for (let sequence = 0; sequence < batch; sequence++) await this.moveTo(sequence, depth);
    const decodeStart = work === 'both' ? depth + prompt : depth;
    const begin = performance.now();
    if (work !== 'decode') await this.prefill(0, batch, depth, depth + prompt);
    if (work !== 'prefill') {
      for (let i = 0; i < generate; i++) await this.decode(batch, decodeStart + i);
    }
    return (performance.now() - begin) / 1000;
  }

  private async moveTo(sequence: number, depth: number): Promise<void> {
    let have = this.computed[sequence] ?? 0;
    if (have > depth) {
      const removed =
        !this.windowed && this.context.removeTokenCellsFromSequence(sequence, depth, -1);
      if (!removed) this.context.disposeSequence(sequence);
      have = removed ? depth : 0;
    }
    if (have < depth) await this.prefill(sequence, 1, have, depth);
    this.computed[sequence] = depth;
  }

  /** Positions [from, end) of sequences [first, first + count), in batches of 512 tokens. */
  private async prefill(first: number, count: number, from: number, end: number): Promise<void> {
    let room = 0;
    let pending = 0;
    const left = count * (end - from);
    for (let sequence = first, done = 0; sequence < first + count; sequence++) {
      for (let at = from; at < end; ) {
        if (room === 0) {
          if (pending > 0) await this.context.decodeBatch();
          room = Math.min(BATCH_TOKENS, left - done);
          this.context.initBatch(room);
          pending = 0;
        }
        const take = Math.min(room, end - at);
        const last = at + take === end ? Uint32Array.of(take - 1) : new Uint32Array(0);
        this.context.addToBatch(sequence, at, this.tokens(take), last);
        at += take;
        room -= take;
        pending += take;
        done += take;
      }
      this.computed[sequence] = end;
    }
    if (pending > 0) await this.context.decodeBatch();
  }

  private async decode(batch: number, position: number): Promise<void> {
    this.context.initBatch(batch);
    for (let sequence = 0; sequence < batch; sequence++) {
      this.context.addToBatch(sequence, position, this.tokens(1), Uint32Array.of(0));
      this.computed[sequence] = position + 1;
    }
    await this.context.decodeBatch();
  }

  private tokens(count: number): Uint32Array {
    return Uint32Array.from({ length: count }, () => Math.floor(this.random() * this.vocabSize));
  }
}

const setup = JSON.parse(process.argv[2]!) as PeerSetup;
const { settings } = setup;
const { getLlama } = (await import(settings.package!)) as Package;
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  progressLogs: false,
  logLevel: 'error',
  maxThreads: setup.threads,
});
const model = await llama.loadModel({ modelPath: setup.modelPath, gpuLayers: 0 });
const { _ctx: context } = await model.createContext({
  sequences: setup.maxBatch,
  contextSize: setup.maxLength,
  batchSize: BATCH_TOKENS,
  threads: setup.threads,
  flashAttention: settings.flashAttention === 'on',
  experimentalKvCacheKeyType: settings.kv,
  experimentalKvCacheValueType: settings.kv,
  swaFullCache: false,
  ignoreMemorySafetyChecks: true,
});
const driver = new LlamaDriver(
  context,
  model.fileInfo.metadata.tokenizer.ggml.tokens.length,
  seededRandom(setup.seed),
  (model.fileInsights.swaSize ?? 0) > 0,
);
const extensions = [...llama.systemInfo.matchAll(/(\w+) = 1/g)].map((match) => match[1]);
await servePeer(
  {
    version: settings.version ?? 'unknown',
    isa: extensions.join(' '),
    threads: context.getThreads(),
  },
  async ({ workload }) => ({ seconds: await driver.measure(workload) }),
);
process.exit(0);
