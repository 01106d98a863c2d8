import t from 'tap';
import type { NativeModel } from '../../../src/binding/addon.js';
import { readGguf } from '../../../src/models/gguf.js';
import { GGUF_TYPES } from '../../../src/models/gguf-format.js';
import { ggufModel } from '../../../src/models/gguf-model.js';
import type { GgufEntry } from '../../../src/models/gguf-writer.js';
import { DTYPES } from '../../../src/types.js';
import {
  ggufBytes,
  llamaMetadata,
  llamaTensors,
  type TestTensor,
  withMetadata,
  writeBytes,
} from '../../support/write-gguf.js';

const { UINT32, FLOAT32, STRING, BOOL, INT32 } = GGUF_TYPES;

type Changes = Parameters<typeof withMetadata>[1];

function load(folder: string, changes: Changes = [], tensors = llamaTensors()): NativeModel {
  const bytes = ggufBytes(withMetadata(llamaMetadata(), changes), tensors);
  return ggufModel(readGguf(writeBytes(folder, 'm.gguf', bytes)));
}

/** The llama file renamed to another architecture. */
function renamed(architecture: string, changes: Changes = []): GgufEntry[] {
  const entries = llamaMetadata().map(
    ([key, type, value]): GgufEntry => [
      key.replace(/^llama\./, `${architecture}.`),
      type,
      key === 'general.architecture' ? architecture : value,
    ],
  );
  return withMetadata(entries, changes);
}

function loadAs(
  folder: string,
  architecture: string,
  tensors: TestTensor[],
  changes: Changes = [],
): NativeModel {
  return ggufModel(
    readGguf(writeBytes(folder, 'm.gguf', ggufBytes(renamed(architecture, changes), tensors))),
  );
}

function perLayer(
  names: Array<[string, ...number[]]>,
  dtype: TestTensor['dtype'] = 'F32',
): TestTensor[] {
  return [0, 1].flatMap((layer) =>
    names.map(([name, ...dims]) => ({ name: `blk.${layer}.${name}`, dtype, dims })),
  );
}

t.test('llama: every field, every tensor', async (t) => {
  const { config, tensors, files } = load(t.testdir());
  t.same(
    {
      ...config,
      ropes: config.ropes.map(({ style, dim, attentionFactor }) => [style, dim, attentionFactor]),
    },
    {
      architecture: 'llama',
      vocabSize: 8,
      hiddenSize: 64,
      intermediateSize: 96,
      numHeads: 4,
      numKvHeads: 2,
      headDim: 16,
      maxPosition: 256,
      rmsNormEps: 0.0009765625,
      softmaxScale: 0.25,
      embeddingScale: 1,
      logitSoftcap: 0,
      attentionSoftcap: 0,
      activation: 0,
      qkvBias: false,
      qkNorm: false,
      postNorms: false,
      tiedEmbeddings: true,
      normWeightOffset: 0,
      ropes: [[0, 16, 1]],
      layers: [
        { window: 0, ropeIndex: 0 },
        { window: 0, ropeIndex: 0 },
      ],
    },
  );
  t.equal(files.length, 1);
  t.same(
    tensors.map(({ name, dtype, rows, cols, file }) => [name, dtype, rows, cols, file]),
    [
      ['token_embedding', DTYPES.Q8_0, 8, 64, 0],
      ['output_norm', DTYPES.F32, 1, 64, 0],
      ...[0, 1].flatMap((i) => [
        [`layers.${i}.attention_norm`, DTYPES.F32, 1, 64, 0],
        [`layers.${i}.q_proj`, DTYPES.Q8_0, 64, 64, 0],
        [`layers.${i}.k_proj`, DTYPES.Q8_0, 32, 64, 0],
        [`layers.${i}.v_proj`, DTYPES.Q8_0, 32, 64, 0],
        [`layers.${i}.o_proj`, DTYPES.Q8_0, 64, 64, 0],
        [`layers.${i}.mlp_norm`, DTYPES.F32, 1, 64, 0],
        [`layers.${i}.gate_proj`, DTYPES.Q8_0, 96, 64, 0],
        [`layers.${i}.up_proj`, DTYPES.Q8_0, 96, 64, 0],
        [`layers.${i}.down_proj`, DTYPES.Q8_0, 64, 96, 0],
      ]),
    ],
  );
});

