import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { loadAddon, type NativeEngineHandle } from '../../../src/binding/addon.js';
import {
  RECORD_STATUS,
  SEQUENCE_FLAG,
  StepPlanEncoder,
  StepResultReader,
  TOKEN_FROM_SLOT,
} from '../../../src/engine/step-plan.js';
import { EngineError, NATIVE_ERROR_CODES } from '../../../src/errors.js';
import { sampling } from '../../support/make-sequence.js';
import { TINY_OPTIONS, TINY_VOCAB, tinyNativeModel } from '../../support/tiny-native-model.js';

const addon = loadAddon();

/** Opens slot 0 with two blocks and computes `prompt`. */
function prefill(prompt: number[], sequenceId = 7): Int32Array {
  const encoder = new StepPlanEncoder();
  encoder.begin(1);
  encoder.open({
    slot: 0,
    sequenceId,
    numPromptTokens: prompt.length,
    sampling: sampling({ numLogprobs: 3, seed: 0xfedcba9876543210n }),
    stopTokenIds: [],
    history: new Int32Array(0),
  });
  encoder.append(0, 0, Int32Array.of(5, 6), 0, 2);
  encoder.sequence(0, sequenceId, prompt.length, 0, SEQUENCE_FLAG.sample, -1);
  encoder.pushTokens(Int32Array.from(prompt));
  return encoder.finish();
}

function decode(position: number, sequenceId = 7): Int32Array {
  const encoder = new StepPlanEncoder();
  encoder.begin(position);
  encoder.sequence(0, sequenceId, 1, position, SEQUENCE_FLAG.sample, -1);
  encoder.pushToken(TOKEN_FROM_SLOT);
  return encoder.finish();
}

function onlyRecord(words: Int32Array): StepResultReader {
  const reader = new StepResultReader(words);
  if (!reader.next()) throw new Error('the result holds no record');
  return reader;
}

const refusal = async (work: Promise<unknown>): Promise<EngineError> => {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  if (!(error instanceof EngineError)) throw new Error(`expected an EngineError, got ${error}`);
  return error;
};

async function withEngine(body: (engine: NativeEngineHandle) => Promise<void>): Promise<void> {
  const engine = await addon.createEngine(tinyNativeModel(), TINY_OPTIONS);
  try {
    await body(engine);
  } finally {
    await engine.close();
  }
}

t.test('native error codes are those of the error table, in order', async (t) => {
  t.strictSame(addon.errorCodes, [...NATIVE_ERROR_CODES]);
  t.match(addon.version, /^\d+\.\d+\.\d+/);
});

t.test('cpuInfo describes this machine', async (t) => {
  const info = addon.cpuInfo();
  t.ok(['scalar', 'avx2', 'avx512', 'amx'].includes(info.isa));
  t.ok(info.defaultThreads >= 1);
  t.ok(Array.isArray(info.features));
  t.type(info.model, 'string');
});

t.test('info says what was built', async (t) => {
  await withEngine(async (engine) => {
    t.match(engine.info, {
      backend: 'cpu',
      backendReason: 'asked for',
      device: '',
      kvDtype: 'f16',
      threads: 1,
      blockSize: 32,
      blockBytes: 32 * 2 * 2 * 16 * 2 * 2,
      numBlocks: (1 << 20) / 8192,
      maxModelLen: 512,
      maxNumSeqs: 4,
      maxNumBatchedTokens: 64,
      vocabSize: TINY_VOCAB,
      numLayers: 2,
      groupWindows: [0],
    });
    t.ok(engine.info.weightBytes > 0);
  });
});

t.test('a size of the K/V cache is for the backend to choose', async (t) => {
  const options = { ...TINY_OPTIONS, kvMemoryBytes: 0, kvMemoryDefaultBytes: 10 * 8192 };
  const engine = await addon.createEngine(tinyNativeModel(), options);
  t.equal(engine.info.numBlocks, 10);
  await engine.close();
});

t.test('a backend can be probed', async (t) => {
  t.same(addon.probeBackend('cpu'), { usable: true, reason: addon.cpuInfo().isa });
  const unknown = addon.probeBackend('tpu');
  t.equal(unknown.usable, false);
  t.match(unknown.reason, /found "tpu"/);
  // Which of the two it is depends on the machine, but never is there no reason.
  t.match(addon.probeBackend('cuda'), { usable: Boolean, reason: /.+/ });
});

const cuda = addon.probeBackend('cuda');
const skip = cuda.usable && 'there is a GPU, which has no kernels for heads of 16';
t.test('auto says what it took, and why', { skip }, async (t) => {
  const engine = await addon.createEngine(tinyNativeModel(), { ...TINY_OPTIONS, backend: 'auto' });
  t.match(engine.info, { backend: 'cpu', backendReason: cuda.reason });
  await engine.close();
});

