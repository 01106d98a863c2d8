import { statSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { readGguf } from '../../../src/models/gguf.js';
import { writeSyntheticGguf } from '../../../src/models/gguf-writer.js';
import {
  fingerprint,
  loadModel,
  loadSynthetic,
  weightBytes,
} from '../../../src/models/load-model.js';
import { fillRandom, halfBits, RandomBytes } from '../../../src/models/random-tensor.js';
import { StringTable } from '../../../src/models/string-table.js';
import {
  parseShape,
  SYNTHETIC_SHAPES,
  syntheticModel,
  syntheticTokenizer,
} from '../../../src/models/synthetic.js';
import { DTYPES } from '../../../src/types.js';

t.test('named shapes are the published sizes', async (t) => {
  const bytes = (name: string): number => weightBytes(loadSynthetic(name).native);
  // SmolLM2-135M in Q4_1 with a Q8_0 embedding: the real file's tensor data.
  t.equal(bytes('smollm2'), 96_576_768);
  const llama = syntheticModel(parseShape('llama-8b'), 1);
  const parameters = llama.tensors.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  t.equal(parameters, 8_030_261_248);
  t.same(Object.keys(SYNTHETIC_SHAPES), ['tiny', 'smollm2', 'gemma3-270m', 'llama-1b', 'llama-8b']);
  const gemma = syntheticModel(parseShape('gemma3-270m'), 1).config;
  t.equal(gemma.layers.filter((layer) => layer.window === 0).length, 3);
  t.ok(Object.values(SYNTHETIC_SHAPES).every((shape) => shape.context === 131_072));
});

t.test('explicit shapes', async (t) => {
  const shape = parseShape(
    'hidden=128,layers=3,heads=4,intermediate=256,vocab=1000,dtype=Q4_1,context=4096',
  );
  t.same(shape, {
    name: 'custom',
    architecture: 'llama',
    hidden: 128,
    intermediate: 256,
    layers: 3,
    heads: 4,
    kvHeads: 4,
    headDim: 32,
    vocab: 1000,
    context: 4096,
    theta: 10_000,
    ropeFactor: 1,
    window: 0,
    dtype: 'Q4_1',
    tied: true,
  });
  const changed = parseShape('llama-1b, layers=4, tied=false');
  t.same(
    [changed.name, changed.layers, changed.hidden, changed.headDim, changed.tied],
    ['llama-1b-custom', 4, 2048, 64, false],
  );
  t.equal(parseShape('tiny,arch=gemma3').window, 512);
  const refuse = (text: string, message: RegExp): void => {
    t.throws(() => parseShape(text), { code: 'ERR_INVALID_REQUEST', message });
  };
  refuse('huge', /shape: expected one of tiny, smollm2.*received huge/);
  refuse('hidden=100', /hidden: expected a multiple of 32, received 100/);
  refuse('hidden=0', /hidden: expected a whole number from 32/);
  refuse('heads=3', /head_dim/);
  refuse('kv_heads=3', /kv_heads: expected a divisor of 4/);
  refuse('vocab=100', /vocab: expected a whole number from 259/);
  refuse('dtype=Q3_K', /dtype: expected one of F32.*received Q3_K/);
  refuse('layers', /shape: expected one of/);
  refuse('tiny,layers', /KEY=VALUE, received layers/);
  refuse('tiny,toString=1', /keys hidden/);
  refuse('theta=abc', /theta/);
});

t.test('types fall back where rows are no multiple of a block', async (t) => {
  const { tensors } = syntheticModel(
    parseShape('hidden=64,intermediate=256,heads=2,dtype=Q4_K'),
    1,
  );
  const type = (name: string): string | undefined =>
    Object.keys(DTYPES).find(
      (key) =>
        DTYPES[key as keyof typeof DTYPES] ===
        tensors.find((tensor) => tensor.name === name)!.dtype,
    );
  t.same(['layers.0.q_proj', 'layers.0.down_proj', 'token_embedding', 'output_norm'].map(type), [
    'Q5_0',
    'Q4_K',
    'Q8_0',
    'F32',
  ]);
});

t.test('seeds: every tensor its own, the same for the same seed', async (t) => {
  const shape = parseShape('tiny');
  const seeds = syntheticModel(shape, 1).tensors.map((tensor) => tensor.seed);
  t.equal(new Set(seeds).size, seeds.length);
  t.same(
    syntheticModel(shape, 1).tensors.map((tensor) => tensor.seed),
    seeds,
  );
  t.not(fingerprint(syntheticModel(shape, 1)), fingerprint(syntheticModel(shape, 2)));
  t.ok(syntheticModel(shape, 1).tensors.every((tensor) => tensor.file === -1));
});

t.test('the tokenizer encodes every byte and reads well beyond', async (t) => {
  const { spec, eosTokenIds } = syntheticTokenizer(20_000);
  const table = new StringTable(spec.tokenBytes, spec.tokenOffsets);
  const texts = Array.from({ length: table.length }, (_, i) => table.text(i));
  t.equal(texts.length, 20_000);
  t.equal(new Set(texts).size, 20_000, 'no two tokens have one text');
  t.same(texts.slice(0, 3), ['<|endoftext|>', '<|im_start|>', '<|im_end|>']);
  t.equal(texts[3 + 65], 'A');
  t.equal(texts[3 + 32], '\u0120', 'the space stands as in byte-level BPE');
  t.ok(texts.slice(259).every((text) => /^\u0120([b-z][aeiou]){2,}$/.test(text)));
  t.same(eosTokenIds, [0, 2]);
  t.same([...spec.tokenTypes.subarray(0, 4)], [3, 3, 3, 1]);
});

t.test('a written file is the model that memory would hold', async (t) => {
  const folder = t.testdir();
  for (const text of [
    'tiny',
    'tiny,tied=false,dtype=F16',
    'tiny,arch=gemma3,layers=6,dtype=BF16',
    'tiny,arch=qwen2,dtype=Q5_1',
    'tiny,arch=qwen3,dtype=F32',
    'hidden=256,intermediate=512,heads=4,dtype=Q6_K',
    'llama-1b,layers=1,vocab=300',
  ]) {
    const shape = parseShape(text);
    const path = join(folder, 'm.gguf');
    writeSyntheticGguf(shape, path, 7);
    const written = loadModel(path);
    const memory = loadSynthetic(text);
    t.same(written.native.config, memory.native.config, text);
    const table = (model: typeof written) =>
      model.native.tensors.map(({ name, dtype, rows, cols }) => [name, dtype, rows, cols]);
    t.same(table(written), table(memory), text);
    t.same(written.tokenizer.spec, memory.tokenizer.spec);
    const { spec: _written, ...writtenRest } = written.tokenizer;
    const { spec: _memory, ...memoryRest } = memory.tokenizer;
    t.same(writtenRest, memoryRest);
    const last = [...readGguf(path).tensors.values()].at(-1)!;
    t.ok(statSync(path).size >= last.offset + last.bytes);
  }
});

t.test('fingerprints tell files of one shape apart', async (t) => {
  const folder = t.testdir();
  const write = (name: string, seed: number): string => {
    writeSyntheticGguf(parseShape('tiny'), join(folder, name), seed);
    return loadModel(join(folder, name)).fingerprint;
  };
  const first = write('a.gguf', 1);
  t.match(first, /^[0-9a-f]{64}$/);
  t.equal(write('b.gguf', 1), first, 'the name does not count');
  t.not(write('c.gguf', 2), first, 'the weights do');
});

t.test('random values have the deviation they promise', async (t) => {
  t.same([1, 0.5, 2 ** -14, 1.5, 0.1].map(halfBits), [0x3c00, 0x3800, 0x0400, 0x3e00, 0x2e66]);
  const bytes = Buffer.alloc(4 * 40_000);
  fillRandom('F32', bytes, new RandomBytes(3));
  const values = new Float32Array(bytes.buffer, bytes.byteOffset, 40_000);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = Math.sqrt(
    values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length,
  );
  t.ok(Math.abs(mean) < 0.0005 && Math.abs(deviation - 0.02) < 0.0005, `${mean} ${deviation}`);
  // Q8_0: codes of all values under one scale of 0.02 / 73.9.
  const block = Buffer.alloc(34 * 2);
  fillRandom('Q8_0', block, new RandomBytes(3));
  t.equal(block.readUInt16LE(0), halfBits(0.02 / Math.sqrt(65_535 / 12)));
  t.equal(block.readUInt16LE(34), block.readUInt16LE(0));
});

t.test('what is neither a file nor a checkpoint is refused', async (t) => {
  const folder = t.testdir({ a: {} });
  t.throws(() => loadModel(join(folder, 'none')), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /no such file/,
  });
  t.throws(() => loadModel(folder), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /without config\.json/,
  });
});
