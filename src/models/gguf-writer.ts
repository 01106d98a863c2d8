/** Writes GGUF version 3: the header as one buffer, and synthetic models as whole files. */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';
import { DTYPE_BLOCKS, type DTypeName } from '../types.js';
import { GGML_TYPE_NAMES, GGUF_TYPES } from './gguf-format.js';
import { GGUF_GLOBAL_TENSORS, GGUF_LAYER_TENSORS } from './gguf-model.js';
import { unavailable } from './model-error.js';
import { fillRandom, RandomBytes } from './random-tensor.js';
import { computeRope } from './rope.js';
import { StringTable } from './string-table.js';
import {
  type SyntheticShape,
  shapeRope,
  syntheticConfig,
  syntheticTokenizer,
  tensorType,
} from './synthetic.js';
import { expectedTensors } from './tensor-table.js';

/** A metadata entry: key, a type of GGUF_TYPES, value. Lists take the type of their elements. */
export type GgufEntry = readonly [
  key: string,
  type: number,
  value: number | boolean | string | readonly number[] | readonly string[] | StringTable,
];

export interface GgufTensorEntry {
  name: string;
  /** ggml's number. */
  type: number;
  /** Innermost first. */
  dims: readonly number[];
  /** From the start of the data section. */
  offset: number;
}

/** ggml's number of a type. */
export function ggmlType(dtype: DTypeName): number {
  const entry = Object.entries(GGML_TYPE_NAMES).find(([, name]) => name === dtype);
  return Number(entry![0]);
}

/** The header, padded so that the data section begins at its end. */
export function encodeGgufHeader(
  metadata: readonly GgufEntry[],
  tensors: readonly GgufTensorEntry[],
  alignment = 32,
): Buffer {
  const writer = new ByteWriter();
  writer.raw(Buffer.from('GGUF', 'latin1'));
  writer.u32(3);
  writer.u64(tensors.length);
  writer.u64(metadata.length);
  for (const [key, type, value] of metadata) {
    writer.text(key);
    writeValue(writer, type, value);
  }
  for (const tensor of tensors) {
    writer.text(tensor.name);
    writer.u32(tensor.dims.length);
    for (const dim of tensor.dims) writer.u64(dim);
    writer.u32(tensor.type);
    writer.u64(tensor.offset);
  }
  writer.pad(alignment);
  return writer.finish();
}

function writeValue(writer: ByteWriter, type: number, value: GgufEntry[2]): void {
  if (value instanceof StringTable) {
    writer.u32(GGUF_TYPES.ARRAY);
    writer.u32(GGUF_TYPES.STRING);
    writer.u64(value.length);
    for (let i = 0; i < value.length; i++) writer.text(value.text(i));
  } else if (typeof value === 'object') {
    writer.u32(GGUF_TYPES.ARRAY);
    writer.u32(type);
    writer.u64(value.length);
    for (const element of value) writeScalar(writer, type, element);
  } else {
    writer.u32(type);
    writeScalar(writer, type, value);
  }
}

function writeScalar(writer: ByteWriter, type: number, value: number | boolean | string): void {
  const number = Number(value);
  switch (type) {
    case GGUF_TYPES.STRING:
      writer.text(String(value));
      break;
    case GGUF_TYPES.BOOL:
    case GGUF_TYPES.UINT8:
    case GGUF_TYPES.INT8:
      writer.raw(Buffer.from([number & 0xff]));
      break;
    case GGUF_TYPES.UINT16:
    case GGUF_TYPES.INT16:
      writer.raw(Buffer.from([number & 0xff, (number >> 8) & 0xff]));
      break;
    case GGUF_TYPES.FLOAT32:
      writer.f32(number);
      break;
    case GGUF_TYPES.FLOAT64:
      writer.f64(number);
      break;
    case GGUF_TYPES.UINT64:
    case GGUF_TYPES.INT64:
      writer.u64(number);
      break;
    default:
      writer.u32(number);
  }
}

