/** A tiny random llama as the addon takes it: no files, weights from seeds. */
import type { NativeEngineOptions, NativeModel, NativeTensor } from '../../src/binding/addon.js';
import { DTYPES, type DTypeName } from '../../src/types.js';

const HIDDEN = 64;
const INTERMEDIATE = 96;
const HEADS = 4;
const KV_HEADS = 2;
const HEAD_DIM = 16;
const LAYERS = 2;
export const TINY_VOCAB = 131;

export function tinyNativeModel(): NativeModel {
  const tensors: NativeTensor[] = [];
  const add = (name: string, rows: number, cols: number, dtype: DTypeName = 'F32'): void => {
    const seed = tensors.length + 1;
    tensors.push({ name, dtype: DTYPES[dtype], rows, cols, file: -1, offset: 0, seed });
  };
  add('token_embedding', TINY_VOCAB, HIDDEN, 'Q8_0');
  add('output_norm', 1, HIDDEN);
  for (let i = 0; i < LAYERS; i++) {
    const prefix = `layers.${i}.`;
    add(`${prefix}attention_norm`, 1, HIDDEN);
    add(`${prefix}q_proj`, HEADS * HEAD_DIM, HIDDEN, 'Q4_0');
    add(`${prefix}k_proj`, KV_HEADS * HEAD_DIM, HIDDEN, 'Q5_0');
    add(`${prefix}v_proj`, KV_HEADS * HEAD_DIM, HIDDEN, 'Q8_0');
    add(`${prefix}o_proj`, HIDDEN, HEADS * HEAD_DIM, 'BF16');
    add(`${prefix}mlp_norm`, 1, HIDDEN);
    add(`${prefix}gate_proj`, INTERMEDIATE, HIDDEN, 'Q4_1');
    add(`${prefix}up_proj`, INTERMEDIATE, HIDDEN, 'Q4_1');
    add(`${prefix}down_proj`, HIDDEN, INTERMEDIATE, 'Q5_1');
  }
  return {
    config: {
      architecture: 'llama',
      vocabSize: TINY_VOCAB,
      hiddenSize: HIDDEN,
      intermediateSize: INTERMEDIATE,
      numHeads: HEADS,
      numKvHeads: KV_HEADS,
      headDim: HEAD_DIM,
      maxPosition: 512,
      rmsNormEps: 1e-5,
      softmaxScale: HEAD_DIM ** -0.5,
      embeddingScale: 1,
      logitSoftcap: 0,
      attentionSoftcap: 0,
      activation: 0,
      qkvBias: false,
      qkNorm: false,
      postNorms: false,
      tiedEmbeddings: true,
      normWeightOffset: 0,
      ropes: [
        {
          style: 0,
          dim: HEAD_DIM,
          invFreq: Float32Array.from(
            { length: HEAD_DIM / 2 },
            (_, i) => 100 ** ((-2 * i) / HEAD_DIM),
          ),
          attentionFactor: 1,
        },
      ],
      layers: Array.from({ length: LAYERS }, () => ({ window: 0, ropeIndex: 0 })),
    },
    files: [],
    tensors,
  };
}

export const TINY_OPTIONS: NativeEngineOptions = {
  backend: 'cpu',
  threads: 1,
  isaLimit: '',
  kvMemoryBytes: 1 << 20,
  kvDtype: 'f16',
  blockSize: 32,
  maxNumSeqs: 4,
  maxNumBatchedTokens: 64,
  maxModelLen: 0,
};
