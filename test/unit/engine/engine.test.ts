import t from 'tap';
import { LocalEngine, type LocalEngineOptions } from '../../../src/engine/engine.js';
import type {
  EngineObserver,
  GenerationEvent,
  GenerationRequest,
  GenerationStream,
} from '../../../src/engine/engine-types.js';
import { decodeStepPlan } from '../../../src/engine/step-plan.js';
import { EngineError } from '../../../src/errors.js';
import type { SamplingParams } from '../../../src/types.js';
import {
  expectedLogprob,
  expectedTokens,
  FakeNativeEngine,
  type FakeOptions,
} from '../../support/fake-native-engine.js';
import { counting, sampling } from '../../support/make-sequence.js';

interface Toy {
  engine: LocalEngine;
  native: FakeNativeEngine;
  calls: string[];
}

function makeEngine(fake: FakeOptions = {}, options: Partial<LocalEngineOptions> = {}): Toy {
  const native = new FakeNativeEngine(fake);
  const calls: string[] = [];
  const observer: EngineObserver = {
    onStep: (step) =>
      calls.push(`step ${step.numTokens} ${step.numSequences} ${step.prefillTokens}`),
    onFirstToken: () => calls.push('first'),
    onToken: (_, count) => calls.push(`token ${count}`),
    onPrefixCache: (queried, hits) => calls.push(`cache ${hits}/${queried}`),
    onPreemption: () => calls.push('preempt'),
    onFinish: ({ reason, maxTokens }) => calls.push(`finish ${reason} ${maxTokens}`),
  };
  const engine = new LocalEngine({
    native,
    options: {
      itlTargetMs: 50,
      maxQueueRequests: 0,
      maxQueueTokens: 0,
      prefixCache: true,
      overlap: true,
      check: true,
      ...options,
    },
    fingerprint: 'toy',
    observer,
  });
  return { engine, native, calls };
}

const request = (
  promptTokens: Int32Array,
  changes: Partial<SamplingParams> = {},
  more: Partial<GenerationRequest> = {},
): GenerationRequest => ({
  requestId: 'r',
  promptTokens,
  sampling: sampling(changes),
  priority: 0,
  cacheSalt: '',
  deadlineMs: null,
  ...more,
});

async function collect(stream: GenerationStream): Promise<GenerationEvent[]> {
  const events: GenerationEvent[] = [];
  for await (const event of stream) events.push(event);
  return events;
}

const tokensOf = (events: GenerationEvent[]): number[] =>
  events.flatMap((event) => (event.type === 'tokens' ? event.tokens.map((x) => x.tokenId) : []));

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const turns = async (count: number): Promise<void> => {
  for (let i = 0; i < count; i++) await turn();
};

const codeOf = (call: () => unknown): EngineError => {
  try {
    call();
  } catch (error) {
    return error as EngineError;
  }
  throw new Error('nothing was thrown');
};

for (const overlap of [false, true]) {
  t.test(`a request from submit to finish, overlap ${overlap}`, async (t) => {
    const { engine, calls, native } = makeEngine({}, { overlap });
    const stream = engine.submit(request(counting(6), { maxTokens: 3 }));
    t.equal(engine.stats().numWaiting, 1);
    t.equal(engine.stats().waitingTokens, 6);
    t.equal(engine.stats().hasWork, true);
    const events = await collect(stream);
    t.strictSame(
      tokensOf(events),
      expectedTokens(counting(6), sampling({ maxTokens: 3 }), native.info),
    );
    const last = events.at(-1)!;
    if (last.type !== 'finish') throw new Error(last.type);
    t.equal(last.reason, 'length');
    t.equal(last.stopTokenId, null);
    t.strictSame(last.usage, { promptTokens: 6, completionTokens: 3, cachedTokens: 0 });
    for (const ms of Object.values(last.timings)) t.ok(ms !== null && ms >= 0);
    t.strictSame(calls, [
      'cache 0/5',
      'first',
      'step 6 1 6',
      'token 1',
      'step 1 1 0',
      'token 1',
      'finish length 3',
      'step 1 1 0',
    ]);
    const stats = engine.stats();
    t.equal(stats.stepCount, 3);
    t.equal(stats.hasWork, false);
    t.ok(stats.prefillTokensPerSecond! > 0);
    t.strictSame(stats.blocks, { free: 9, owned: 0, cached: 2, moving: 0 });
    engine.checkIntegrity();
    await engine.close();
    t.ok(native.isClosed);
  });
}