t.test('steps answer in order, overlapped or not, with the same tokens', async (t) => {
  await withEngine(async (engine) => {
    const first = onlyRecord(await engine.submit(prefill([1, 2, 3, 4])));
    t.equal(first.stepId, 1);
    t.equal(first.numTokens, 4);
    t.equal(first.status, RECORD_STATUS.ok);
    t.equal(first.sequenceId, 7);
    const token = first.sampledToken(0);
    t.equal(token.rank, 1);
    t.equal(token.top.length, 3);
    t.same(token.top[0], { tokenId: token.tokenId, logprob: token.logprob });
    t.ok(token.logprob < 0 && token.logprob > -10);
    const plain = [token.tokenId];
    for (let position = 4; position < 10; position++) {
      plain.push(onlyRecord(await engine.submit(decode(position))).sampledToken(0).tokenId);
    }
    await withEngine(async (other) => {
      const plans = [
        prefill([1, 2, 3, 4]),
        ...[4, 5, 6, 7, 8, 9].map((position) => decode(position)),
      ];
      const answers = await Promise.all(plans.map((plan) => other.submit(plan)));
      t.strictSame(
        answers.map((words) => onlyRecord(words).sampledToken(0).tokenId),
        plain,
      );
    });
  });
});

t.test('a plan is copied when it is submitted', async (t) => {
  await withEngine(async (engine) => {
    const plan = prefill([1, 2, 3, 4]);
    const answer = engine.submit(plan);
    plan.fill(-1);
    t.equal(onlyRecord(await answer).status, RECORD_STATUS.ok);
  });
});

t.test('wrong plans and arguments are typed errors and hurt nothing', async (t) => {
  await withEngine(async (engine) => {
    const error = await refusal(engine.submit(Int32Array.of(1, 2, 3)));
    t.equal(error.code, 'ERR_INVALID_REQUEST');
    t.match(error.message, 'expected at least 16 words, found 3');
    t.equal((await refusal(engine.submit(decode(4)))).code, 'ERR_INVALID_REQUEST');
    const loose = engine as unknown as Record<string, (...args: unknown[]) => unknown>;
    for (const call of [
      () => loose.submit!(),
      () => loose.submit!([1, 2, 3]),
      () => loose.submit!(new Uint8Array(64)),
      () => loose.abort!(1),
      () => loose.abort!('0', '7'),
      () => Reflect.construct(loose.constructor as unknown as () => void, []),
    ]) {
      t.throws(call, { name: 'EngineError', code: 'ERR_INVALID_REQUEST' });
    }
    t.equal(onlyRecord(await engine.submit(prefill([1, 2]))).status, RECORD_STATUS.ok);
  });
});

t.test('abort reaches queued steps', async (t) => {
  await withEngine(async (engine) => {
    engine.abort(0, 7);
    t.equal(onlyRecord(await engine.submit(prefill([1, 2, 3]))).status, RECORD_STATUS.aborted);
  });
});

t.test('models and options are checked before anything is loaded', async (t) => {
  const model = tinyNativeModel();
  const cases: Array<[unknown, unknown, string, RegExp]> = [
    [null, TINY_OPTIONS, 'ERR_INVALID_REQUEST', /^model: expected an object$/],
    [
      { ...model, config: 3 },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /^model\.config: expected an object$/,
    ],
    [
      { ...model, config: { ...model.config, numHeads: 1.5 } },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /^model\.config\.numHeads: expected an integer/,
    ],
    [
      {
        ...model,
        config: { ...model.config, ropes: [{ ...model.config.ropes[0], invFreq: [1] }] },
      },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /^model\.config\.ropes\[0\]\.invFreq: expected a Float32Array$/,
    ],
    [
      { ...model, files: [1] },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /^model\.files\[0\]: expected a string$/,
    ],
    [
      { ...model, tensors: [{ ...model.tensors[0], dtype: 99 }] },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /^model\.tensors\[0\]\.dtype: expected an integer from 0 to 10$/,
    ],
    [
      { ...model, config: { ...model.config, numKvHeads: 3 } },
      TINY_OPTIONS,
      'ERR_MODEL_FORMAT',
      /num_heads: expected a multiple of num_kv_heads \(3\), found 4/,
    ],
    [
      { ...model, tensors: model.tensors.slice(1) },
      TINY_OPTIONS,
      'ERR_MODEL_FORMAT',
      /tensor token_embedding: expected \[131, 64\], found none/,
    ],
    [
      { ...model, files: ['/nonexistent/a.gguf'] },
      TINY_OPTIONS,
      'ERR_MODEL_FORMAT',
      /a\.gguf: cannot open/,
    ],
    [
      model,
      { ...TINY_OPTIONS, kvDtype: 'q5' as 'q8' },
      'ERR_UNSUPPORTED',
      /kvDtype: expected f16, bf16, q8 or fp8, found "q5"/,
    ],
    [model, { ...TINY_OPTIONS, kvDtype: 'fp8' }, 'ERR_UNSUPPORTED', /^--kv-dtype fp8: /],
    [
      model,
      { ...TINY_OPTIONS, backend: 'tpu' },
      'ERR_UNSUPPORTED',
      /expected auto, cpu, cuda or cuda-emulated, found "tpu"/,
    ],
    [
      model,
      { ...TINY_OPTIONS, kvMemoryBytes: 0 },
      'ERR_INVALID_REQUEST',
      /KV memory of 0 bytes holds 0 blocks/,
    ],
    [model, { ...TINY_OPTIONS, isaLimit: 'mmx' }, 'ERR_INVALID_REQUEST', /mmx/],
    [
      model,
      { ...TINY_OPTIONS, kvMemoryBytes: 100 },
      'ERR_INVALID_REQUEST',
      /holds 0 blocks of 8192 bytes/,
    ],
    [model, { ...TINY_OPTIONS, blockSize: 33 }, 'ERR_INVALID_REQUEST', /block_size/],
    [
      {
        get config() {
          throw new Error('no');
        },
      },
      TINY_OPTIONS,
      'ERR_INVALID_REQUEST',
      /model\.config: expected a readable property/,
    ],
  ];
  for (const [wrongModel, wrongOptions, code, message] of cases) {
    const error = await refusal(addon.createEngine(wrongModel as never, wrongOptions as never));
    t.equal(error.code, code, error.message);
    t.match(error.message, message);
  }
});

