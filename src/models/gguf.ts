/**
 * GGUF: reads metadata and the tensor table of a file (format: ggml/docs/gguf.md). Owns the byte
 * format and its limits, not the meaning of any key. Tensor data is never read here.
 *
 * Invariants of what it returns: every tensor lies inside its file, aligned, overlaps no other, and
 * has a type and shape the engine knows. Anything else is ERR_MODEL_FORMAT with field and offset.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DTYPE_BLOCKS, type DTypeName } from '../types.js';
import { HeaderReader } from './header-reader.js';
import { formatError, shown } from './model-error.js';
import { StringTable } from './string-table.js';

/** Value types as the format numbers them. */
export const GGUF_TYPES = {
  UINT8: 0,
  INT8: 1,
  UINT16: 2,
  INT16: 3,
  UINT32: 4,
  INT32: 5,
  FLOAT32: 6,
  BOOL: 7,
  STRING: 8,
  ARRAY: 9,
  UINT64: 10,
  INT64: 11,
  FLOAT64: 12,
} as const;
const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8] as const;

/** ggml's tensor types by number, so that a refusal can name what it found. */
export const GGML_TYPE_NAMES: Readonly<Record<number, string>> = {
  0: 'F32',
  1: 'F16',
  2: 'Q4_0',
  3: 'Q4_1',
  6: 'Q5_0',
  7: 'Q5_1',
  8: 'Q8_0',
  9: 'Q8_1',
  10: 'Q2_K',
  11: 'Q3_K',
  12: 'Q4_K',
  13: 'Q5_K',
  14: 'Q6_K',
  15: 'Q8_K',
  16: 'IQ2_XXS',
  17: 'IQ2_XS',
  18: 'IQ3_XXS',
  19: 'IQ1_S',
  20: 'IQ4_NL',
  21: 'IQ3_S',
  22: 'IQ2_S',
  23: 'IQ4_XS',
  24: 'I8',
  25: 'I16',
  26: 'I32',
  27: 'I64',
  28: 'F64',
  29: 'IQ1_M',
  30: 'BF16',
  34: 'TQ1_0',
  35: 'TQ2_0',
  39: 'MXFP4',
  40: 'NVFP4',
};

export type NumberArray =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array;

/** A metadata value. Booleans of an array are a Uint8Array; nested arrays are a list. */
export type GgufValue =
  | number
  | bigint
  | boolean
  | string
  | NumberArray
  | StringTable
  | GgufValue[];

export interface GgufTensor {
  name: string;
  dtype: DTypeName;
  /** As stored: innermost dimension first, 1 to 4 entries. */
  dims: number[];
  /** Index into GgufFile.paths. */
  file: number;
  /** Bytes from the start of that file. */
  offset: number;
  bytes: number;
}

export interface GgufFile {
  /** All parts, in order; one for a file that is not split. */
  paths: string[];
  metadata: Map<string, GgufValue>;
  tensors: Map<string, GgufTensor>;
}

const MAGIC = 0x46554747; // "GGUF", little-endian
const KEY_BYTES_MAX = 65_535;
const TENSOR_NAME_BYTES_MAX = 1024;
const NESTING_MAX = 4;
/** Smallest encodings: key length + type + one byte; name length + dims + one dim + type + offset. */
const METADATA_BYTES_MIN = 8 + 4 + 1;
const TENSOR_BYTES_MIN = 8 + 4 + 8 + 4 + 8;
const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Opens a GGUF file, or all parts of a split one when given any part. Throws EngineError. */
export function readGguf(path: string): GgufFile {
  const paths = partPaths(path);
  const first = readPart(paths[0]!, 0);
  if (paths.length === 1) {
    checkSplitCount(first, paths);
    return { paths, metadata: first.metadata, tensors: first.tensors };
  }
  checkSplitCount(first, paths);
  for (let i = 1; i < paths.length; i++) {
    const part = readPart(paths[i]!, i);
    checkSplitNumber(part, paths[i]!, i);
    for (const tensor of part.tensors.values()) {
      if (first.tensors.has(tensor.name)) {
        throw formatError({
          file: paths[i]!,
          where: `tensor ${shown(tensor.name)}`,
          offset: tensor.offset,
          expected: 'a name that no earlier part holds',
          found: 'the same name again',
        });
      }
      first.tensors.set(tensor.name, tensor);
    }
  }
  const total = first.metadata.get('split.tensors.count');
  if (typeof total === 'number' && total !== first.tensors.size) {
    throw formatError({
      file: paths[0]!,
      where: 'split.tensors.count',
      expected: `${total} tensors in all parts`,
      found: `${first.tensors.size}`,
    });
  }
  return { paths, metadata: first.metadata, tensors: first.tensors };
}