t.test('a stop token ends the sequence and is its last token', async (t) => {
  const { engine, native, calls } = makeEngine();
  const all = expectedTokens(counting(6), sampling(), native.info);
  const stop = all[2]!;
  const at = all.indexOf(stop);
  const events = await collect(
    engine.submit(request(counting(6), { stopTokenIds: [stop, 1 << 20] })),
  );
  t.strictSame(tokensOf(events), all.slice(0, at + 1));
  t.match(events.at(-1), { type: 'finish', reason: 'stop', stopTokenId: stop });
  t.ok(calls.includes('finish stop 8'));
  const open = native.plans[0]!.operations[0]!;
  t.match(
    open,
    { type: 'open', sampling: { stopTokenIds: [stop] } },
    'ids outside the vocabulary stay here',
  );
  await engine.close();
});

t.test('prompt logprobs come first, logprobs with the tokens', async (t) => {
  const { engine } = makeEngine({ maxNumBatchedTokens: 4 });
  const events = await collect(
    engine.submit(request(counting(6), { maxTokens: 1, numPromptLogprobs: 0, numLogprobs: 2 })),
  );
  t.strictSame(
    events.map((event) => event.type),
    ['progress', 'promptLogprobs', 'tokens', 'finish'],
  );
  const [progress, prompt, tokens] = events;
  t.strictSame(progress, { type: 'progress', computed: 4, total: 6 });
  if (prompt?.type !== 'promptLogprobs' || tokens?.type !== 'tokens') throw new Error('types');
  t.equal(prompt.entries.length, 6);
  t.equal(prompt.entries[0], null);
  t.strictSame(prompt.entries[5], {
    tokenId: 6,
    logprob: expectedLogprob(6, 4),
    rank: 2,
    top: [],
  });
  t.equal(tokens.tokens[0]!.top.length, 2);
  await engine.close();
});

t.test('prompt logprobs from a position on: what lies before comes from the cache', async (t) => {
  const { engine, calls } = makeEngine({ blockSize: 4, numBlocks: 20, maxNumBatchedTokens: 4 });
  await collect(engine.submit(request(counting(9), { maxTokens: 0 })));
  const whole = await collect(
    engine.submit(request(counting(14), { maxTokens: 1, numPromptLogprobs: 1 })),
  );
  const asked = { maxTokens: 1, numPromptLogprobs: 1 };
  for (const [from, cached] of [
    [1, 0],
    [4, 0],
    [5, 4],
    [9, 8],
    [12, 8],
    [13, 12],
    [14, 12],
  ] as const) {
    const events = await collect(
      engine.submit(request(counting(14), asked, { promptLogprobsFrom: from })),
    );
    const entriesOf = (list: GenerationEvent[]) =>
      list.flatMap((event) => (event.type === 'promptLogprobs' ? event.entries : []));
    t.strictSame(
      entriesOf(events),
      entriesOf(whole).map((entry, i) => (i < from ? null : entry)),
      `from ${from}`,
    );
    t.match(events.at(-1), { type: 'finish', usage: { cachedTokens: cached } });
    t.ok(calls.includes(`cache ${cached}/${from - 1}`));
  }
  for (const from of [0, 15, 1.5]) {
    const wrong = request(counting(14), asked, { promptLogprobsFrom: from });
    t.match(
      codeOf(() => engine.submit(wrong)),
      {
        code: 'ERR_INVALID_REQUEST',
        param: 'promptLogprobsFrom',
      },
    );
  }
  await engine.close();
});

