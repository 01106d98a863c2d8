import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import {
  decodeStepPlan,
  encodeStepResult,
  OPERATION,
  PLAN_MAGIC,
  RESULT_MAGIC,
  StepPlanEncoder,
  StepResultReader,
  TOKEN_FROM_SLOT,
} from '../../../src/engine/step-plan.js';
import { sampling } from '../../support/make-sequence.js';

/** The folder holding CMakeLists.txt: tests run from sources and from dist/. */
function rootFolder(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  for (; folder !== dirname(folder); folder = dirname(folder)) {
    try {
      readFileSync(join(folder, 'CMakeLists.txt'));
      return folder;
    } catch {}
  }
  return process.cwd();
}
const golden = JSON.parse(
  readFileSync(join(rootFolder(), 'test', 'golden', 'step-plan.json'), 'utf8'),
) as { plan: { words: number[]; meaning: unknown }; result: { words: number[] } };

/** The plan the golden file describes. */
function samplePlan(): Int32Array {
  const encoder = new StepPlanEncoder();
  encoder.begin(7);
  encoder.close(2);
  encoder.open({
    slot: 2,
    sequenceId: 41,
    numPromptTokens: 3,
    sampling: sampling({
      temperature: 0.5,
      topP: 0.75,
      minP: 0.25,
      topK: 40,
      repetitionPenalty: 1.25,
      frequencyPenalty: -0.5,
      presencePenalty: 1.5,
      seed: 0xfedcba9876543210n,
      numLogprobs: 2,
      numPromptLogprobs: 1,
      minTokens: 4,
      logitBias: [
        [11, -100],
        [12, 2.5],
      ],
    }),
    stopTokenIds: [0, 9],
    history: Int32Array.of(5, 6, 7),
  });
  encoder.append(2, 0, Int32Array.of(3, 8, 1), 0, 2);
  encoder.append(2, 1, Int32Array.of(-1, 10), 0, 2);
  encoder.dropPrefix(0, 1, 5);
  encoder.sequence(0, 40, 1, 23, 1, -1);
  encoder.pushToken(TOKEN_FROM_SLOT);
  encoder.sequence(2, 41, 2, 0, 2, 7);
  encoder.pushTokens(Int32Array.of(5, 6));
  return encoder.finish();
}

function sampleResult(): Int32Array {
  return encodeStepResult({ stepId: 7, elapsedMicros: 1500, attentionMicros: 300, numTokens: 3 }, [
    {
      slot: 0,
      sequenceId: 40,
      status: 0,
      numTop: 2,
      sampled: [
        {
          tokenId: 9,
          logprob: -0.25,
          rank: 1,
          top: [
            { tokenId: 9, logprob: -0.25 },
            { tokenId: 4, logprob: -1.5 },
          ],
        },
      ],
      promptRows: [],
      numPromptTop: 0,
    },
    {
      slot: 2,
      sequenceId: 41,
      status: 0,
      sampled: [],
      numTop: 0,
      promptRows: [
        { tokenId: 6, logprob: -2, rank: 3, top: [{ tokenId: 1, logprob: -0.5 }] },
        { tokenId: 7, logprob: -3, rank: 4, top: [{ tokenId: 2, logprob: -0.75 }] },
      ],
      numPromptTop: 1,
    },
  ]);
}

t.test('constants are those of native/step_plan.h', async (t) => {
  const header = readFileSync(join(rootFolder(), 'native', 'step_plan.h'), 'utf8');
  const value = (name: string): number =>
    Number(new RegExp(`${name} = (-?\\w+)`).exec(header)?.[1]);
  t.equal(value('kPlanMagic'), PLAN_MAGIC);
  t.equal(value('kResultMagic'), RESULT_MAGIC);
  t.equal(value('kTokenFromSlot'), TOKEN_FROM_SLOT);
  t.equal(value('kOpOpen'), OPERATION.open);
  t.equal(value('kOpClose'), OPERATION.close);
  t.equal(value('kOpAppend'), OPERATION.append);
  t.equal(value('kOpReplaceRange'), OPERATION.replaceRange);
  t.equal(value('kOpDropPrefix'), OPERATION.dropPrefix);
});

