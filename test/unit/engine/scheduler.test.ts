import t from 'tap';
import { expectedTokens } from '../../support/fake-native-engine.js';
import { counting, makeScheduler, sampling } from '../../support/make-sequence.js';

const FULL = { groupWindows: [0], vocabSize: 100 };

t.test('one request: prompt, then token by token', async (t) => {
  const toy = makeScheduler();
  const sequence = toy.add(counting(10), { maxTokens: 3 });
  t.equal(await toy.step(), '0:0+10');
  t.strictSame(Array.from(sequence.blocks.tables[0]!.subarray(0, 3)), [0, 1, 2]);
  t.strictSame(toy.manager.pool.blockCounts(), { free: 8, owned: 3, cached: 0, moving: 0 });
  t.equal(await toy.step(), '0:10+1');
  t.equal(await toy.step(), '0:11+1');
  t.equal(await toy.step(), null);
  const tokens = expectedTokens(counting(10), sampling({ maxTokens: 3 }), FULL);
  t.strictSame(toy.log, [
    '0 admit 0/9',
    `0 tokens ${tokens[0]}`,
    `0 tokens ${tokens[1]}`,
    `0 tokens ${tokens[2]}`,
    '0 finish length null',
  ]);
  // Tokens 0 to 11 have K/V: three full blocks, kept for whoever begins alike.
  t.strictSame(toy.manager.pool.blockCounts(), { free: 8, owned: 0, cached: 3, moving: 0 });
  t.equal(toy.native.numOpenSlots, 1, 'CLOSE travels with the next plan');
  toy.add(counting(2), { maxTokens: 1 });
  t.equal(await toy.step(), '1:0+2');
  t.equal(toy.native.numOpenSlots, 1);
  t.strictSame(
    toy.native.plans.at(-1)!.operations.map((o) => `${o.type} ${o.slot}`),
    ['close 0', 'open 0', 'append 0'],
  );
});

t.test('overlapped: the next step is planned on tokens not known yet', async (t) => {
  const toy = makeScheduler();
  toy.add(counting(5), { maxTokens: 3 });
  t.equal(toy.plan(), '0:0+5');
  t.equal(toy.plan(), '0:5+1');
  t.strictSame(toy.native.plans[1]!.rows[0]!.tokens, [-1]);
  await toy.finish();
  t.equal(toy.plan(), '0:6+1');
  await toy.finish();
  t.equal(toy.plan(), null, 'the third sample is the last: its K/V would serve nobody');
  t.equal(toy.scheduler.hasWork, true);
  await toy.finish();
  t.equal(toy.log.at(-1), '0 finish length null');
  t.equal(toy.scheduler.hasWork, false);
});

t.test('overlapped: a row planned for a sequence that has just ended is discarded', async (t) => {
  const toy = makeScheduler();
  const [first] = expectedTokens(counting(5), sampling(), FULL);
  toy.add(counting(5), { stopTokenIds: [first!] });
  toy.plan();
  t.equal(toy.plan(), '0:5+1');
  await toy.finish();
  t.strictSame(toy.log.slice(-2), [`0 tokens ${first}`, `0 finish stop ${first}`]);
  t.strictSame(toy.manager.pool.blockCounts(), { free: 10, owned: 0, cached: 1, moving: 0 });
  await toy.finish();
  t.equal(toy.log.length, 3, 'nothing more is said');
});

t.test('stop tokens count only after min_tokens', async (t) => {
  const toy = makeScheduler();
  const sequence = toy.add(counting(3), { minTokens: 2, maxTokens: 5, stopTokenIds: [7] });
  t.equal(sequence.appendToken(7), null);
  t.equal(sequence.appendToken(7), null);
  t.strictSame(sequence.appendToken(7), { reason: 'stop', stopTokenId: 7 });
});

t.test('a long prompt is cut into chunks of the token budget', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 10 });
  toy.add(counting(21), { maxTokens: 2 });
  t.equal(await toy.step(), '0:0+10');
  t.equal(await toy.step(), '0:10+10');
  t.equal(await toy.step(), '0:20+1');
  t.equal(await toy.step(), '0:21+1');
  t.strictSame(toy.log.slice(0, 3), ['0 admit 0/20', '0 progress 10', '0 progress 20']);
});