t.test('refusals: lengths', async (t) => {
  const { engine } = makeEngine({ maxModelLen: 32 });
  const tooLong = codeOf(() => engine.submit(request(counting(30), { maxTokens: 3 })));
  t.equal(tooLong.code, 'ERR_CONTEXT_TOO_LONG');
  t.equal(
    tooLong.message,
    'The context holds 32 tokens, the request has 30 in the prompt and 3 to generate.',
  );
  t.equal(tooLong.param, 'max_tokens');
  const until = { maxTokens: Number.POSITIVE_INFINITY };
  t.equal(codeOf(() => engine.submit(request(counting(32), until))).param, 'prompt');
  const events = await collect(engine.submit(request(counting(30), until)));
  t.equal(tokensOf(events).length, 2, 'until the context is full');
  await engine.close();
  const small = makeEngine({ maxModelLen: 1000 });
  t.equal(small.engine.limits.kvTokens, 44);
  const error = codeOf(() => small.engine.submit(request(counting(40), { maxTokens: 5 })));
  t.equal(error.code, 'ERR_CONTEXT_TOO_LONG');
  t.match(error.message, /KV memory holds 44 tokens, the request has 40 .* 5 to generate/);
  const whole = await collect(small.engine.submit(request(counting(40), { maxTokens: 4 })));
  t.equal(tokensOf(whole).length, 4, 'the pool to its last token');
  await small.engine.close();
});

t.test('kvTokens: windows make room for longer sequences', async (t) => {
  const { engine } = makeEngine({ groupWindows: [0, 6], numBlocks: 23 });
  t.equal(engine.limits.kvTokens, 80, '20 blocks of full attention, 3 of the window');
  await engine.close();
});

t.test('refusals: values native code would not take', async (t) => {
  const { engine } = makeEngine();
  const bad: Array<[Partial<SamplingParams>, string]> = [
    [{ temperature: Number.NaN }, 'temperature'],
    [{ temperature: -1 }, 'temperature'],
    [{ topP: 1.5 }, 'topP'],
    [{ topK: 1.5 }, 'topK'],
    [{ repetitionPenalty: 0 }, 'repetitionPenalty'],
    [{ frequencyPenalty: Number.POSITIVE_INFINITY }, 'frequencyPenalty'],
    [{ numLogprobs: 1000 }, 'numLogprobs'],
    [{ minTokens: -1 }, 'minTokens'],
    [{ maxTokens: -1 }, 'maxTokens'],
    [{ maxTokens: 1.5 }, 'maxTokens'],
    [{ logitBias: [[100, 1]] }, 'logitBias'],
    [{ logitBias: [[1, Number.NaN]] }, 'logitBias'],
  ];
  for (const [changes, field] of bad) {
    const error = codeOf(() => engine.submit(request(counting(3), changes)));
    t.equal(error.code, 'ERR_INVALID_REQUEST', field);
    t.equal(error.param, field);
  }
  t.equal(codeOf(() => engine.submit(request(new Int32Array(0)))).code, 'ERR_INVALID_REQUEST');
  t.equal(codeOf(() => engine.submit(request(Int32Array.of(1, 100)))).param, 'prompt[1]');
  t.equal(codeOf(() => engine.submit(request(Int32Array.of(-1)))).param, 'prompt[0]');
  t.equal(engine.stats().numWaiting, 0);
  await engine.close();
});