t.test('tensors must lie inside their files', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'longhaul-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const path = join(folder, 'weights.bin');
  writeFileSync(path, Buffer.alloc(1000));
  const model = tinyNativeModel();
  model.files = [path];
  const norm = model.tensors[1]!;
  for (const [offset, file, message] of [
    [745, 0, /output_norm: 256 bytes at offset 745 do not fit a file of 1000 bytes/],
    [Number.MAX_SAFE_INTEGER, 0, /do not fit/],
    [0, 1, /file index: expected below 1, found 1/],
  ] as const) {
    model.tensors[1] = { ...norm, file, offset };
    const error = await refusal(addon.createEngine(model, TINY_OPTIONS));
    t.equal(error.code, 'ERR_MODEL_FORMAT');
    t.match(error.message, message);
  }
  model.tensors[1] = { ...norm, file: 0, offset: 744 };
  const engine = await addon.createEngine(model, TINY_OPTIONS);
  await engine.close();
});

t.test('close answers what is queued and can be called again', async (t) => {
  const engine = await addon.createEngine(tinyNativeModel(), TINY_OPTIONS);
  const steps = [
    engine.submit(prefill([1, 2, 3])),
    engine.submit(decode(3)),
    engine.submit(decode(4)),
  ];
  const settled = Promise.allSettled(steps);
  await Promise.all([engine.close(), engine.close()]);
  for (const step of await settled) {
    if (step.status === 'rejected') t.match(step.reason, { code: 'ERR_ABORTED' });
    else t.equal(onlyRecord(step.value).status, RECORD_STATUS.ok);
  }
  await engine.close();
  t.equal((await refusal(engine.submit(decode(5)))).code, 'ERR_ABORTED');
  engine.abort(0, 7);
  t.equal(engine.info.vocabSize, TINY_VOCAB);
});

t.test('a handle nobody holds still answers', async (t) => {
  const answer = (await addon.createEngine(tinyNativeModel(), TINY_OPTIONS)).submit(
    prefill([1, 2]),
  );
  (globalThis as { gc?: () => void }).gc?.();
  await sleep(1);
  t.equal(onlyRecord(await answer).status, RECORD_STATUS.ok);
});

t.test('a worker may end with an engine at work', async (t) => {
  const source = `
    const { workerData, parentPort } = require('node:worker_threads');
    import(workerData.addon).then(async ({ loadAddon }) => {
      const engine = await loadAddon().createEngine(workerData.model, workerData.options);
      for (let i = 0; i < 50; i++) engine.submit(workerData.plan).catch(() => {});
      parentPort.postMessage(engine.info.vocabSize);
      loadAddon().createEngine(workerData.model, workerData.options);
      process.exit(0);
    });`;
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(source, {
      eval: true,
      workerData: {
        addon: new URL('../../../src/binding/addon.js', import.meta.url).href,
        model: tinyNativeModel(),
        options: TINY_OPTIONS,
        plan: prefill(Array.from({ length: 60 }, (_, index) => index)),
      },
    });
    const messages: unknown[] = [];
    worker.on('message', (message) => messages.push(message));
    t.equal(await new Promise((resolve) => worker.on('exit', resolve)), 0);
    t.strictSame(messages, [TINY_VOCAB]);
  }
});