t.test('a short prompt joins a long one and gets its half', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 16, numBlocks: 40 });
  toy.add(counting(60), { maxTokens: 2 });
  t.equal(await toy.step(), '0:0+16');
  toy.add(counting(6, 70), { maxTokens: 2 });
  t.equal(await toy.step(), '1:0+6 0:16+10', 'ten left for the long one');
  t.equal(await toy.step(), '1:6+1 0:26+15', 'decode first');
});

t.test('the shortest gets half, not all', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 16, numBlocks: 60 });
  toy.add(counting(80), { maxTokens: 1 });
  toy.add(counting(40, 30), { maxTokens: 1 });
  t.equal(await toy.step(), '1:0+8 0:0+8');
  t.equal(await toy.step(), '1:8+8 0:8+8');
});

t.test('priority first, then arrival', async (t) => {
  const toy = makeScheduler({ maxNumSeqs: 1 });
  toy.add(counting(4, 10), { maxTokens: 1 });
  toy.add(counting(4, 20), { maxTokens: 1 });
  toy.add(counting(4, 30), { maxTokens: 1 }, -1);
  t.equal(await toy.step(), '2:0+4');
  t.equal(await toy.step(), '0:0+4');
  t.equal(await toy.step(), '1:0+4');
});

t.test('a better priority gets the prefill budget, however short the others are', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 8, numBlocks: 30 });
  toy.add(counting(4), { maxTokens: 1 });
  toy.add(counting(40, 30), { maxTokens: 1 }, -1);
  t.equal(await toy.step(), '1:0+8');
});

t.test('prefix hits: whole blocks, at least one token is computed', async (t) => {
  const toy = makeScheduler();
  toy.add(counting(8), { maxTokens: 1 });
  await toy.step();
  toy.add(counting(8), { maxTokens: 1 });
  t.equal(await toy.step(), '1:4+4');
  toy.add(counting(9), { maxTokens: 1 });
  t.equal(await toy.step(), '2:8+1');
  t.strictSame(
    toy.log.filter((line) => line.includes('admit')),
    ['0 admit 0/7', '1 admit 4/7', '2 admit 8/8'],
  );
});

t.test('prompt logprobs: the prompt is computed, not taken from the cache', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 8 });
  toy.add(counting(8), { maxTokens: 1 });
  await toy.step();
  const sequence = toy.add(counting(10), { maxTokens: 1, numPromptLogprobs: 2 });
  t.equal(await toy.step(), '1:0+8');
  t.equal(toy.log.at(-1), '1 progress 8');
  t.equal(await toy.step(), '1:8+2');
  t.equal(sequence.promptLogprobs![0], null);
  t.strictSame(
    sequence.promptLogprobs!.slice(1).map((entry) => entry!.tokenId),
    [2, 3, 4, 5, 6, 7, 8, 9, 10],
    'the ninth comes from the chunk that ended before it',
  );
  t.equal(sequence.promptLogprobs![1]!.top.length, 2);
});

t.test('a burst on one prompt prefills once', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 8, numBlocks: 30 });
  for (let i = 0; i < 3; i++) toy.add(counting(18), { maxTokens: 4 });
  t.equal(await toy.step(), '0:0+8', 'the others wait for what it is computing');
  t.equal(await toy.step(), '0:8+8');
  t.equal(await toy.step(), '1:16+2 0:16+2 2:16+2'.split(' ').sort().join(' '));
  t.equal(toy.manager.pool.refCount(0), 3);
  t.strictSame(
    toy.log.filter((line) => line.includes('admit')),
    ['0 admit 0/17', '1 admit 16/17', '2 admit 16/17'],
  );
});

