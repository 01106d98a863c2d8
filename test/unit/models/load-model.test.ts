import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { GGUF_TYPES } from '../../../src/models/gguf-format.js';
import { loadModel, weightBytes } from '../../../src/models/load-model.js';
import { ggufBytes, llamaMetadata, llamaTensors, writeBytes } from '../../support/write-gguf.js';
import { checkpointTensors, safetensorsBytes } from '../../support/write-safetensors.js';

t.test('a checkpoint folder', async (t) => {
  const folder = join(t.testdir(), 'My-Model');
  mkdirSync(folder);
  const write = (name: string, value: unknown): void =>
    writeFileSync(join(folder, name), JSON.stringify(value));
  write('config.json', {
    architectures: ['LlamaForCausalLM'],
    hidden_size: 32,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 48,
    vocab_size: 10,
    max_position_embeddings: 64,
    tie_word_embeddings: true,
  });
  write('tokenizer.json', {
    pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false },
    model: { type: 'BPE', vocab: { a: 0, b: 1, ab: 2 }, merges: ['a b'] },
  });
  write('generation_config.json', { do_sample: true, temperature: 0.5, eos_token_id: 2 });
  writeFileSync(join(folder, 'model.safetensors'), safetensorsBytes(checkpointTensors({})));
  const model = loadModel(folder);
  t.same(
    [model.name, model.format, model.defaults],
    ['My-Model', 'huggingface', { temperature: 0.5 }],
  );
  t.same([model.tokenizer.eosTokenIds, model.tokenizer.spec.kind], [[2], 'bpe']);
  t.equal(model.native.config.architecture, 'llama');
  const parameters = 10 * 32 + 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32 + 2 * 32);
  t.equal(weightBytes(model.native), parameters * 4);
  t.equal(loadModel(folder, 'other').name, 'other');
  t.equal(loadModel(folder).fingerprint, model.fingerprint);
});

t.test('a GGUF file is named after itself, a split one without its part number', async (t) => {
  const folder = t.testdir();
  const whole = ggufBytes(llamaMetadata(), llamaTensors());
  const model = loadModel(writeBytes(folder, 'Tiny.Q8_0.gguf', whole));
  t.same([model.name, model.format, model.defaults], ['Tiny.Q8_0', 'gguf', {}]);
  const split = (number: number, tensors: ReturnType<typeof llamaTensors>): Buffer =>
    ggufBytes(
      [
        ...(number === 0 ? llamaMetadata() : []),
        ['split.no', GGUF_TYPES.UINT16, number],
        ['split.count', GGUF_TYPES.UINT16, 2],
      ],
      tensors,
    );
  const first = writeBytes(folder, 'T-00001-of-00002.gguf', split(0, llamaTensors().slice(0, 5)));
  const second = writeBytes(folder, 'T-00002-of-00002.gguf', split(1, llamaTensors().slice(5)));
  const parts = loadModel(second);
  t.equal(parts.name, 'T');
  t.same(parts.native.files, [first, second]);
  t.same(
    parts.native.tensors.map(({ file }) => file),
    [0, 0, 0, 0, 0, ...new Array(15).fill(1)],
  );
  t.same(
    parts.native.tensors.map(({ name, rows, cols }) => [name, rows, cols]),
    model.native.tensors.map(({ name, rows, cols }) => [name, rows, cols]),
  );
  t.same(parts.tokenizer.spec, model.tokenizer.spec);
});