class ByteWriter {
  private buffer = Buffer.alloc(1024);
  private length = 0;

  raw(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.buffer.set(bytes, this.length);
    this.length += bytes.length;
  }

  u32(value: number): void {
    this.reserve(4);
    this.length = this.buffer.writeUInt32LE(value >>> 0, this.length);
  }

  u64(value: number): void {
    this.reserve(8);
    this.length = this.buffer.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), this.length);
  }

  f32(value: number): void {
    this.reserve(4);
    this.length = this.buffer.writeFloatLE(value, this.length);
  }

  f64(value: number): void {
    this.reserve(8);
    this.length = this.buffer.writeDoubleLE(value, this.length);
  }

  text(value: string): void {
    const bytes = Buffer.from(value, 'utf8');
    this.u64(bytes.length);
    this.raw(bytes);
  }

  pad(alignment: number): void {
    this.raw(Buffer.alloc((alignment - (this.length % alignment)) % alignment));
  }

  finish(): Buffer {
    return Buffer.from(this.buffer.subarray(0, this.length));
  }

  private reserve(bytes: number): void {
    if (this.length + bytes <= this.buffer.length) return;
    const grown = Buffer.alloc(Math.max(this.buffer.length * 2, this.length + bytes));
    this.buffer.copy(grown, 0, 0, this.length);
    this.buffer = grown;
  }
}

const ALIGNMENT = 32;
const CHUNK_BYTES = 4 * 1024 * 1024;

interface PlannedTensor extends GgufTensorEntry {
  dtype: DTypeName;
  bytes: number;
  /** F32 vectors: norms are 1, RoPE divisors their values, biases random. */
  fixed: Float32Array | null;
}

/**
 * Writes a synthetic model as a GGUF file that any reader of the format opens. Streams: memory
 * stays at a few MiB whatever the size. Throws ERR_MODEL_UNAVAILABLE when the disk is full.
 */
export function writeSyntheticGguf(shape: SyntheticShape, path: string, seed: number): void {
  const tensors = planTensors(shape);
  const header = encodeGgufHeader(metadataOf(shape), tensors, ALIGNMENT);
  const temporary = `${path}.partial-${process.pid}`;
  const fd = openSync(temporary, 'w');
  try {
    writeAll(fd, header);
    for (const [index, tensor] of tensors.entries()) writeTensor(fd, tensor, seed + index);
    fsyncSync(fd);
    closeSync(fd);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw unavailable(`${path}: cannot be written: ${(error as Error).message}`, error);
  }
}

function planTensors(shape: SyntheticShape): PlannedTensor[] {
  const planned: PlannedTensor[] = [];
  let end = 0;
  const add = (
    name: string,
    dtype: DTypeName,
    dims: number[],
    fixed: Float32Array | null,
  ): void => {
    const [elements, blockBytes] = DTYPE_BLOCKS[dtype];
    const bytes = (dims[0]! / elements) * blockBytes * (dims[1] ?? 1);
    planned.push({ name, type: ggmlType(dtype), dims, offset: end, dtype, bytes, fixed });
    end = Math.ceil((end + bytes) / ALIGNMENT) * ALIGNMENT;
  };
  for (const [name, [rows, cols]] of expectedTensors(syntheticConfig(shape))) {
    const dtype = tensorType(shape, name, rows, cols);
    const fixed = name.endsWith('norm') ? new Float32Array(cols).fill(1) : null;
    add(ggufName(name), dtype, rows === 1 ? [cols] : [cols, rows], fixed);
  }
  if (shape.ropeFactor !== 1) {
    add('rope_freqs.weight', 'F32', [shape.headDim / 2], ropeDivisors(shape));
  }
  return planned;
}

/** Llama 3's scaling as GGUF carries it: what each frequency is divided by. */
function ropeDivisors(shape: SyntheticShape): Float32Array {
  const rope = shapeRope(shape);
  const scaled = computeRope(rope, 'synthetic').invFreq;
  return scaled.map((frequency, i) => rope.theta ** (-(2 * i) / rope.dim) / frequency);
}