t.test('a full queue: in requests and in tokens', async (t) => {
  const { engine } = makeEngine(
    { maxNumSeqs: 1, stepMicros: () => 1_000_000, numBlocks: 40 },
    { maxQueueRequests: 2, maxQueueTokens: 30 },
  );
  const running = collect(engine.submit(request(counting(20), { maxTokens: 2 })));
  await turn();
  const first = collect(engine.submit(request(counting(20, 30), { maxTokens: 1 })));
  const full = codeOf(() => engine.submit(request(counting(11), { maxTokens: 1 })));
  t.equal(full.code, 'ERR_QUEUE_FULL');
  t.match(full.message, /31 prompt tokens would wait, the limit is 30/);
  t.equal(full.retryAfterSeconds, 1, 'nothing measured yet');
  const second = collect(engine.submit(request(counting(10, 60), { maxTokens: 1 })));
  t.match(
    codeOf(() => engine.submit(request(counting(1)))).message,
    /2 requests wait, the limit is 2/,
  );
  await running;
  // 20 tokens took a second; now up to 30 wait.
  t.equal(engine.stats().prefillTokensPerSecond, 20);
  const third = collect(engine.submit(request(counting(10, 70), { maxTokens: 1 })));
  const retry = codeOf(() => engine.submit(request(counting(10, 80))));
  t.equal(retry.code, 'ERR_QUEUE_FULL');
  t.ok(
    retry.retryAfterSeconds! >= 1 && retry.retryAfterSeconds! <= 2,
    String(retry.retryAfterSeconds),
  );
  await Promise.all([first, second, third]);
  // Longer than the token limit, but nobody waits.
  t.equal(
    (await collect(engine.submit(request(counting(60), { maxTokens: 1 })))).at(-1)!.type,
    'finish',
  );
  await engine.close();
});

t.test('abort in the queue, in prefill and in decode: owned falls at once', async (t) => {
  const { engine, native, calls } = makeEngine({
    isManual: true,
    maxNumSeqs: 1,
    maxNumBatchedTokens: 8,
  });
  const stream = engine.submit(request(counting(12)));
  const queued = engine.submit(request(counting(12)));
  await turn();
  t.equal(engine.stats().blocks.owned, 3, 'two steps are planned');
  queued.abort();
  queued.abort();
  t.match(
    (await collect(queued)).map((e) => e.type),
    ['error'],
  );
  t.strictSame(native.aborts, [], 'native code never heard of it');
  stream.abort();
  t.equal(engine.stats().blocks.owned, 0);
  t.strictSame(native.aborts, [{ slot: 0, sequenceId: 1 }]);
  const [end] = await collect(stream);
  if (end?.type !== 'error') throw new Error('no error');
  t.equal(end.error.code, 'ERR_ABORTED');
  t.strictSame(end.usage, { promptTokens: 12, completionTokens: 0, cachedTokens: 0 });
  t.strictSame(
    calls.filter((c) => c.startsWith('finish')),
    ['finish abort 8', 'finish abort 8'],
  );

  const decoding = engine.submit(request(counting(4, 50), { maxTokens: 20 }));
  const reading = collect(decoding);
  for (let i = 0; i < 6; i++) {
    await turn();
    native.runNext();
  }
  await turn();
  t.equal(engine.stats().blocks.owned > 0, true);
  decoding.abort('stop');
  t.equal(engine.stats().blocks.owned, 0);
  const events = await reading;
  t.ok(tokensOf(events).length >= 2);
  t.equal(events.filter((event) => event.type === 'error').length, 1);
  t.equal(calls.at(-1), 'finish stop 20', 'a stop string is no abort to the observer');
  while (native.runNext()) await turn();
  engine.checkIntegrity();
  await engine.close();
});

t.test('leaving the loop early aborts', async (t) => {
  const { engine } = makeEngine();
  const stream = engine.submit(request(counting(4), { maxTokens: 30 }));
  for await (const event of stream) if (event.type === 'tokens') break;
  t.strictSame(engine.stats().blocks.owned, 0);
  t.strictSame(await collect(stream), [], 'the stream is over');
  await engine.close();
});