t.test('llama: untied head, window, defaults, linear and yarn scaling, divisors', async (t) => {
  const folder = t.testdir();
  const head: TestTensor = { name: 'output.weight', dtype: 'F16', dims: [64, 8] };
  t.equal(load(folder, [], [...llamaTensors(), head]).config.tiedEmbeddings, false);
  t.same(load(folder, [['llama.attention.sliding_window', UINT32, 128]]).config.layers[1], {
    window: 128,
    ropeIndex: 0,
  });
  const [plain] = load(folder, [['llama.rope.freq_base', null]]).config.ropes;
  t.equal(plain!.invFreq[1], Math.fround(10_000 ** (-2 / 16)));
  const [linear] = load(folder, [
    ['llama.rope.scaling.type', STRING, 'linear'],
    ['llama.rope.scaling.factor', FLOAT32, 4],
  ]).config.ropes;
  t.equal(linear!.invFreq[0], 0.25);
  t.equal(load(folder, [['llama.rope.scale_linear', FLOAT32, 2]]).config.ropes[0]!.invFreq[0], 0.5);
  const yarn = load(folder, [
    ['llama.rope.scaling.type', STRING, 'yarn'],
    ['llama.rope.scaling.factor', FLOAT32, 4],
    ['llama.rope.scaling.original_context_length', UINT32, 64],
  ]).config.ropes[0]!;
  t.equal(yarn.invFreq[0], 1);
  t.ok(Math.abs(yarn.attentionFactor - (0.1 * Math.log(4) + 1)) < 1e-12);
  t.equal(yarn.invFreq[7], Math.fround(10_000 ** (-14 / 16) / 4));
  const data = new Uint8Array(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8).buffer);
  const divided = load(
    folder,
    [],
    [...llamaTensors(), { name: 'rope_freqs.weight', dtype: 'F32', dims: [8], data }],
  );
  t.equal(divided.config.ropes[0]!.invFreq[3], Math.fround(10_000 ** (-6 / 16) / 4));
  t.notOk(divided.tensors.some((tensor) => tensor.name.includes('rope')));
  const partial = load(folder, [['llama.rope.dimension_count', UINT32, 8]]).config.ropes[0]!;
  t.same([partial.dim, partial.invFreq.length], [8, 4]);
  const lists = load(folder, [
    ['llama.attention.head_count', INT32, [4, 4]],
    ['llama.attention.head_count_kv', INT32, [2, 2]],
  ]).config;
  t.same([lists.numHeads, lists.numKvHeads], [4, 2]);
  t.throws(
    () => load(folder, [['llama.attention.head_count_kv', null]]),
    /shape of tensor layers\.0\.k_proj/,
  );
});

t.test('qwen2 has biases, qwen3 QK norms; both rotate halves', async (t) => {
  const folder = t.testdir();
  const biases = perLayer([
    ['attn_q.bias', 64],
    ['attn_k.bias', 32],
    ['attn_v.bias', 32],
  ]);
  const qwen2 = loadAs(folder, 'qwen2', [...llamaTensors(), ...biases]);
  t.same(
    [qwen2.config.qkvBias, qwen2.config.qkNorm, qwen2.config.ropes[0]!.style],
    [true, false, 1],
  );
  t.same(
    qwen2.tensors.find((tensor) => tensor.name === 'layers.1.k_bias'),
    {
      ...qwen2.tensors.find((tensor) => tensor.name === 'layers.1.k_bias')!,
      rows: 1,
      cols: 32,
      dtype: DTYPES.F32,
    },
  );
  const norms = perLayer([
    ['attn_q_norm.weight', 16],
    ['attn_k_norm.weight', 16],
  ]);
  const qwen3 = loadAs(folder, 'qwen3', [...llamaTensors(), ...norms]);
  t.same(
    [qwen3.config.qkvBias, qwen3.config.qkNorm, qwen3.config.ropes[0]!.style],
    [false, true, 1],
  );
});