interface Part {
  metadata: Map<string, GgufValue>;
  tensors: Map<string, GgufTensor>;
}

function partPaths(path: string): string[] {
  const match = SPLIT_NAME.exec(basename(path));
  if (!match) return [path];
  const count = Number(match[3]);
  const paths: string[] = [];
  for (let i = 1; i <= count; i++) {
    const name = `${match[1]}-${String(i).padStart(5, '0')}-of-${match[3]}.gguf`;
    const part = join(dirname(path), name);
    if (!existsSync(part)) {
      throw formatError({
        file: path,
        where: `part ${i} of ${count}`,
        expected: `a file ${name} beside it`,
        found: 'none',
      });
    }
    paths.push(part);
  }
  if (paths.length === 0) {
    throw formatError({ file: path, where: 'file name', expected: 'a part count above 0', found: '0' });
  }
  return paths;
}

function checkSplitCount(part: Part, paths: string[]): void {
  const count = part.metadata.get('split.count');
  // A re-joined file may keep split.count 0; a missing key on a named part is a renamed file.
  const expected = paths.length === 1 ? [undefined, 0, 1] : [paths.length];
  if (expected.includes(count as number | undefined)) return;
  throw formatError({
    file: paths[0]!,
    where: 'split.count',
    expected:
      paths.length === 1
        ? 'a whole model (parts keep their names NAME-00001-of-0000N.gguf)'
        : `${paths.length}, as the file name says`,
    found: shown(count),
  });
}

function checkSplitNumber(part: Part, path: string, index: number): void {
  const number = part.metadata.get('split.no');
  if (number === index) return;
  throw formatError({ file: path, where: 'split.no', expected: String(index), found: shown(number) });
}

function readPart(path: string, fileIndex: number): Part {
  const reader = new HeaderReader(path);
  try {
    const { metadataCount, tensorCount } = readPreamble(reader);
    const metadata = readMetadata(reader, metadataCount);
    const tensors = readTensorTable(reader, tensorCount, fileIndex);
    placeTensors(reader, tensors, alignmentOf(reader, metadata));
    return { metadata, tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])) };
  } finally {
    reader.close();
  }
}

function readPreamble(reader: HeaderReader): { metadataCount: number; tensorCount: number } {
  const file = reader.path;
  const magic = reader.u32('magic');
  if (magic !== MAGIC) {
    const found = `bytes 0x${magic.toString(16).padStart(8, '0')}`;
    throw formatError({ file, where: 'magic', offset: 0, expected: '"GGUF"', found });
  }
  const version = reader.u32('version');
  // Version 2 has the same layout; version 1 had 32-bit counts and is long gone.
  if (version !== 3 && version !== 2) {
    const found = version === 0x0300_0000 ? 'a big-endian file' : String(version);
    throw formatError({ file, where: 'version', offset: 4, expected: '3 (or 2), little-endian', found });
  }
  const tensorCount = reader.count('tensor count');
  const metadataCount = reader.count('metadata count');
  reader.require(metadataCount * METADATA_BYTES_MIN, `metadata count ${metadataCount}`);
  reader.require(tensorCount * TENSOR_BYTES_MIN, `tensor count ${tensorCount}`);
  return { metadataCount, tensorCount };
}

function readMetadata(reader: HeaderReader, count: number): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < count; i++) {
    const offset = reader.position;
    const key = readName(reader, `metadata key ${i}`, KEY_BYTES_MAX);
    const where = `metadata ${shown(key)}`;
    if (metadata.has(key)) {
      throw formatError({
        file: reader.path,
        where,
        offset,
        expected: 'each key once',
        found: 'the same key again',
      });
    }
    metadata.set(key, readValue(reader, readValueType(reader, where), where, 0));
  }
  return metadata;
}

function readName(reader: HeaderReader, where: string, bytesMax: number): string {
  const offset = reader.position;
  const length = reader.count(`length of ${where}`);
  if (length === 0 || length > bytesMax) {
    throw formatError({
      file: reader.path,
      where: `length of ${where}`,
      offset,
      expected: `1 to ${bytesMax} bytes`,
      found: String(length),
    });
  }
  return reader.text(length, where);
}

function readValueType(reader: HeaderReader, where: string): number {
  const offset = reader.position;
  const type = reader.u32(`type of ${where}`);
  if (type >= VALUE_BYTES.length) {
    throw formatError({
      file: reader.path,
      where: `type of ${where}`,
      offset,
      expected: '0 to 12',
      found: String(type),
    });
  }
  return type;
}