t.test('a deadline ends a request wherever it is', async (t) => {
  const { engine } = makeEngine({ isManual: true, maxNumSeqs: 1 });
  const keepAlive = setTimeout(() => {}, 60_000);
  const passed = engine.submit(request(counting(4), {}, { deadlineMs: Date.now() - 1 }));
  const soon = engine.submit(request(counting(4), {}, { deadlineMs: Date.now() + 20 }));
  for (const stream of [passed, soon]) {
    const events = await collect(stream);
    t.match(events, [{ type: 'error', error: { code: 'ERR_DEADLINE' } }]);
  }
  clearTimeout(keepAlive);
  t.equal(engine.stats().blocks.owned, 0);
  t.equal(
    codeOf(() => engine.submit(request(counting(4), {}, { deadlineMs: Number.NaN }))).code,
    'ERR_INVALID_REQUEST',
  );
  await engine.close();
});

t.test('a native failure ends every stream and every later submit', async (t) => {
  const { engine, native, calls } = makeEngine({ maxNumSeqs: 1 });
  const streams = [0, 10, 20].map((first) =>
    engine.submit(request(counting(5, first), { maxTokens: 9 })),
  );
  const all = Promise.all(streams.map(collect));
  await turns(3);
  native.failNext = new EngineError('ERR_DEVICE', 'the device is gone');
  for (const events of await all) {
    t.match(events.at(-1), { type: 'error', error: { code: 'ERR_DEVICE' } });
    t.equal(events.filter((event) => event.type === 'error').length, 1);
  }
  t.equal(engine.stats().failed!.code, 'ERR_DEVICE');
  t.equal(engine.stats().hasWork, false);
  t.equal(codeOf(() => engine.submit(request(counting(3)))).code, 'ERR_DEVICE');
  t.equal(calls.filter((call) => call.startsWith('finish error')).length, 3);
  await engine.drain(1000);
  await engine.close();
});

t.test('a failure is reported once, with the plan that failed', async (t) => {
  const native = new FakeNativeEngine();
  const reports: Array<[string, number | undefined]> = [];
  const engine = new LocalEngine({
    native,
    options: {
      itlTargetMs: 50,
      maxQueueRequests: 0,
      maxQueueTokens: 0,
      prefixCache: true,
      overlap: true,
      check: true,
    },
    fingerprint: 'toy',
    observer: null,
    onFailure: (error, plan) => reports.push([error.code, plan ? decodeStepPlan(plan).stepId : -1]),
  });
  native.failNext = new EngineError('ERR_DEVICE', 'gone');
  await collect(engine.submit(request(counting(3))));
  await turns(5);
  t.strictSame(reports, [['ERR_DEVICE', 1]]);
  await engine.close();
});

t.test("a refused plan is our fault, not the request's", async (t) => {
  const { engine, native } = makeEngine();
  native.failNext = new EngineError('ERR_INVALID_REQUEST', 'step plan word 3: …');
  const events = await collect(engine.submit(request(counting(3))));
  t.match(events, [{ type: 'error', error: { code: 'ERR_INTERNAL', message: /word 3/ } }]);
  await engine.close();
});

t.test('logits that are not finite end one stream only', async (t) => {
  const { engine, native } = makeEngine();
  native.notFinite.add(1);
  const broken = collect(engine.submit(request(counting(3))));
  const healthy = collect(engine.submit(request(counting(3, 40))));
  t.match(await broken, [{ type: 'error', error: { code: 'ERR_INTERNAL' } }]);
  t.equal((await healthy).at(-1)!.type, 'finish');
  t.equal(engine.stats().failed, null);
  t.equal(engine.stats().blocks.owned, 0);
  await engine.close();
});

t.test('drain: accepted requests finish, new ones are refused', async (t) => {
  const { engine } = makeEngine({ maxNumSeqs: 1 });
  const accepted = [0, 20].map((first) => collect(engine.submit(request(counting(5, first)))));
  const drained = engine.drain(10_000);
  t.equal(codeOf(() => engine.submit(request(counting(3)))).code, 'ERR_SHUTTING_DOWN');
  await drained;
  for (const events of await Promise.all(accepted)) t.equal(events.at(-1)!.type, 'finish');
  await engine.drain(10_000);
  await engine.close();
});