t.test('the golden plan', async (t) => {
  t.strictSame(Array.from(samplePlan()), golden.plan.words);
  const decoded = decodeStepPlan(Int32Array.from(golden.plan.words));
  const asJson = JSON.parse(
    JSON.stringify(decoded, (_, value) => (typeof value === 'bigint' ? value.toString() : value)),
  );
  t.strictSame(asJson, golden.plan.meaning);
});

t.test('the golden result', async (t) => {
  const words = sampleResult();
  t.strictSame(Array.from(words), golden.result.words);
  const reader = new StepResultReader(words);
  t.equal(reader.stepId, 7);
  t.equal(reader.numSequences, 2);
  t.equal(reader.elapsedMicros, 1500);
  t.equal(reader.attentionMicros, 300);
  t.equal(reader.numTokens, 3);
  t.ok(reader.next());
  t.strictSame([reader.slot, reader.sequenceId, reader.status], [0, 40, 0]);
  t.equal(reader.numSampled, 1);
  t.strictSame(reader.sampledToken(0), {
    tokenId: 9,
    logprob: -0.25,
    rank: 1,
    top: [
      { tokenId: 9, logprob: -0.25 },
      { tokenId: 4, logprob: -1.5 },
    ],
  });
  t.ok(reader.next());
  t.strictSame(
    [reader.slot, reader.sequenceId, reader.numSampled, reader.numPromptRows],
    [2, 41, 0, 2],
  );
  t.strictSame(reader.promptToken(1), {
    tokenId: 7,
    logprob: -3,
    rank: 4,
    top: [{ tokenId: 2, logprob: -0.75 }],
  });
  t.notOk(reader.next());
});

t.test('buffers are reused and grow', async (t) => {
  const encoder = new StepPlanEncoder();
  const tokens = Int32Array.from({ length: 20_000 }, (_, i) => i);
  encoder.begin(1);
  encoder.sequence(0, 1, 20_000, 5, 0, -1);
  encoder.pushTokens(tokens);
  const row = decodeStepPlan(encoder.finish()).rows[0]!;
  t.strictSame(row.tokens, Array.from(tokens));
  encoder.begin(2);
  encoder.sequence(3, 2, 1, 0, 1, -1);
  encoder.pushToken(4);
  const small = encoder.finish();
  t.equal(small.length, 16 + 8 + 2, 'nothing of the step before is left');
  t.strictSame(decodeStepPlan(small), {
    stepId: 2,
    operations: [],
    rows: [{ slot: 3, sequenceId: 2, startPosition: 0, flags: 1, nextToken: -1, tokens: [4] }],
  });
});

t.test('a row without its tokens is noticed', async (t) => {
  const encoder = new StepPlanEncoder();
  encoder.begin(1);
  encoder.sequence(0, 1, 2, 0, 0, -1);
  encoder.pushToken(4);
  t.throws(() => encoder.finish(), /1 tokens, 2 positions/);
});

t.test('decoding refuses a packet that contradicts itself', async (t) => {
  const words = samplePlan().slice();
  const change = (index: number, value: number): Int32Array => {
    const changed = words.slice();
    changed[index] = value;
    return changed;
  };
  t.throws(() => decodeStepPlan(change(0, 1)), /magic at word 0/);
  t.throws(() => decodeStepPlan(change(1, 2)), /version at word 1/);
  t.throws(() => decodeStepPlan(change(4, 3)), /total words/);
  t.throws(() => decodeStepPlan(change(5, 4)), /total words/);
  t.throws(() => decodeStepPlan(change(16, 9)), /opcode at word 16/);
  t.throws(() => decodeStepPlan(change(17, 2)), /operation length at word 17/);
  t.throws(() => decodeStepPlan(words.subarray(0, words.length - 1)), /length/);
  t.throws(() => decodeStepPlan(change(words.length - 1, 9)), /position/);
});

t.test('a result that contradicts itself is refused', async (t) => {
  const words = sampleResult();
  t.throws(() => new StepResultReader(words.slice(0, 20)), /step result/);
  const long = words.slice();
  long[16 + 3] = 1000;
  const reader = new StepResultReader(long);
  t.throws(() => reader.next(), /record at word 16/);
});