t.test('waiting for a prefix ends when the one that computes it leaves', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 8, numBlocks: 30 });
  const leader = toy.add(counting(18));
  toy.add(counting(18), { maxTokens: 1 });
  t.equal(toy.plan(), '0:0+8');
  t.equal(toy.plan(), '0:8+8', 'still waiting');
  t.strictSame(toy.scheduler.remove(leader), { slot: 0, sequenceId: 1 });
  t.equal(toy.plan(), '1:0+8', "the in-flight steps of the leader are nobody's any more");
  await toy.finish();
  await toy.finish();
  t.equal(toy.manager.pool.blockCounts().cached, 0);
  await toy.finish();
  t.equal(await toy.step(), '1:8+8');
});

t.test('a prefix in common with a shorter one: waits for the common part only', async (t) => {
  const toy = makeScheduler({ maxNumBatchedTokens: 4, numBlocks: 30 });
  toy.add(counting(40), { maxTokens: 1 });
  toy.add(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 90, 91, 92, 93, 94), { maxTokens: 1 });
  t.equal(await toy.step(), '0:0+4');
  t.equal(await toy.step(), '0:4+4');
  t.equal(await toy.step(), '1:8+2 0:8+2', 'half and half from here');
});

t.test('preemption: the worst rank goes, keeps its tokens and comes back first', async (t) => {
  const toy = makeScheduler({ numBlocks: 5, maxNumSeqs: 3, cache: false });
  toy.add(counting(7), { maxTokens: 10 });
  toy.add(counting(7, 40), { maxTokens: 10 });
  t.equal(await toy.step(), '0:0+7 1:0+7');
  t.equal(await toy.step(), '0:7+1 1:7+1', 'four blocks, both full');
  t.equal(await toy.step(), '0:8+1', 'the last block goes to the older one');
  t.notOk(toy.log.includes('1 preempt'), 'the younger one just waits with what it holds');
  t.equal(await toy.step(), '0:9+1');
  t.equal(await toy.step(), '0:10+1');
  t.equal(await toy.step(), '0:11+1');
  t.equal(await toy.step(), '0:12+1', 'now it must give way');
  t.equal(toy.log.filter((line) => line === '1 preempt').length, 1);
  t.strictSame(toy.manager.pool.blockCounts(), { free: 1, owned: 4, cached: 0, moving: 0 });
  toy.add(counting(2, 80), { maxTokens: 1 });
  t.equal(await toy.step(), '0:13+1', 'nine tokens and one to come need three blocks');
  t.equal(toy.scheduler.waiting[0]!.arrival, 1, 'ahead of the one that arrived later');
  while ((await toy.step()) !== null);
  for (const arrival of [0, 1]) {
    const tokens = toy.log
      .filter((line) => line.startsWith(`${arrival} tokens`))
      .map((line) => Number(line.split(' ')[2]));
    const prompt = counting(7, arrival === 0 ? 1 : 40);
    t.strictSame(tokens, expectedTokens(prompt, sampling({ maxTokens: 10 }), FULL));
  }
  t.equal(toy.manager.pool.numOwned, 0);
});

t.test('preempted with a sample in flight: the token still counts', async (t) => {
  const toy = makeScheduler({ numBlocks: 4, maxNumSeqs: 2, cache: false });
  toy.add(counting(7), { maxTokens: 6 });
  const young = toy.add(counting(4, 40), { maxTokens: 6 });
  t.equal(toy.plan(), '1:0+4 0:0+7');
  t.equal(toy.plan(), '0:7+1 1:4+1');
  await toy.finish();
  t.equal(toy.plan(), '0:8+1', 'takes the blocks of the younger one, whose sample is in flight');
  t.equal(young.status, 'waiting');
  t.equal(young.numPendingSamples, 1);
  await toy.finish();
  t.equal(young.numOutputTokens, 2);
  t.equal(young.numPendingSamples, 0);
  await toy.finish();
  while ((await toy.step()) !== null);
  const tokens = Array.from(young.tokens.subarray(4, young.numTokens));
  t.strictSame(tokens, expectedTokens(counting(4, 40), sampling({ maxTokens: 6 }), FULL));
});

t.test('a prompt is admitted when the whole of it fits, not before', async (t) => {
  const toy = makeScheduler({ numBlocks: 6, maxNumBatchedTokens: 8, cache: false });
  toy.add(counting(16), { maxTokens: 1 });
  toy.add(counting(8, 40), { maxTokens: 1 });
  t.equal(
    await toy.step(),
    '0:0+8',
    'two more blocks are promised to the first, two are left of three',
  );
  t.equal(await toy.step(), '0:8+8');
  t.equal(await toy.step(), '1:0+8');
});

