/**
 * Damaged safetensors files and JSON that is nearly a header: a table or an EngineError, never
 * another exception. A failure prints fast-check's seed and path, which rerun it.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { EngineError } from '../../src/errors.js';
import { hfModel } from '../../src/models/hf-model.js';
import { hfTokenizer } from '../../src/models/hf-tokenizer.js';
import { readSafetensors } from '../../src/models/safetensors.js';
import {
  checkpointTensors,
  rawSafetensors,
  safetensorsBytes,
} from '../support/write-safetensors.js';
import { damage, damageOf } from './damage.js';

const RUNS = Number(process.env.LONGHAUL_FUZZ_RUNS ?? 500);
const WHOLE = safetensorsBytes(checkpointTensors({ layers: 1 }), { format: 'pt' });
const HEADER_BYTES = 8 + Number(WHOLE.readBigUInt64LE(0));

function onlyEngineErrors(work: () => void): boolean {
  try {
    work();
    return true;
  } catch (error) {
    if (error instanceof EngineError && error.code === 'ERR_MODEL_FORMAT') return true;
    throw error;
  }
}

t.test('damaged files', async (t) => {
  const path = join(t.testdir(), 'm.safetensors');
  let accepted = 0;
  fc.assert(
    fc.property(damageOf(HEADER_BYTES), (changes) => {
      const bytes = damage(WHOLE, changes);
      writeFileSync(path, bytes);
      return onlyEngineErrors(() => {
        for (const tensor of readSafetensors([path]).tensors.values()) {
          if (tensor.offset < 8 || tensor.offset + tensor.bytes > bytes.length)
            throw new Error('out of bounds');
        }
        accepted += 1;
      });
    }),
    { numRuns: RUNS },
  );
  t.ok(accepted < RUNS, `${accepted} of ${RUNS} still made sense`);
});

t.test('headers that are nearly right', async (t) => {
  const path = join(t.testdir(), 'm.safetensors');
  const value = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom('F32', 'BF16', 'I64'));
  const number = fc.oneof(
    fc.nat({ max: 64 }),
    fc.integer(),
    fc.double(),
    fc.constantFrom(2 ** 53, -0),
  );
  const entry = fc.record(
    {
      dtype: fc.oneof(fc.constantFrom('F32', 'F16', 'BF16'), value),
      shape: fc.oneof(fc.array(number, { maxLength: 4 }), value),
      data_offsets: fc.oneof(fc.tuple(number, number), value),
    },
    { requiredKeys: [] },
  );
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.oneof(entry, value), { maxKeys: 4 }),
      fc.nat({ max: 128 }),
      (header, bytes) => {
        writeFileSync(path, rawSafetensors(JSON.stringify(header), bytes));
        return onlyEngineErrors(() => readSafetensors([path]));
      },
    ),
    { numRuns: RUNS },
  );
  t.pass('none crashed');
});

t.test('config.json and tokenizer.json with any one field replaced', async (t) => {
  const folder = t.testdir();
  writeFileSync(join(folder, 'model.safetensors'), WHOLE);
  const config: Record<string, unknown> = {
    architectures: ['LlamaForCausalLM'],
    hidden_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 48,
    vocab_size: 10,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
    rope_scaling: { rope_type: 'linear', factor: 2 },
    sliding_window: 8,
  };
  const tokenizer: Record<string, unknown> = {
    added_tokens: [{ id: 0, content: '<s>', special: true }],
    normalizer: { type: 'Sequence', normalizers: [{ type: 'NFC' }] },
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
    post_processor: { type: 'TemplateProcessing', single: [{ Sequence: {} }] },
    model: { type: 'BPE', vocab: { a: 1, b: 2, ab: 3 }, merges: ['a b'] },
  };
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  write('config.json', config);
  write('tokenizer.json', tokenizer);
  hfModel(folder);
  hfTokenizer(folder);
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.keys(config)),
      fc.jsonValue({ maxDepth: 3 }),
      (key, value) => {
        write('config.json', { ...config, [key]: value });
        return onlyEngineErrors(() => hfModel(folder));
      },
    ),
    { numRuns: RUNS },
  );
  write('config.json', config);
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.keys(tokenizer)),
      fc.jsonValue({ maxDepth: 4 }),
      (key, value) => {
        write('tokenizer.json', { ...tokenizer, [key]: value });
        return onlyEngineErrors(() => hfTokenizer(folder));
      },
    ),
    { numRuns: RUNS },
  );
  t.pass('none crashed');
});