function readValue(reader: HeaderReader, type: number, where: string, depth: number): GgufValue {
  switch (type) {
    case GGUF_TYPES.STRING: {
      const length = reader.count(`length of ${where}`);
      return reader.text(length, where);
    }
    case GGUF_TYPES.ARRAY:
      return readArray(reader, where, depth);
    case GGUF_TYPES.BOOL:
      return reader.u8(where) !== 0;
    default:
      return readNumber(reader, type, where);
  }
}

function readNumber(reader: HeaderReader, type: number, where: string): number | bigint {
  const bytes = VALUE_BYTES[type]!;
  const buffer = reader.view(bytes, where);
  const at = reader.position;
  reader.position += bytes;
  switch (type) {
    case GGUF_TYPES.UINT8:
      return buffer.readUInt8(at);
    case GGUF_TYPES.INT8:
      return buffer.readInt8(at);
    case GGUF_TYPES.UINT16:
      return buffer.readUInt16LE(at);
    case GGUF_TYPES.INT16:
      return buffer.readInt16LE(at);
    case GGUF_TYPES.UINT32:
      return buffer.readUInt32LE(at);
    case GGUF_TYPES.INT32:
      return buffer.readInt32LE(at);
    case GGUF_TYPES.FLOAT32:
      return buffer.readFloatLE(at);
    case GGUF_TYPES.FLOAT64:
      return buffer.readDoubleLE(at);
    case GGUF_TYPES.UINT64:
      return narrowed(buffer.readBigUInt64LE(at));
    default:
      return narrowed(buffer.readBigInt64LE(at));
  }
}

function narrowed(value: bigint): number | bigint {
  const small = Number(value);
  return Number.isSafeInteger(small) ? small : value;
}

function readArray(reader: HeaderReader, where: string, depth: number): GgufValue {
  if (depth >= NESTING_MAX) {
    throw formatError({
      file: reader.path,
      where,
      offset: reader.position,
      expected: `arrays nested at most ${NESTING_MAX} deep`,
      found: 'a deeper one',
    });
  }
  const type = readValueType(reader, `elements of ${where}`);
  const count = reader.count(`length of ${where}`);
  // Before anything is allocated: the file must hold this many of the smallest elements.
  reader.require(count * VALUE_BYTES[type]!, `${where} (${count} elements)`);
  if (type === GGUF_TYPES.STRING) return readStrings(reader, count, where);
  if (type !== GGUF_TYPES.ARRAY) return typedArray(reader, type, count, where);
  const values: GgufValue[] = [];
  for (let i = 0; i < count; i++) values.push(readArray(reader, where, depth + 1));
  return values;
}