t.test('a windowed group gives blocks back; native code is told', async (t) => {
  const toy = makeScheduler({ groupWindows: [0, 4], numBlocks: 20, maxNumBatchedTokens: 8 });
  toy.add(counting(17), { maxTokens: 1 });
  t.equal(await toy.step(), '0:0+8');
  t.equal(await toy.step(), '0:8+8');
  t.strictSame(
    toy.native.plans[1]!.operations.filter((operation) => operation.type === 'dropPrefix'),
    [{ type: 'dropPrefix', slot: 0, group: 1, count: 1 }],
  );
  t.equal(await toy.step(), '0:16+1');
  t.strictSame(
    toy.native.plans[2]!.operations.filter((operation) => operation.type === 'dropPrefix'),
    [{ type: 'dropPrefix', slot: 0, group: 1, count: 3 }],
  );
});

t.test('a hit in a windowed model sends holes', async (t) => {
  const toy = makeScheduler({ groupWindows: [0, 4], numBlocks: 30 });
  toy.add(counting(16), { maxTokens: 1 });
  await toy.step();
  toy.add(counting(20), { maxTokens: 1 });
  t.equal(await toy.step(), '1:16+4');
  const appended = toy.native.plans[1]!.operations.filter((o) => o.type === 'append');
  t.strictSame(
    appended.map((o) => o.blockIds),
    [
      [0, 2, 4, 6, 8],
      [-1, -1, -1, 7, 9],
    ],
  );
});

t.test('alone and still no block: ERR_KV_EXHAUSTED', async (t) => {
  const toy = makeScheduler();
  toy.add(counting(60), { maxTokens: 1 });
  t.equal(await toy.step(), '0:0+44', 'eleven blocks');
  t.equal(await toy.step(), null);
  t.equal(toy.log.at(-1), '0 error ERR_KV_EXHAUSTED');
  t.equal(toy.manager.pool.numOwned, 0);
});

t.test('whoever fails for blocks leaves them to the next in the same round', async (t) => {
  const toy = makeScheduler({ maxNumSeqs: 1 });
  toy.add(counting(60), { maxTokens: 1 });
  toy.add(counting(3, 80), { maxTokens: 1 });
  await toy.step();
  t.equal(await toy.step(), '1:0+3');
  t.ok(toy.log.includes('0 error ERR_KV_EXHAUSTED'));
});

t.test('chunks follow measured time: prefill stays within what decode can bear', async (t) => {
  const toy = makeScheduler({
    numBlocks: 4000,
    maxNumBatchedTokens: 4096,
    maxModelLen: 20_000,
    itlTargetMs: 40,
    cache: false,
    // Half a millisecond a token and two for a step.
    stepMicros: ({ numTokens }) => 2000 + 500 * numTokens,
  });
  // A small window of attention keeps the fake fast; costs do not depend on it.
  toy.add(counting(3), { maxTokens: 500 });
  await toy.step();
  toy.add(counting(4000, 5), { maxTokens: 1 });
  const chunks: number[] = [];
  for (let i = 0; i < 40; i++) {
    const rows = (await toy.step())!;
    const chunk = /1:\d+\+(\d+)/.exec(rows);
    if (chunk) chunks.push(Number(chunk[1]));
    t.match(rows, /^0:\d+\+1/, 'the decode row is in every step');
  }
  const settled = chunks.slice(20, -1);
  for (const chunk of settled) {
    t.ok(
      chunk >= 64 && chunk <= 76,
      `${chunk} tokens: (40 − 2.5) ms at 0.5 ms each, less what the model is off by`,
    );
  }
});