t.test('gemma3: local and global layers, scales, norms', async (t) => {
  const folder = t.testdir();
  const norms = perLayer([
    ['attn_q_norm.weight', 16],
    ['attn_k_norm.weight', 16],
    ['post_attention_norm.weight', 64],
    ['post_ffw_norm.weight', 64],
  ]);
  const tensors = [...llamaTensors(), ...norms];
  const window: Changes = [
    ['gemma3.attention.sliding_window', UINT32, 8],
    ['gemma3.rope.freq_base', null],
    ['gemma3.rope.scaling.type', STRING, 'linear'],
    ['gemma3.rope.scaling.factor', FLOAT32, 8],
  ];
  const { config } = loadAs(folder, 'gemma3', tensors, window);
  t.same(
    [
      config.activation,
      config.postNorms,
      config.qkNorm,
      config.normWeightOffset,
      config.embeddingScale,
    ],
    [1, true, true, 0, 8],
  );
  t.equal(config.softmaxScale, 0.25);
  t.same(config.layers, [
    { window: 8, ropeIndex: 1 },
    { window: 8, ropeIndex: 1 },
  ]);
  t.equal(config.ropes[0]!.invFreq[0], 1 / 8, 'global layers are scaled');
  t.equal(config.ropes[0]!.invFreq[1], Math.fround(1e6 ** (-2 / 16) / 8));
  t.equal(config.ropes[1]!.invFreq[1], Math.fround(10_000 ** (-2 / 16)), 'local layers are not');
  const every = loadAs(folder, 'gemma3', tensors, [
    ...window,
    ['gemma3.attention.sliding_window_pattern', UINT32, 2],
  ]);
  t.same(
    every.config.layers.map((layer) => layer.window),
    [8, 0],
  );
  const flags = loadAs(folder, 'gemma3', tensors, [
    ...window,
    ['gemma3.attention.sliding_window_pattern', BOOL, [0, 1]],
  ]);
  t.same(
    flags.config.layers.map((layer) => layer.window),
    [0, 8],
  );
  const scaled = loadAs(folder, 'gemma3', tensors, [
    ...window,
    ['gemma3.final_logit_softcapping', FLOAT32, 30],
  ]);
  t.equal(scaled.config.logitSoftcap, 30);
  t.throws(() => loadAs(folder, 'gemma3', tensors), /sliding_window/);
});

t.test('what the engine cannot run is refused by name', async (t) => {
  const folder = t.testdir();
  const refuse = (changes: Changes, message: RegExp, tensors?: TestTensor[]): void => {
    t.throws(() => load(folder, changes, tensors), { code: 'ERR_MODEL_FORMAT', message });
  };
  refuse(
    [['general.architecture', STRING, 'mamba']],
    /general\.architecture.*llama, qwen2, qwen3, gemma3, found "mamba"/,
  );
  refuse([['general.architecture', null]], /general\.architecture.*found none/);
  refuse([['general.architecture', UINT32, 3]], /general\.architecture.*a string, found 3/);
  refuse([['llama.expert_count', UINT32, 8]], /expert_count.*mixtures.*found 8/);
  refuse([['llama.block_count', UINT32, 0]], /block_count.*from 1 to 4096, found 0/);
  refuse([['llama.block_count', null]], /block_count.*found none/);
  refuse([['llama.embedding_length', STRING, '64']], /embedding_length.*whole number/);
  refuse([['llama.attention.head_count', UINT32, 3]], /head_count.*a divisor of 64/);
  refuse(
    [['llama.attention.head_count', INT32, [4, 2]]],
    /head_count.*the same number for all 2 layers/,
  );
  refuse([['llama.attention.value_length', UINT32, 8]], /value_length.*expected 16/);
  refuse([['llama.attention.layer_norm_rms_epsilon', FLOAT32, Number.NaN]], /epsilon.*finite/);
  refuse([['llama.attention.layer_norm_rms_epsilon', null]], /epsilon.*found none/);
  refuse(
    [['llama.rope.scaling.type', STRING, 'longrope']],
    /rope\.scaling\.type.*found "longrope"/,
  );
  refuse([['llama.rope.dimension_count', UINT32, 32]], /dimension_count.*from 2 to 16, found 32/);
  refuse(
    [['llama.feed_forward_length', UINT32, 97]],
    /tensor layers\.0\.gate_proj.*97 x 64, found 96 x 64/,
  );
  refuse(
    [['llama.block_count', UINT32, 3]],
    /tensor layers\.2\.attention_norm: expected 1 x 64, found none/,
  );
  refuse([['llama.block_count', UINT32, 1]], /tensor layers\.1\.attention_norm.*found one more/);
  const extra = (name: string, ...dims: number[]): TestTensor[] => [
    ...llamaTensors(),
    { name, dtype: 'F32', dims },
  ];
  refuse([], /"blk\.0\.attn_output\.bias".*an unknown name/, extra('blk.0.attn_output.bias', 64));
  refuse([], /"blk\.00\.attn_q\.weight".*an unknown name/, extra('blk.00.attn_q.weight', 64, 64));
  refuse([], /layers\.1\.q_bias.*found one more/, extra('blk.1.attn_q.bias', 64));
  refuse([], /rope_freqs.*expected F32, 8 elements, found F32, 4/, extra('rope_freqs.weight', 4));
  refuse([], /token_embd\.weight: expected two dimensions, found none/, llamaTensors().slice(1));
});
