/**
 * Seeded random operations. LONGHAUL_FUZZ_SEED picks the first seed, LONGHAUL_FUZZ_RUNS how many;
 * a failure prints the seed that shows it.
 */
import t from 'tap';
import { LocalEngine } from '../../src/engine/engine.js';
import type { GenerationEvent } from '../../src/engine/engine-types.js';
import { BLOCK_STATE, BlockPool } from '../../src/kv/block-pool.js';
import type { SamplingParams } from '../../src/types.js';
import { expectedTokens, FakeNativeEngine } from '../support/fake-native-engine.js';
import { makeManager, makeScheduler, sampling, testRoot } from '../support/make-sequence.js';
import { OracleBlockPool } from '../support/oracle-block-pool.js';

const FIRST_SEED = Number(process.env.LONGHAUL_FUZZ_SEED ?? 1);
const RUNS = Number(process.env.LONGHAUL_FUZZ_RUNS ?? 60);
t.setTimeout(60_000 + RUNS * 500);

/** Mulberry32: small, seeded, good enough to shuffle tests. */
function random(seed: number): (below: number) => number {
  let state = seed | 0;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let h = Math.imul(state ^ (state >>> 15), 1 | state);
    h = (h + Math.imul(h ^ (h >>> 7), 61 | h)) ^ h;
    return ((h ^ (h >>> 14)) >>> 0) % below;
  };
}

const rerun = (seed: number): string =>
  `LONGHAUL_FUZZ_SEED=${seed} LONGHAUL_FUZZ_RUNS=1 node dist/test/fuzz/block-fuzz.test.js`;

t.test('block pool against a slow oracle', async (t) => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed++) {
    const draw = random(seed);
    const numBlocks = 1 + draw(12);
    const pool = new BlockPool(numBlocks);
    const oracle = new OracleBlockPool(numBlocks);
    const evicted: number[] = [];
    const expectedEvicted: number[] = [];
    pool.onEvict = (id) => evicted.push(id);
    oracle.onEvict = (id) => expectedEvicted.push(id);
    for (let i = 0; i < 400; i++) {
      const id = draw(numBlocks);
      const state = pool.stateOf(id);
      switch (draw(4)) {
        case 0:
          if (pool.allocate() !== oracle.allocate()) t.fail(`allocate; ${rerun(seed)}`);
          break;
        case 1:
          if (state === BLOCK_STATE.free) break;
          pool.retain(id);
          oracle.retain(id);
          break;
        case 2: {
          if (state !== BLOCK_STATE.owned) break;
          const slidOut = draw(3) === 0;
          pool.release(id, slidOut);
          oracle.release(id, slidOut);
          break;
        }
        default:
          if (state !== BLOCK_STATE.owned) break;
          pool.markContent(id);
          oracle.markContent(id);
      }
      pool.checkIntegrity();
    }
    t.strictSame(pool.blockCounts(), oracle.counts(), rerun(seed));
    t.strictSame(evicted, expectedEvicted, rerun(seed));
  }
});

t.test('block manager: random tables, hits and windows', async (t) => {
  for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed++) {
    const draw = random(seed);
    const groupWindows = [[0], [0, 6], [0, 5, 9], [7]][draw(4)]!;
    const manager = makeManager({ numBlocks: 8 + draw(30), groupWindows });
    const live: Array<{
      blocks: ReturnType<typeof manager.createSequence>;
      tokens: Int32Array;
      at: number;
    }> = [];
    for (let i = 0; i < 200; i++) {
      const pick = live[draw(Math.max(1, live.length))];
      const action = draw(5);
      if (action === 0 && live.length < 4) {
        // Two alphabets of two tokens: many prefixes in common.
        const tokens = Int32Array.from({ length: 60 }, () => (draw(12) === 0 ? 1 : 0));
        const blocks = manager.createSequence(testRoot(draw(2) === 0 ? 'a' : ''));
        const match = manager.matchPrefix(blocks, tokens, 59);
        const before = manager.pool.numAvailable;
        manager.attachPrefix(blocks, tokens, match.numBlocks);
        if (before - manager.pool.numAvailable !== match.numUnreferenced) {
          t.fail(`numUnreferenced; ${rerun(seed)}`);
        }
        live.push({ blocks, tokens, at: match.numBlocks * manager.blockSize });
      } else if (action === 1 && pick) {
        manager.release(pick.blocks);
        live.splice(live.indexOf(pick), 1);
      } else if (pick) {
        const count = 1 + draw(9);
        if (pick.at + count > 60) continue;
        manager.slide(pick.blocks, pick.at);
        const need = manager.blocksToCover(pick.blocks, pick.at + count);
        const fits = need <= manager.pool.numAvailable;
        if (manager.append(pick.blocks, pick.at + count) !== fits) t.fail(`append; ${rerun(seed)}`);
        if (fits) pick.at += count;
        if (draw(3) > 0) manager.register(pick.blocks, pick.tokens, pick.at);
      }
      manager.checkIntegrity(live.map(({ blocks }) => blocks));
    }
    for (const { blocks } of live) manager.release(blocks);
    manager.checkIntegrity([]);
    t.equal(manager.pool.numOwned, 0, rerun(seed));
  }
});