function ggufName(name: string): string {
  const reverse = (table: Record<string, string>, wanted: string): string =>
    Object.keys(table).find((key) => table[key] === wanted)!;
  const match = /^layers\.(\d+)\.(.+)$/.exec(name);
  if (!match) return reverse(GGUF_GLOBAL_TENSORS, name);
  return `blk.${match[1]}.${reverse(GGUF_LAYER_TENSORS, match[2]!)}`;
}

function metadataOf(shape: SyntheticShape): GgufEntry[] {
  const { UINT32, FLOAT32, STRING, BOOL, INT32 } = GGUF_TYPES;
  const config = syntheticConfig(shape);
  const tokenizer = syntheticTokenizer(shape.vocab);
  const { tokenBytes, tokenOffsets, tokenTypes } = tokenizer.spec;
  const key = (name: string): string => `${shape.architecture}.${name}`;
  const entries: GgufEntry[] = [
    ['general.architecture', STRING, shape.architecture],
    ['general.name', STRING, `Synthetic ${shape.name}`],
    [key('block_count'), UINT32, shape.layers],
    [key('context_length'), UINT32, shape.context],
    [key('embedding_length'), UINT32, shape.hidden],
    [key('feed_forward_length'), UINT32, shape.intermediate],
    [key('attention.head_count'), UINT32, shape.heads],
    [key('attention.head_count_kv'), UINT32, shape.kvHeads],
    [key('attention.key_length'), UINT32, shape.headDim],
    [key('attention.value_length'), UINT32, shape.headDim],
    [key('attention.layer_norm_rms_epsilon'), FLOAT32, config.rmsNormEps],
    [key('rope.dimension_count'), UINT32, shape.headDim],
    [key('rope.freq_base'), FLOAT32, shape.theta],
    [key('vocab_size'), UINT32, shape.vocab],
    ['tokenizer.ggml.model', STRING, 'gpt2'],
    ['tokenizer.ggml.pre', STRING, 'gpt-2'],
    ['tokenizer.ggml.tokens', STRING, new StringTable(tokenBytes, tokenOffsets)],
    ['tokenizer.ggml.token_type', INT32, [...tokenTypes]],
    ['tokenizer.ggml.merges', STRING, StringTable.from([])],
    ['tokenizer.ggml.bos_token_id', UINT32, tokenizer.bosTokenId!],
    ['tokenizer.ggml.eos_token_id', UINT32, 2],
    ['tokenizer.ggml.unknown_token_id', UINT32, 0],
    ['tokenizer.ggml.add_bos_token', BOOL, false],
    ['tokenizer.chat_template', STRING, tokenizer.chatTemplate!],
  ];
  if (shape.window > 0) entries.push([key('attention.sliding_window'), UINT32, shape.window]);
  return entries;
}

function writeTensor(fd: number, tensor: PlannedTensor, seed: number): void {
  if (tensor.fixed) {
    writeAll(
      fd,
      Buffer.from(tensor.fixed.buffer, tensor.fixed.byteOffset, tensor.fixed.byteLength),
    );
  } else {
    const random = new RandomBytes(seed);
    const blockBytes = DTYPE_BLOCKS[tensor.dtype][1];
    // Whole blocks and whole 32-bit words, so that chunks join without a seam.
    const chunk = Math.floor(CHUNK_BYTES / (blockBytes * 4)) * blockBytes * 4;
    for (let done = 0; done < tensor.bytes; done += chunk) {
      const bytes = Buffer.alloc(Math.min(chunk, tensor.bytes - done));
      fillRandom(tensor.dtype, bytes, random);
      writeAll(fd, bytes);
    }
  }
  const rest = tensor.bytes % ALIGNMENT;
  if (rest > 0) writeAll(fd, Buffer.alloc(ALIGNMENT - rest));
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done);
}
