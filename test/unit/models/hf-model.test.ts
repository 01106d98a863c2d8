import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import type { NativeModelConfig } from '../../../src/binding/addon.js';
import { hfModel } from '../../../src/models/hf-model.js';
import {
  checkpointTensors,
  safetensorsBytes,
  type TestSafetensor,
} from '../../support/write-safetensors.js';

const BASE = {
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 48,
  vocab_size: 10,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
};

function write(folder: string, config: object, tensors: Record<string, TestSafetensor>): void {
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config));
  writeFileSync(join(folder, 'model.safetensors'), safetensorsBytes(tensors));
}

function load(
  folder: string,
  architecture: string,
  extra: object,
  tensors = checkpointTensors({}),
) {
  write(folder, { ...BASE, architectures: [architecture], ...extra }, tensors);
  return hfModel(folder);
}

const windows = (config: NativeModelConfig): number[] => config.layers.map((layer) => layer.window);

t.test('llama: every field and tensor', async (t) => {
  const { config, tensors, files } = load(t.testdir(), 'LlamaForCausalLM', {});
  t.same(
    { ...config, ropes: config.ropes.map(({ style, dim }) => [style, dim]) },
    {
      architecture: 'llama',
      vocabSize: 10,
      hiddenSize: 32,
      intermediateSize: 48,
      numHeads: 4,
      numKvHeads: 2,
      headDim: 8,
      maxPosition: 128,
      rmsNormEps: 1e-5,
      softmaxScale: 1 / Math.sqrt(8),
      embeddingScale: 1,
      logitSoftcap: 0,
      attentionSoftcap: 0,
      activation: 0,
      qkvBias: false,
      qkNorm: false,
      postNorms: false,
      tiedEmbeddings: true,
      normWeightOffset: 0,
      ropes: [[1, 8]],
      layers: [
        { window: 0, ropeIndex: 0 },
        { window: 0, ropeIndex: 0 },
      ],
    },
  );
  t.equal(files.length, 1);
  t.same(
    tensors.slice(0, 10).map(({ name, rows, cols }) => [name, rows, cols]),
    [
      ['token_embedding', 10, 32],
      ['layers.0.attention_norm', 1, 32],
      ['layers.0.q_proj', 32, 32],
      ['layers.0.k_proj', 16, 32],
      ['layers.0.v_proj', 16, 32],
      ['layers.0.o_proj', 32, 32],
      ['layers.0.mlp_norm', 1, 32],
      ['layers.0.gate_proj', 48, 32],
      ['layers.0.up_proj', 48, 32],
      ['layers.0.down_proj', 32, 48],
    ],
  );
  t.equal(tensors.length, 20);
});

t.test('tied and untied heads', async (t) => {
  const folder = t.testdir();
  const withHead = checkpointTensors({ head: true });
  const untied = load(folder, 'LlamaForCausalLM', { tie_word_embeddings: false }, withHead);
  t.equal(untied.config.tiedEmbeddings, false);
  t.ok(untied.tensors.some((tensor) => tensor.name === 'lm_head'));
  const tied = load(folder, 'LlamaForCausalLM', {}, withHead);
  t.notOk(
    tied.tensors.some((tensor) => tensor.name === 'lm_head'),
    'a copy of a tied head is left out',
  );
  t.throws(
    () => load(folder, 'LlamaForCausalLM', { tie_word_embeddings: false }),
    /tensor lm_head: expected 10 x 32, found none/,
  );
});

t.test('mistral: window of all layers, 4096 when the key is absent', async (t) => {
  const folder = t.testdir();
  t.same(windows(load(folder, 'MistralForCausalLM', { sliding_window: 16 }).config), [16, 16]);
  t.same(windows(load(folder, 'MistralForCausalLM', { sliding_window: null }).config), [0, 0]);
  t.same(windows(load(folder, 'MistralForCausalLM', {}).config), [4096, 4096]);
  t.equal(load(folder, 'MistralForCausalLM', {}).config.architecture, 'mistral');
});