t.test('scheduler: pauses, removals, two steps in flight; never stalls', async (t) => {
  let numPreemptions = 0;
  for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed++) {
    const draw = random(seed);
    const groupWindows = [[0], [0, 6], [5]][draw(3)]!;
    const toy = makeScheduler({
      groupWindows,
      numBlocks: groupWindows.length * (6 + draw(10)),
      maxNumSeqs: 1 + draw(4),
      maxNumBatchedTokens: [8, 20, 64][draw(3)]!,
      vocabSize: 50,
      cache: draw(4) > 0,
    });
    const longest = Math.min(60, toy.manager.maxSequenceTokens);
    const live: Array<ReturnType<typeof toy.add>> = [];
    let numInFlight = 0;
    const plan = (): boolean => {
      if (numInFlight === 2) return false;
      const isPlanned = toy.plan() !== null;
      if (isPlanned) numInFlight++;
      else if (numInFlight === 0 && toy.scheduler.hasWork) t.fail(`a stall; ${rerun(seed)}`);
      return isPlanned;
    };
    const finish = async (): Promise<void> => {
      if (numInFlight === 0) return;
      numInFlight--;
      await toy.finish();
    };
    for (let i = 0; i < 150; i++) {
      const pick = live[draw(Math.max(1, live.length))];
      const action = draw(10);
      if (action === 0 && live.length < 6) {
        const numPrompt = 1 + draw(longest - 1);
        const prompt = Int32Array.from({ length: numPrompt }, (_, k) => (k * 7) % (49 + draw(2)));
        const maxTokens = 1 + draw(longest - numPrompt);
        live.push(toy.add(prompt, { maxTokens, stopTokenIds: [4] }, draw(3)));
      } else if (action === 1 && pick) pick.isPaused = !pick.isPaused;
      else if (action === 2 && pick && draw(3) === 0) toy.scheduler.remove(pick);
      else if (action < 7) plan();
      else await finish();
    }
    for (const sequence of live) sequence.isPaused = false;
    while (plan() || numInFlight > 0) await finish();
    t.equal(toy.manager.pool.numOwned, 0, `no block is left owned; ${rerun(seed)}`);
    for (const sequence of live) {
      numPreemptions += sequence.numPreemptions;
      const { numPromptTokens, sampling: params } = sequence;
      const prompt = sequence.tokens.subarray(0, numPromptTokens);
      const output = Array.from(sequence.tokens.subarray(numPromptTokens, sequence.numTokens));
      const expected = expectedTokens(prompt, params, toy.native.info).slice(0, output.length);
      t.strictSame(output, expected, rerun(seed));
    }
  }
  if (RUNS >= 60) t.ok(numPreemptions > 20, `${numPreemptions} preemptions`);
});

