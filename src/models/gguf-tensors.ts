/** Reads the tensor table of a GGUF file and places its tensors inside the file. */
import { DTYPE_BLOCKS, type DTypeName } from '../types.js';
import { GGML_TYPE_NAMES, type GgufTensor, type GgufValue } from './gguf-format.js';
import { readName } from './gguf-name.js';
import type { HeaderReader } from './header-reader.js';
import { formatError, shown } from './model-error.js';

const TENSOR_NAME_BYTES_MAX = 1024;

export function alignmentOf(reader: HeaderReader, metadata: Map<string, GgufValue>): number {
  const value = metadata.get('general.alignment') ?? 32;
  const valid =
    typeof value === 'number' && value >= 8 && value <= 65_536 && (value & (value - 1)) === 0;
  if (valid) return value;
  throw formatError({
    file: reader.path,
    where: 'metadata "general.alignment"',
    expected: 'a power of two from 8 to 65536',
    found: shown(value),
  });
}

/** Reads the table; offsets are still relative to the data section. */
export function readTensorTable(reader: HeaderReader, count: number, file: number): GgufTensor[] {
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

function tensorBytes(
  reader: HeaderReader,
  where: string,
  dtype: DTypeName,
  dims: number[],
): number {
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
export function placeTensors(reader: HeaderReader, tensors: GgufTensor[], alignment: number): void {
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
