/**
 * Damaged GGUF files: whatever is wrong, the answer is a model or an EngineError that says what and
 * where, and nothing is allocated that the file does not hold. A failure prints fast-check's seed
 * and path, which rerun it.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { EngineError } from '../../src/errors.js';
import { readGguf } from '../../src/models/gguf.js';
import { GGUF_TYPES, type GgufValue } from '../../src/models/gguf-format.js';
import { ggufModel } from '../../src/models/gguf-model.js';
import { ggufTokenizer } from '../../src/models/gguf-tokenizer.js';
import { StringTable } from '../../src/models/string-table.js';
import { ggufBytes, llamaMetadata, llamaTensors, withMetadata } from '../support/write-gguf.js';
import { damage, damageOf } from './damage.js';

const RUNS = Number(process.env.LONGHAUL_FUZZ_RUNS ?? 500);
const T = GGUF_TYPES;

const LLAMA = ggufBytes(llamaMetadata(), llamaTensors());
const SPM = ggufBytes(
  withMetadata(llamaMetadata(), [
    ['tokenizer.ggml.model', T.STRING, 'llama'],
    ['tokenizer.ggml.scores', T.FLOAT32, [0, 1, 2, 3, 4, 5, 6, 7]],
    ['llama.rope.scaling.type', T.STRING, 'yarn'],
    ['llama.rope.scaling.factor', T.FLOAT32, 4],
    ['general.alignment', T.UINT32, 64],
  ]),
  [
    ...llamaTensors('Q4_1'),
    { name: 'rope_freqs.weight', dtype: 'F32', dims: [8], data: new Uint8Array(32).fill(63) },
  ],
  64,
);
/** Damage past the header changes tensor data, which nobody reads here. */
const HEADER_BYTES = 4096;

function load(path: string): number {
  const gguf = readGguf(path);
  const bytes = [...gguf.metadata.values()].reduce<number>((sum, value) => sum + sizeOf(value), 0);
  const { config } = ggufModel(gguf);
  const { spec } = ggufTokenizer(gguf, config.vocabSize);
  return bytes + spec.tokenTypes.length;
}

function sizeOf(value: GgufValue): number {
  if (value instanceof StringTable) return value.bytes.length;
  if (ArrayBuffer.isView(value)) return value.byteLength;
  if (Array.isArray(value)) return value.reduce<number>((sum, entry) => sum + sizeOf(entry), 0);
  return typeof value === 'string' ? value.length : 8;
}

t.test('the undamaged files are accepted', async (t) => {
  const path = join(t.testdir(), 'm.gguf');
  for (const bytes of [LLAMA, SPM]) {
    writeFileSync(path, bytes);
    t.doesNotThrow(() => load(path));
  }
});

t.test('damaged files end in a model or an EngineError', async (t) => {
  const path = join(t.testdir(), 'm.gguf');
  let refused = 0;
  fc.assert(
    fc.property(fc.constantFrom(LLAMA, SPM), damageOf(HEADER_BYTES), (base, changes) => {
      const bytes = damage(base, changes);
      writeFileSync(path, bytes);
      try {
        if (load(path) > bytes.length + 4096) throw new Error('holds more than the file');
      } catch (error) {
        if (!(error instanceof EngineError)) throw error;
        if (error.code !== 'ERR_MODEL_FORMAT' || error.message.length < 20) throw error;
        refused += 1;
      }
    }),
    { numRuns: RUNS },
  );
  t.ok(refused > RUNS / 4, `${refused} of ${RUNS} were refused`);
});

t.test('arbitrary bytes after the magic end in an EngineError', async (t) => {
  const path = join(t.testdir(), 'm.gguf');
  const head = Buffer.from([0x47, 0x47, 0x55, 0x46, 3, 0, 0, 0]);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 0, maxLength: 300 }), (tail) => {
      writeFileSync(path, Buffer.concat([head, tail]));
      try {
        load(path);
      } catch (error) {
        return error instanceof EngineError && error.code === 'ERR_MODEL_FORMAT';
      }
      return false; // no arbitrary bytes are a whole model
    }),
    { numRuns: RUNS },
  );
  t.pass('none crashed');
});