function typedArray(reader: HeaderReader, type: number, count: number, where: string): NumberArray {
  const { buffer } = reader.bytes(count * VALUE_BYTES[type]!, where);
  switch (type) {
    case GGUF_TYPES.INT8:
      return new Int8Array(buffer);
    case GGUF_TYPES.UINT16:
      return new Uint16Array(buffer);
    case GGUF_TYPES.INT16:
      return new Int16Array(buffer);
    case GGUF_TYPES.UINT32:
      return new Uint32Array(buffer);
    case GGUF_TYPES.INT32:
      return new Int32Array(buffer);
    case GGUF_TYPES.FLOAT32:
      return new Float32Array(buffer);
    case GGUF_TYPES.FLOAT64:
      return new Float64Array(buffer);
    case GGUF_TYPES.UINT64:
      return new BigUint64Array(buffer);
    case GGUF_TYPES.INT64:
      return new BigInt64Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

/** Vocabularies have 262,144 entries: two passes over raw bytes, no object per string. */
function readStrings(reader: HeaderReader, count: number, where: string): StringTable {
  const offsets = new Uint32Array(count + 1);
  const start = reader.position;
  let total = 0;
  for (let i = 0; i < count; i++) {
    const length = reader.count(where);
    reader.view(length, where);
    reader.position += length;
    total += length;
    offsets[i + 1] = total;
  }
  const end = reader.position;
  reader.position = start;
  const source = reader.view(end - start, where);
  reader.position = end;
  const bytes = new Uint8Array(total);
  let from = start;
  for (let i = 0; i < count; i++) {
    from += 8;
    const stop = offsets[i + 1]!;
    for (let to = offsets[i]!; to < stop; to++) bytes[to] = source[from++]!;
  }
  return new StringTable(bytes, offsets);
}

function alignmentOf(reader: HeaderReader, metadata: Map<string, GgufValue>): number {
  const value = metadata.get('general.alignment') ?? 32;
  const valid = typeof value === 'number' && value >= 8 && value <= 65_536 && (value & (value - 1)) === 0;
  if (valid) return value;
  throw formatError({
    file: reader.path,
    where: 'metadata "general.alignment"',
    expected: 'a power of two from 8 to 65536',
    found: shown(value),
  });
}

/** Reads the table; offsets are still relative to the data section. */
function readTensorTable(reader: HeaderReader, count: number, file: number): GgufTensor[] {
  const tensors: GgufTensor[] = [];
  const names = new Set<string>();
  for (let i = 0; i < count; i++) {
    const start = reader.position;
    const name = readName(reader, `tensor ${i}`, TENSOR_NAME_BYTES_MAX);
    const where = `tensor ${shown(name)}`;
    if (names.has(name)) {
      throw formatError({
        file: reader.path,
        where,
        offset: start,
        expected: 'each name once',
        found: 'the same name again',
      });
    }
    names.add(name);
    const dims = readDims(reader, where);
    const dtype = readTensorType(reader, where);
    const bytes = tensorBytes(reader, where, dtype, dims);
    tensors.push({ name, dtype, dims, file, offset: reader.count(`offset of ${where}`), bytes });
  }
  return tensors;
}

function readDims(reader: HeaderReader, where: string): number[] {
  const offset = reader.position;
  const count = reader.u32(`dimensions of ${where}`);
  if (count < 1 || count > 4) {
    throw formatError({
      file: reader.path,
      where: `dimensions of ${where}`,
      offset,
      expected: '1 to 4',
      found: String(count),
    });
  }
  const dims: number[] = [];
  for (let i = 0; i < count; i++) {
    const at = reader.position;
    const dim = reader.count(`dimension ${i} of ${where}`);
    // The engine counts rows and columns in 32 bits.
    if (dim < 1 || dim > 0x7fff_ffff) {
      throw formatError({
        file: reader.path,
        where: `dimension ${i} of ${where}`,
        offset: at,
        expected: '1 to 2147483647',
        found: String(dim),
      });
    }
    dims.push(dim);
  }
  return dims;
}

function readTensorType(reader: HeaderReader, where: string): DTypeName {
  const offset = reader.position;
  const type = reader.u32(`type of ${where}`);
  const name = GGML_TYPE_NAMES[type];
  if (name !== undefined && Object.hasOwn(DTYPE_BLOCKS, name)) return name as DTypeName;
  throw formatError({
    file: reader.path,
    where: `type of ${where}`,
    offset,
    expected: `one of ${Object.keys(DTYPE_BLOCKS).join(', ')}`,
    found: name ?? `unknown type ${type}`,
  });
}

function tensorBytes(reader: HeaderReader, where: string, dtype: DTypeName, dims: number[]): number {
  const [elements, blockBytes] = DTYPE_BLOCKS[dtype];
  const cols = dims[0]!;
  if (cols % elements !== 0) {
    throw formatError({
      file: reader.path,
      where: `dimension 0 of ${where}`,
      offset: reader.position,
      expected: `a multiple of ${elements} for ${dtype}`,
      found: String(cols),
    });
  }
  let bytes = (cols / elements) * blockBytes;
  for (let i = 1; i < dims.length; i++) bytes *= dims[i]!;
  if (bytes <= reader.size) return bytes;
  throw formatError({
    file: reader.path,
    where: `size of ${where}`,
    offset: reader.position,
    expected: `at most the file's ${reader.size} bytes`,
    found: `${bytes} (${dtype}, ${dims.join(' x ')})`,
  });
}

/** Makes offsets absolute and checks alignment, bounds and overlaps. */
function placeTensors(reader: HeaderReader, tensors: GgufTensor[], alignment: number): void {
  const data = Math.ceil(reader.position / alignment) * alignment;
  for (const tensor of tensors) {
    const where = `offset of tensor ${shown(tensor.name)}`;
    if (tensor.offset % alignment !== 0) {
      throw formatError({
        file: reader.path,
        where,
        offset: data + tensor.offset,
        expected: `a multiple of ${alignment}`,
        found: String(tensor.offset),
      });
    }
    tensor.offset += data;
    if (tensor.offset + tensor.bytes > reader.size) {
      throw formatError({
        file: reader.path,
        where,
        offset: tensor.offset,
        expected: `${tensor.bytes} bytes inside the file's ${reader.size}`,
        found: `an end at ${tensor.offset + tensor.bytes}`,
      });
    }
  }
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset);
  for (let i = 1; i < ordered.length; i++) {
    const before = ordered[i - 1]!;
    const after = ordered[i]!;
    if (before.offset + before.bytes <= after.offset) continue;
    throw formatError({
      file: reader.path,
      where: `offset of tensor ${shown(after.name)}`,
      offset: after.offset,
      expected: `no overlap with tensor ${shown(before.name)}, which ends at ${before.offset + before.bytes}`,
      found: String(after.offset),
    });
  }
}