t.test('qwen2: biases; windows only when asked for', async (t) => {
  const folder = t.testdir();
  const tensors = checkpointTensors({ biases: true });
  const qwen = (extra: object) => load(folder, 'Qwen2ForCausalLM', extra, tensors).config;
  t.equal(qwen({}).qkvBias, true);
  t.same(windows(qwen({ sliding_window: 8, max_window_layers: 1 })), [0, 0]);
  t.same(
    windows(qwen({ use_sliding_window: true, sliding_window: 8, max_window_layers: 1 })),
    [0, 8],
  );
  t.same(
    windows(qwen({ use_sliding_window: true, sliding_window: 8 })),
    [0, 0],
    'max_window_layers is 28',
  );
  const types = ['sliding_attention', 'full_attention'];
  t.same(
    windows(qwen({ use_sliding_window: true, sliding_window: 8, layer_types: types })),
    [8, 0],
  );
  t.throws(() => load(folder, 'Qwen2ForCausalLM', {}), /layers\.0\.q_bias/);
});

t.test('qwen3: QK norms and a head size of 128 by default', async (t) => {
  const folder = t.testdir();
  const own = load(
    folder,
    'Qwen3ForCausalLM',
    { head_dim: 8 },
    checkpointTensors({ qkNorm: true }),
  ).config;
  t.same([own.qkNorm, own.headDim], [true, 8]);
  const large = load(
    folder,
    'Qwen3ForCausalLM',
    {},
    checkpointTensors({ qkNorm: true, headDim: 128 }),
  ).config;
  t.same([large.headDim, large.softmaxScale], [128, 1 / Math.sqrt(128)]);
});

t.test('gemma3: text config, scales, layer types in all spellings', async (t) => {
  const folder = t.testdir();
  const tensors = checkpointTensors({ qkNorm: true, postNorms: true, layers: 4 });
  const gemma = (extra: object) =>
    load(folder, 'Gemma3ForCausalLM', { num_hidden_layers: 4, head_dim: 8, ...extra }, tensors);
  const { config, tensors: mapped } = gemma({
    query_pre_attn_scalar: 16,
    sliding_window: 8,
    final_logit_softcapping: 30,
  });
  t.same(
    [
      config.architecture,
      config.activation,
      config.postNorms,
      config.qkNorm,
      config.normWeightOffset,
    ],
    ['gemma3', 1, true, true, 1],
  );
  t.same(
    [config.softmaxScale, config.embeddingScale, config.logitSoftcap],
    [0.25, Math.fround(Math.sqrt(32)), 30],
  );
  t.equal(config.ropes[0]!.invFreq[1], Math.fround(1e6 ** (-2 / 8)));
  t.equal(config.ropes[1]!.invFreq[1], Math.fround(1e4 ** (-2 / 8)));
  t.same(
    config.layers.map((layer) => layer.ropeIndex),
    [1, 1, 1, 1],
    'the sixth would be global',
  );
  const names = mapped.map((tensor) => tensor.name);
  for (const name of [
    'attention_norm',
    'post_attention_norm',
    'mlp_norm',
    'post_mlp_norm',
    'q_norm',
  ]) {
    t.ok(names.includes(`layers.3.${name}`), name);
  }
  t.same(windows(gemma({ sliding_window: 8, sliding_window_pattern: 2 }).config), [8, 0, 8, 0]);
  t.same(windows(gemma({ sliding_window: 8, _sliding_window_pattern: 4 }).config), [8, 8, 8, 0]);
  const types = ['full_attention', 'sliding_attention', 'sliding_attention', 'full_attention'];
  t.same(windows(gemma({ sliding_window: 8, layer_types: types }).config), [0, 8, 8, 0]);
  t.equal(gemma({}).config.softmaxScale, 1 / 16, 'query_pre_attn_scalar is 256');
});