t.test('when nobody decodes a step stays near 200 ms', async (t) => {
  const toy = makeScheduler({
    numBlocks: 4000,
    maxNumBatchedTokens: 4096,
    maxModelLen: 20_000,
    cache: false,
    stepMicros: ({ numTokens }) => 2000 + 500 * numTokens,
  });
  toy.add(counting(3000), { maxTokens: 1 });
  const chunks: number[] = [];
  for (let rows = await toy.step(); rows !== null; rows = await toy.step()) {
    chunks.push(Number(rows.split('+')[1]));
  }
  t.equal(chunks[0], 198, 'before any measurement: a millisecond a token');
  for (const chunk of chunks.slice(3, -1)) t.ok(chunk > 340 && chunk < 420, `${chunk} tokens`);
});

t.test('a paused sequence does not run and gives way when others need its place', async (t) => {
  const toy = makeScheduler({ maxNumSeqs: 1 });
  const slow = toy.add(counting(4), { maxTokens: 4 });
  await toy.step();
  slow.isPaused = true;
  t.equal(await toy.step(), null);
  t.equal(toy.scheduler.hasWork, false);
  toy.add(counting(4, 50), { maxTokens: 1 });
  t.equal(await toy.step(), '1:0+4');
  t.ok(toy.log.includes('0 preempt'));
  slow.isPaused = false;
  t.equal(await toy.step(), '0:4+1', 'its first block was still cached');
});

t.test('removal: blocks fall at once, in-flight content stays out of the cache', async (t) => {
  const toy = makeScheduler();
  const sequence = toy.add(counting(9));
  const waiting = toy.add(counting(30, 40));
  t.equal(toy.plan()?.includes('0:0+9'), true);
  t.strictSame(toy.scheduler.remove(sequence), { slot: 0, sequenceId: 1 });
  toy.scheduler.checkIntegrity();
  toy.scheduler.remove(waiting);
  t.strictSame(toy.manager.pool.blockCounts(), { free: 11, owned: 0, cached: 0, moving: 0 });
  await toy.finish();
  t.strictSame(toy.manager.pool.blockCounts(), { free: 11, owned: 0, cached: 0, moving: 0 });
  t.equal(toy.scheduler.remove(sequence), null, 'idempotent');
  const never = toy.add(counting(3));
  t.equal(toy.scheduler.remove(never), null, 'native code never heard of it');
});

t.test('logits that are not finite end the sequence', async (t) => {
  const toy = makeScheduler();
  toy.native.notFinite.add(1);
  toy.add(counting(4));
  await toy.step();
  t.equal(toy.log.at(-1), '0 error ERR_INTERNAL');
  t.equal(toy.manager.pool.numOwned, 0);
});

t.test('max_tokens 0 computes the prompt and samples nothing', async (t) => {
  const toy = makeScheduler();
  toy.add(counting(6), { maxTokens: 0 });
  t.equal(await toy.step(), '0:0+6');
  t.equal(toy.native.plans[0]!.rows[0]!.flags, 0);
  t.equal(toy.log.at(-1), '0 finish length null');
});

t.test('a result of another step is refused', async (t) => {
  const toy = makeScheduler();
  toy.add(counting(6));
  const step = toy.scheduler.schedule(0)!;
  const result = toy.native.submit(step.words);
  toy.native.runNext();
  const words = (await result).slice();
  words[2]! += 1;
  t.throws(() => toy.scheduler.commit(words, 0), /result of step 2 .* expected step 1/);
});

t.test(
  'penalties: history travels with OPEN, after a preemption with the output in it',
  async (t) => {
    const toy = makeScheduler({ maxNumSeqs: 1 });
    const sequence = toy.add(counting(5), { maxTokens: 4, repetitionPenalty: 1.5 });
    await toy.step();
    await toy.step();
    sequence.isPaused = true;
    toy.add(counting(3, 60), { maxTokens: 1 });
    await toy.step();
    sequence.isPaused = false;
    await toy.step();
    const opens = toy.native.plans.flatMap((p) => p.operations).filter((o) => o.type === 'open');
    t.strictSame(
      opens.map((o) => o.history.length),
      [5, 0, 7],
    );
    while ((await toy.step()) !== null);
    t.strictSame(
      Array.from(sequence.tokens.subarray(5, sequence.numTokens)),
      expectedTokens(counting(5), sampling({ maxTokens: 4, repetitionPenalty: 1.5 }), FULL),
    );
  },
);
