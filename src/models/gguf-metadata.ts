/**
 * Reads the metadata section of a GGUF file. Whatever a file claims, no allocation exceeds a small
 * multiple of the bytes it holds: counts are checked against its size first.
 */
import { GGUF_TYPES, type GgufValue, type NumberArray, VALUE_BYTES } from './gguf-format.js';
import { readName } from './gguf-name.js';
import type { HeaderReader } from './header-reader.js';
import { formatError, shown } from './model-error.js';
import { StringTable } from './string-table.js';

const KEY_BYTES_MAX = 65_535;
const NESTING_MAX = 4;

export function readMetadata(reader: HeaderReader, count: number): Map<string, GgufValue> {
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
