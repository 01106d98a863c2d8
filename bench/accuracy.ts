/**
 * Writes the engine's log-probabilities over the whole vocabulary for each token of the measuring
 * windows, in the layout of test/golden/reference/accuracy.py, which then compares them with the
 * fp32 reference:
 *
 *   node dist/bench/accuracy.js MODEL FOLDER [--threads N] [--kv-dtype f16|bf16|q8] [--name NAME]
 *
 * FOLDER holds windows.json and receives NAME.f32 (longhaul.f32). Talks to the addon directly:
 * HTTP would turn 4096 × 262,144 numbers into text.
 */
import { closeSync, openSync, readFileSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadAddon, type NativeEngineHandle } from '../src/binding/addon.js';
import {
  RECORD_WORDS,
  RESULT_HEADER_WORDS,
  SEQUENCE_FLAG,
  StepPlanEncoder,
} from '../src/engine/step-plan.js';
import { loadModel } from '../src/models/load-model.js';
import { GREEDY_SAMPLING, KV_DTYPES, type SamplingParams } from '../src/types.js';

const BLOCK_SIZE = 32;
/** Rows of one step: with 262,144 ids each they make a result of 64 MiB. */
const ROWS_PER_STEP = 32;
const SLOT = 0;

/** A record holding prompt rows only: three words a row, then (id, log-probability) pairs. */
function rowsOf(result: Int32Array, numRows: number, vocabSize: number): Float32Array[] {
  const record = RESULT_HEADER_WORDS;
  const [status, sampled, , rows, top] = result.subarray(record + 2, record + RECORD_WORDS);
  if (status !== 0 || sampled !== 0 || rows !== numRows || top !== vocabSize) {
    throw new Error(
      `unexpected record: status ${status}, ${sampled} sampled, ${rows} rows, top ${top}`,
    );
  }
  const floats = new Float32Array(result.buffer, result.byteOffset, result.length);
  const first = record + RECORD_WORDS + 3 * numRows;
  return Array.from({ length: numRows }, (_, row) => {
    const logprobs = new Float32Array(vocabSize).fill(Number.NaN);
    const start = first + row * vocabSize * 2;
    for (let i = start; i < start + vocabSize * 2; i += 2)
      logprobs[result[i] as number] = floats[i + 1] as number;
    return logprobs;
  });
}

class WindowRunner {
  readonly #engine: NativeEngineHandle;
  readonly #plan = new StepPlanEncoder();
  readonly #sampling: SamplingParams;
  #stepId = 0;
  #sequenceId = 0;

  constructor(engine: NativeEngineHandle) {
    this.#engine = engine;
    this.#sampling = {
      ...GREEDY_SAMPLING,
      numPromptLogprobs: engine.info.vocabSize,
      maxTokens: 1,
    };
  }

  async *run(window: Int32Array): AsyncGenerator<Float32Array> {
    const { groupWindows, vocabSize } = this.#engine.info;
    const numBlocks = Math.ceil(window.length / BLOCK_SIZE);
    this.#sequenceId += 1;
    for (let start = 0; start < window.length; start += ROWS_PER_STEP) {
      const tokens = window.subarray(start, start + ROWS_PER_STEP);
      this.#begin();
      if (start === 0) {
        this.#plan.open({
          slot: SLOT,
          sequenceId: this.#sequenceId,
          numPromptTokens: window.length,
          sampling: this.#sampling,
          stopTokenIds: [],
          history: new Int32Array(0),
        });
        groupWindows.forEach((_, group) => {
          const table = Int32Array.from(
            { length: numBlocks },
            (_, index) => group * numBlocks + index,
          );
          this.#plan.append(SLOT, group, table, 0, numBlocks);
        });
      }
      // The last row's next token is unknown; any id makes its distribution part of the result.
      const next = window[start + tokens.length] ?? 0;
      this.#plan.sequence(
        SLOT,
        this.#sequenceId,
        tokens.length,
        start,
        SEQUENCE_FLAG.promptLogprobs,
        next,
      );
      this.#plan.pushTokens(tokens);
      const result = await this.#engine.submit(this.#plan.finish());
      yield* rowsOf(result, tokens.length, vocabSize);
    }
    this.#begin();
    this.#plan.close(SLOT);
    await this.#engine.submit(this.#plan.finish());
  }

  #begin(): void {
    this.#stepId += 1;
    this.#plan.begin(this.#stepId);
  }
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      threads: { type: 'string', default: '0' },
      'kv-dtype': { type: 'string', default: 'f16' },
      name: { type: 'string', default: 'longhaul' },
    },
  });
  const [model, folder] = positionals;
  const kvDtype = KV_DTYPES.find((name) => name === values['kv-dtype']);
  if (model === undefined || folder === undefined || kvDtype === undefined) {
    throw new Error(
      'usage: accuracy.js MODEL FOLDER [--threads N] [--kv-dtype f16|bf16|q8] [--name NAME]',
    );
  }
  const windows = JSON.parse(readFileSync(join(folder, 'windows.json'), 'utf8')) as number[][];
  const engine = await loadAddon().createEngine(loadModel(model).native, {
    backend: 'cpu',
    threads: Number(values.threads),
    isaLimit: process.env.LONGHAUL_ISA ?? '',
    kvMemoryBytes: 512 * 2 ** 20,
    kvDtype,
    blockSize: BLOCK_SIZE,
    maxNumSeqs: 1,
    maxNumBatchedTokens: ROWS_PER_STEP,
    maxModelLen: 0,
  });
  const runner = new WindowRunner(engine);
  const path = join(folder, `${values.name}.f32`);
  const out = openSync(`${path}.partial`, 'w');
  const start = performance.now();
  for (const window of windows) {
    for await (const row of runner.run(Int32Array.from(window))) writeSync(out, row);
  }
  closeSync(out);
  renameSync(`${path}.partial`, path);
  const { isa, threads } = engine.info;
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  console.log(
    `${path}: ${windows.length} windows, ${isa}, ${threads} threads, KV ${kvDtype}, ${seconds} s`,
  );
  await engine.close();
}

await main();