interface Job {
  prompt: Int32Array;
  sampling: SamplingParams;
  abortAfter: number | null;
  delay: number;
  priority: number;
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

async function runJob(
  engine: LocalEngine,
  job: Job,
): Promise<{ tokens: number[]; end: GenerationEvent }> {
  for (let i = 0; i < job.delay; i++) await turn();
  const stream = engine.submit({
    requestId: 'fuzz',
    promptTokens: job.prompt,
    sampling: job.sampling,
    priority: job.priority,
    cacheSalt: '',
    deadlineMs: null,
  });
  if (job.abortAfter !== null) {
    const turns = job.abortAfter;
    void (async () => {
      for (let i = 0; i < turns; i++) await turn();
      stream.abort();
    })();
  }
  const tokens: number[] = [];
  let end: GenerationEvent | null = null;
  for await (const event of stream) {
    if (end) throw new Error('an event after the terminal one');
    if (event.type === 'tokens') tokens.push(...event.tokens.map((token) => token.tokenId));
    if (event.type === 'finish' || event.type === 'error') end = event;
  }
  if (!end) throw new Error('no terminal event');
  return { tokens, end };
}

function makeJob(draw: (below: number) => number, kvTokens: number, bases: Int32Array[]): Job {
  const limit = Math.min(kvTokens, 120);
  const numPrompt = 1 + draw(draw(3) === 0 ? limit - 1 : Math.min(limit - 1, 20));
  const maxTokens = draw(12) === 0 ? 0 : 1 + draw(Math.min(30, limit - numPrompt));
  const base = bases[draw(bases.length)]!;
  const shared = draw(numPrompt + 1);
  const prompt = Int32Array.from({ length: numPrompt }, (_, i) =>
    i < shared ? base[i]! : draw(50),
  );
  return {
    prompt,
    sampling: sampling({
      maxTokens,
      temperature: draw(2),
      seed: BigInt(draw(1000)),
      repetitionPenalty: draw(4) === 0 ? 1.5 : 1,
      minTokens: draw(4) === 0 ? draw(maxTokens + 1) : 0,
      stopTokenIds: draw(2) === 0 ? [3, 7] : [],
      numPromptLogprobs: draw(8) === 0 ? 1 : -1,
    }),
    abortAfter: draw(4) === 0 ? draw(30) : null,
    delay: draw(25),
    priority: draw(5) === 0 ? draw(3) - 1 : 0,
  };
}

t.test('engine: whatever happens around it, a request gives what it gives alone', async (t) => {
  let numPreemptions = 0;
  let numHitTokens = 0;
  let numAborted = 0;
  let numFinished = 0;
  for (let seed = FIRST_SEED; seed < FIRST_SEED + RUNS; seed++) {
    const draw = random(seed);
    const groupWindows = [[0], [0, 6], [0, 5, 9], [7], [0, 0]][draw(5)]!;
    const native = new FakeNativeEngine({
      groupWindows,
      numBlocks: groupWindows.length * (10 + draw(30)),
      blockSize: [4, 2, 8][draw(3)]!,
      maxNumSeqs: 1 + draw(6),
      maxNumBatchedTokens: [8, 20, 64, 200][draw(4)]!,
      vocabSize: 50,
      stepMicros: ({ numTokens }) => 200 + numTokens * [1, 300, 5000][draw(3)]!,
    });
    const engine = new LocalEngine({
      native,
      options: {
        itlTargetMs: 1 + draw(60),
        maxQueueRequests: 0,
        maxQueueTokens: 0,
        prefixCache: draw(5) > 0,
        overlap: draw(3) > 0,
        check: true,
      },
      fingerprint: 'toy',
      observer: {
        onStep: () => {},
        onFirstToken: () => {},
        onToken: () => {},
        onPrefixCache: (_, hits) => {
          numHitTokens += hits;
        },
        onPreemption: () => {
          numPreemptions++;
        },
        onFinish: () => {},
      },
    });
    const bases = [0, 1].map(() => Int32Array.from({ length: 120 }, () => draw(50)));
    const jobs = Array.from({ length: 3 + draw(12) }, () =>
      makeJob(draw, engine.limits.kvTokens, bases),
    );
    const results = await Promise.all(jobs.map((job) => runJob(engine, job)));
    results.forEach(({ tokens, end }, index) => {
      const job = jobs[index]!;
      const expected = expectedTokens(job.prompt, job.sampling, native.info);
      if (end.type === 'error' && end.error.code === 'ERR_ABORTED' && job.abortAfter !== null) {
        numAborted++;
        t.strictSame(tokens, expected.slice(0, tokens.length), `aborted ${index}; ${rerun(seed)}`);
        return;
      }
      numFinished++;
      if (end.type === 'error') t.fail(`${end.error.code} ${end.error.message}; ${rerun(seed)}`);
      t.strictSame(tokens, expected, `request ${index}; ${rerun(seed)}`);
    });
    engine.checkIntegrity();
    t.equal(engine.stats().blocks.owned, 0, `no block is left owned; ${rerun(seed)}`);
    await engine.close();
  }
  t.comment({ numFinished, numAborted, numPreemptions, numHitTokens });
  if (RUNS >= 60) {
    t.ok(
      numPreemptions > 20 && numHitTokens > 200 && numAborted > 20,
      'the fuzz met what it is for',
    );
  }
});