t.test('gemma3 with vision: nested config, prefixes of both times, towers left out', async (t) => {
  const folder = t.testdir();
  for (const prefix of ['language_model.model.', 'model.language_model.']) {
    const tensors: Record<string, TestSafetensor> = {
      ...checkpointTensors({ qkNorm: true, postNorms: true, prefix }),
      'vision_tower.vision_model.embeddings.position_embedding.weight': {
        dtype: 'F32',
        shape: [2, 2],
      },
      'model.multi_modal_projector.mm_soft_emb_norm.weight': { dtype: 'F32', shape: [2] },
    };
    const { architectures, text_config } = {
      architectures: ['Gemma3ForConditionalGeneration'],
      text_config: { ...BASE, head_dim: 8, sliding_window: 8, tie_word_embeddings: undefined },
    };
    write(folder, { architectures, text_config }, tensors);
    const { config, tensors: mapped } = hfModel(folder);
    t.equal(config.tiedEmbeddings, true, 'by default');
    t.equal(mapped.length, Object.keys(tensors).length - 2);
  }
});

t.test('what the engine cannot run is refused by name', async (t) => {
  const folder = t.testdir();
  const refuse = (
    architecture: string,
    extra: object,
    message: RegExp,
    tensors?: Record<string, TestSafetensor>,
  ): void => {
    t.throws(() => load(folder, architecture, extra, tensors), {
      code: 'ERR_MODEL_FORMAT',
      message,
    });
  };
  refuse(
    'FalconForCausalLM',
    {},
    /architectures: expected one of LlamaForCausalLM.*found "FalconForCausalLM"/,
  );
  refuse('toString', {}, /architectures/);
  refuse(
    'LlamaForCausalLM',
    { quantization_config: { bits: 4 } },
    /quantization_config.*GGUF.*found an object/,
  );
  refuse(
    'LlamaForCausalLM',
    { rope_scaling: { rope_type: 'longrope' } },
    /RoPE scaling type.*found "longrope"/,
  );
  refuse('LlamaForCausalLM', { rope_scaling: { type: 'dynamic', factor: 2 } }, /found "dynamic"/);
  refuse('LlamaForCausalLM', { hidden_act: 'relu' }, /hidden_act.*found "relu"/);
  refuse('LlamaForCausalLM', { attention_bias: true }, /attention_bias/);
  refuse('LlamaForCausalLM', { mlp_bias: true }, /mlp_bias/);
  refuse('LlamaForCausalLM', { pretraining_tp: 2 }, /pretraining_tp/);
  refuse(
    'LlamaForCausalLM',
    { num_attention_heads: 5 },
    /num_attention_heads: expected a divisor of hidden_size 32/,
  );
  refuse('LlamaForCausalLM', { hidden_size: '32' }, /hidden_size.*whole number.*"32"/);
  refuse('LlamaForCausalLM', { vocab_size: undefined }, /vocab_size.*found none/);
  refuse('LlamaForCausalLM', { num_key_value_heads: 8 }, /num_key_value_heads.*from 1 to 4/);
  refuse('Gemma3ForCausalLM', { use_bidirectional_attention: true }, /use_bidirectional_attention/);
  refuse(
    'Qwen3ForCausalLM',
    { layer_types: ['full_attention'] },
    /layer_types: expected 2 entries/,
  );
  refuse(
    'Qwen3ForCausalLM',
    { layer_types: ['full_attention', 'linear_attention'] },
    /layer_types/,
  );
  refuse('LlamaForCausalLM', {}, /"model\.layers\.0\.self_attn\.o_proj\.bias".*an unknown name/, {
    ...checkpointTensors({}),
    'model.layers.0.self_attn.o_proj.bias': { dtype: 'F32', shape: [32] },
  });
  refuse(
    'LlamaForCausalLM',
    { intermediate_size: 64 },
    /shape of tensor layers\.0\.gate_proj.*64 x 32, found 48 x 32/,
  );
  writeFileSync(join(folder, 'config.json'), '{');
  t.throws(() => hfModel(folder), {
    code: 'ERR_MODEL_FORMAT',
    message: /config\.json: file: expected JSON/,
  });
  const empty = t.testdir({ a: {} });
  t.throws(() => hfModel(empty), { code: 'ERR_MODEL_UNAVAILABLE' });
  writeFileSync(
    join(empty, 'config.json'),
    JSON.stringify({ ...BASE, architectures: ['LlamaForCausalLM'] }),
  );
  t.throws(() => hfModel(empty), /weights: expected model\.safetensors or/);
});
