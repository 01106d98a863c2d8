/** Builds GGUF files for tests: valid ones, and ones that lie in a chosen place. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { GGUF_TYPES } from '../../src/models/gguf-format.js';
import {
  encodeGgufHeader,
  type GgufEntry,
  type GgufTensorEntry,
  ggmlType,
} from '../../src/models/gguf-writer.js';
import { DTYPE_BLOCKS, type DTypeName } from '../../src/types.js';

const { UINT32, FLOAT32, STRING, BOOL, INT32 } = GGUF_TYPES;

export interface TestTensor {
  name: string;
  dtype: DTypeName;
  /** Innermost first. */
  dims: number[];
  data?: Uint8Array;
}

/** Lays tensors out one after the other, aligned; returns the whole file. */
export function ggufBytes(
  metadata: readonly GgufEntry[],
  tensors: readonly TestTensor[],
  alignment = 32,
): Buffer {
  const entries: GgufTensorEntry[] = [];
  const data: Buffer[] = [];
  let end = 0;
  for (const { name, dtype, dims, data: given } of tensors) {
    const [elements, blockBytes] = DTYPE_BLOCKS[dtype];
    const bytes = (dims.reduce((product, dim) => product * dim, 1) / elements) * blockBytes;
    entries.push({ name, type: ggmlType(dtype), dims, offset: end });
    const padded = Math.ceil(bytes / alignment) * alignment;
    const chunk = Buffer.alloc(padded);
    if (given) chunk.set(given);
    data.push(chunk);
    end += padded;
  }
  return Buffer.concat([encodeGgufHeader(metadata, entries, alignment), ...data]);
}

/** Metadata of a llama with hidden 64, 2 layers, 4 heads of 16, 2 KV heads, MLP 96, 8 tokens. */
export function llamaMetadata(): GgufEntry[] {
  return [
    ['general.architecture', STRING, 'llama'],
    ['llama.block_count', UINT32, 2],
    ['llama.context_length', UINT32, 256],
    ['llama.embedding_length', UINT32, 64],
    ['llama.feed_forward_length', UINT32, 96],
    ['llama.attention.head_count', UINT32, 4],
    ['llama.attention.head_count_kv', UINT32, 2],
    ['llama.attention.layer_norm_rms_epsilon', FLOAT32, 0.0009765625],
    ['llama.rope.freq_base', FLOAT32, 10_000],
    ['tokenizer.ggml.model', STRING, 'gpt2'],
    ['tokenizer.ggml.pre', STRING, 'smollm'],
    [
      'tokenizer.ggml.tokens',
      STRING,
      ['<|endoftext|>', 'a', 'b', 'ab', '<|im_end|>', 'c', 'd', '\u0120a'],
    ],
    ['tokenizer.ggml.token_type', INT32, [3, 1, 1, 1, 3, 1, 1, 1]],
    ['tokenizer.ggml.merges', STRING, ['a b', '\u0120 a']],
    ['tokenizer.ggml.bos_token_id', UINT32, 0],
    ['tokenizer.ggml.eos_token_id', UINT32, 0],
    ['tokenizer.ggml.add_bos_token', BOOL, true],
    ['tokenizer.chat_template', STRING, '{{ messages }}'],
  ];
}

/** The tensors that llamaMetadata() describes. */
export function llamaTensors(dtype: DTypeName = 'Q8_0'): TestTensor[] {
  const tensors: TestTensor[] = [
    { name: 'token_embd.weight', dtype, dims: [64, 8] },
    { name: 'output_norm.weight', dtype: 'F32', dims: [64] },
  ];
  for (const layer of [0, 1]) {
    const add = (name: string, type: DTypeName, ...dims: number[]): void => {
      tensors.push({ name: `blk.${layer}.${name}.weight`, dtype: type, dims });
    };
    add('attn_norm', 'F32', 64);
    add('attn_q', dtype, 64, 64);
    add('attn_k', dtype, 64, 32);
    add('attn_v', dtype, 64, 32);
    add('attn_output', dtype, 64, 64);
    add('ffn_norm', 'F32', 64);
    add('ffn_gate', dtype, 64, 96);
    add('ffn_up', dtype, 64, 96);
    add('ffn_down', dtype, 96, 64);
  }
  return tensors;
}

/** The same entries with some replaced or (null) removed; new keys are appended. */
export function withMetadata(
  entries: readonly GgufEntry[],
  changes: ReadonlyArray<GgufEntry | readonly [string, null]>,
): GgufEntry[] {
  const byKey = new Map(entries.map((entry) => [entry[0], entry]));
  for (const change of changes) {
    if (change[1] === null) byKey.delete(change[0]);
    else byKey.set(change[0], change as GgufEntry);
  }
  return [...byKey.values()];
}

/** Writes bytes into a test's folder and returns the path. */
export function writeBytes(folder: string, name: string, bytes: Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, bytes);
  return path;
}