t.test('drain: what is left at the deadline ends with ERR_SHUTTING_DOWN', async (t) => {
  const { engine, native } = makeEngine({ isManual: true });
  const events = collect(engine.submit(request(counting(5))));
  await turn();
  await engine.drain(10);
  t.match(await events, [{ type: 'error', error: { code: 'ERR_SHUTTING_DOWN' } }]);
  t.equal(engine.stats().blocks.owned, 0);
  native.runNext();
  await engine.close();
});

t.test('close ends what is running and may be called twice', async (t) => {
  const { engine } = makeEngine({ isManual: true });
  const events = collect(engine.submit(request(counting(5))));
  await turn();
  await engine.close();
  t.match(await events, [{ type: 'error', error: { code: 'ERR_SHUTTING_DOWN' } }]);
  t.equal(engine.stats().failed, null, 'closing is no failure');
  await engine.close();
});

t.test('a slow reader pauses its own generation, not the others', async (t) => {
  const { engine } = makeEngine({ numBlocks: 2000, maxModelLen: 4000, groupWindows: [8] });
  const slow = engine.submit(request(counting(4), { maxTokens: 2000 }));
  const fast = await collect(engine.submit(request(counting(4, 50), { maxTokens: 1500 })));
  t.equal(tokensOf(fast).length, 1500);
  await turns(20);
  t.equal(engine.stats().hasWork, false, 'the other one is paused');
  t.equal(engine.stats().numRunning, 1);
  const iterator = slow[Symbol.asyncIterator]();
  const { value } = await iterator.next();
  if (value?.type !== 'tokens') throw new Error('tokens expected');
  t.ok(value.tokens.length > 1024 && value.tokens.length < 1030, `${value.tokens.length} waited`);
  let count = value.tokens.length;
  for (let result = await iterator.next(); !result.done; result = await iterator.next()) {
    if (result.value.type === 'tokens') count += result.value.tokens.length;
  }
  t.equal(count, 2000, 'it went on and lost nothing');
  await engine.close();
});

t.test('n choices on one prompt share its prefill', async (t) => {
  const { engine, native } = makeEngine({ numBlocks: 30 });
  const streams = [1n, 2n, 3n].map((seed) =>
    collect(engine.submit(request(counting(18), { seed, temperature: 1, maxTokens: 4 }))),
  );
  const results = await Promise.all(streams);
  results.forEach((events, i) => {
    const params = sampling({ seed: BigInt(i + 1), temperature: 1, maxTokens: 4 });
    t.strictSame(tokensOf(events), expectedTokens(counting(18), params, native.info));
    const end = events.at(-1)!;
    t.equal(end.type === 'finish' && end.usage.cachedTokens, i === 0 ? 0 : 16);
  });
  await engine.close();
});

t.test('salts keep tenants apart', async (t) => {
  const { engine } = makeEngine({ numBlocks: 30 });
  const cached: number[] = [];
  for (const cacheSalt of ['a', 'b', 'a']) {
    const events = await collect(
      engine.submit(request(counting(9), { maxTokens: 1 }, { cacheSalt })),
    );
    const end = events.at(-1)!;
    cached.push(end.type === 'finish' ? end.usage.cachedTokens : -1);
  }
  t.strictSame(cached, [0, 0, 8]);
  await engine.close();
});

t.test('the caller may reuse its prompt array', async (t) => {
  const { engine, native } = makeEngine();
  const prompt = counting(6);
  const events = collect(engine.submit(request(prompt, { maxTokens: 2 })));
  prompt.fill(0);
  t.strictSame(
    tokensOf(await events),
    expectedTokens(counting(6), sampling({ maxTokens: 2 }), native.info),
  );
  await engine.close();
});
