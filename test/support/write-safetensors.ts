/** Builds safetensors files for tests: valid ones, and ones whose header is written by hand. */

export interface TestSafetensor {
  dtype: string;
  shape: number[];
}

const BYTES: Record<string, number> = { F32: 4, F16: 2, BF16: 2, F64: 8, I64: 8 };

/** Tensors laid out one after the other, zeros as data. */
export function safetensorsBytes(
  tensors: Readonly<Record<string, TestSafetensor>>,
  metadata?: Record<string, string>,
): Buffer {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  let end = 0;
  for (const [name, { dtype, shape }] of Object.entries(tensors)) {
    const bytes = shape.reduce((product, dim) => product * dim, BYTES[dtype]!);
    header[name] = { dtype, shape, data_offsets: [end, end + bytes] };
    end += bytes;
  }
  return rawSafetensors(JSON.stringify(header), end);
}

/** Any header text, its true length in front, and `dataBytes` zeros. */
export function rawSafetensors(header: string, dataBytes: number): Buffer {
  const text = Buffer.from(header, 'utf8');
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, text, Buffer.alloc(dataBytes)]);
}

/** The tensors of a Hugging Face checkpoint of a tiny shape, in F32. */
export function checkpointTensors(options: {
  hidden?: number;
  layers?: number;
  heads?: number;
  kvHeads?: number;
  headDim?: number;
  intermediate?: number;
  vocab?: number;
  biases?: boolean;
  qkNorm?: boolean;
  postNorms?: boolean;
  head?: boolean;
  prefix?: string;
}): Record<string, TestSafetensor> {
  const { hidden = 32, layers = 2, heads = 4, kvHeads = 2, headDim = 8 } = options;
  const { intermediate = 48, vocab = 10, prefix = 'model.' } = options;
  const tensors: Record<string, TestSafetensor> = {};
  const add = (name: string, ...shape: number[]): void => {
    tensors[name] = { dtype: 'F32', shape };
  };
  add(`${prefix}embed_tokens.weight`, vocab, hidden);
  for (let i = 0; i < layers; i++) {
    const layer = `${prefix}layers.${i}.`;
    add(`${layer}input_layernorm.weight`, hidden);
    add(`${layer}self_attn.q_proj.weight`, heads * headDim, hidden);
    add(`${layer}self_attn.k_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}self_attn.v_proj.weight`, kvHeads * headDim, hidden);
    add(`${layer}self_attn.o_proj.weight`, hidden, heads * headDim);
    if (options.biases) {
      add(`${layer}self_attn.q_proj.bias`, heads * headDim);
      add(`${layer}self_attn.k_proj.bias`, kvHeads * headDim);
      add(`${layer}self_attn.v_proj.bias`, kvHeads * headDim);
    }
    if (options.qkNorm) {
      add(`${layer}self_attn.q_norm.weight`, headDim);
      add(`${layer}self_attn.k_norm.weight`, headDim);
    }
    add(`${layer}post_attention_layernorm.weight`, hidden);
    if (options.postNorms) {
      add(`${layer}pre_feedforward_layernorm.weight`, hidden);
      add(`${layer}post_feedforward_layernorm.weight`, hidden);
    }
    add(`${layer}mlp.gate_proj.weight`, intermediate, hidden);
    add(`${layer}mlp.up_proj.weight`, intermediate, hidden);
    add(`${layer}mlp.down_proj.weight`, hidden, intermediate);
  }
  add(`${prefix}norm.weight`, hidden);
  if (options.head) add('lm_head.weight', vocab, hidden);
  return tensors;
}
