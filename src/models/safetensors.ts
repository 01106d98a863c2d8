/**
 * safetensors: reads the tensor table of a file or of a sharded checkpoint (format: 8 bytes of
 * header length, a JSON header, data). Owns the byte format and its limits. Tensor data is never
 * read here. Every tensor returned lies inside its file, matches its shape's size, and overlaps no
 * other; anything else is ERR_MODEL_FORMAT with tensor and offset.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DTYPE_BLOCKS, type DTypeName } from '../types.js';
import { HeaderReader } from './header-reader.js';
import { isRecord, readJson } from './json-file.js';
import { formatError, shown } from './model-error.js';

export interface SafetensorsTensor {
  name: string;
  dtype: DTypeName;
  /** Outermost first. */
  shape: number[];
  /** Index into SafetensorsFiles.paths. */
  file: number;
  /** Bytes from the start of that file. */
  offset: number;
  bytes: number;
}

export interface SafetensorsFiles {
  paths: string[];
  tensors: Map<string, SafetensorsTensor>;
}

/** The format's own limit on headers. */
const HEADER_BYTES_MAX = 100_000_000;
const SUPPORTED: readonly DTypeName[] = ['F32', 'F16', 'BF16'];

/** Reads model.safetensors, or model.safetensors.index.json and its shards, of a folder. */
export function readSafetensorsFolder(folder: string): SafetensorsFiles {
  const index = join(folder, 'model.safetensors.index.json');
  if (!existsSync(index)) return readSafetensors([join(folder, 'model.safetensors')]);
  const weightMap = readWeightMap(index);
  const names = [...new Set(weightMap.values())].sort();
  const files = readSafetensors(names.map((name) => join(folder, name)));
  for (const [tensor, name] of weightMap) {
    const found = files.tensors.get(tensor);
    if (found && basename(files.paths[found.file]!) === name) continue;
    throw formatError({
      file: index,
      where: `tensor ${shown(tensor)}`,
      expected: `a tensor of ${name}`,
      found: found ? `one in ${basename(files.paths[found.file]!)}` : 'none',
    });
  }
  return files;
}

function readWeightMap(index: string): Map<string, string> {
  const json = readJson(index);
  const map = isRecord(json) ? json.weight_map : undefined;
  if (!isRecord(map)) {
    throw formatError({
      file: index,
      where: 'weight_map',
      expected: 'an object',
      found: shown(map),
    });
  }
  const result = new Map<string, string>();
  for (const [tensor, name] of Object.entries(map)) {
    // Shards lie beside the index: a path that leads elsewhere is not a checkpoint's.
    if (typeof name !== 'string' || basename(name) !== name || name === '..' || name === '') {
      throw formatError({
        file: index,
        where: `weight_map of ${shown(tensor)}`,
        expected: `a file name in ${dirname(index)}`,
        found: shown(name),
      });
    }
    result.set(tensor, name);
  }
  if (result.size === 0) {
    throw formatError({ file: index, where: 'weight_map', expected: 'tensors', found: 'none' });
  }
  return result;
}

/** Reads the tables of some files into one. A name in two files is refused. */
export function readSafetensors(paths: string[]): SafetensorsFiles {
  const tensors = new Map<string, SafetensorsTensor>();
  for (let file = 0; file < paths.length; file++) {
    for (const tensor of readOne(paths[file]!, file)) {
      if (tensors.has(tensor.name)) {
        throw formatError({
          file: paths[file]!,
          where: `tensor ${shown(tensor.name)}`,
          offset: tensor.offset,
          expected: 'a name that no earlier shard holds',
          found: 'the same name again',
        });
      }
      tensors.set(tensor.name, tensor);
    }
  }
  return { paths, tensors };
}

function readOne(path: string, file: number): SafetensorsTensor[] {
  const reader = new HeaderReader(path);
  try {
    const length = reader.count('header length');
    if (length > HEADER_BYTES_MAX) {
      throw formatError({
        file: path,
        where: 'header length',
        offset: 0,
        expected: `at most ${HEADER_BYTES_MAX}`,
        found: String(length),
      });
    }
    const text = reader.text(length, 'header');
    const tensors = readTable(path, text, file, reader.size);
    checkOverlaps(path, tensors);
    return tensors;
  } finally {
    reader.close();
  }
}

function readTable(path: string, text: string, file: number, size: number): SafetensorsTensor[] {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    const found = (error as Error).message;
    throw formatError({ file: path, where: 'header', offset: 8, expected: 'JSON', found });
  }
  if (!isRecord(json)) {
    throw formatError({
      file: path,
      where: 'header',
      offset: 8,
      expected: 'an object',
      found: shown(json),
    });
  }
  const data = 8 + Buffer.byteLength(text, 'utf8');
  const tensors: SafetensorsTensor[] = [];
  for (const [name, entry] of Object.entries(json)) {
    if (name === '__metadata__') continue;
    tensors.push(readEntry(path, name, entry, { file, data, size }));
  }
  return tensors;
}

function readEntry(
  path: string,
  name: string,
  entry: unknown,
  place: { file: number; data: number; size: number },
): SafetensorsTensor {
  const fault = (where: string, expected: string, found: unknown): never => {
    throw formatError({
      file: path,
      where: `${where} of tensor ${shown(name)}`,
      offset: place.data,
      expected,
      found: shown(found),
    });
  };
  if (!isRecord(entry)) return fault('entry', 'an object', entry);
  const { dtype, shape, data_offsets: range } = entry;
  if (!SUPPORTED.includes(dtype as DTypeName))
    return fault('dtype', `one of ${SUPPORTED.join(', ')}`, dtype);
  if (!isCountList(shape) || shape.length > 8)
    return fault('shape', 'a list of whole numbers', shape);
  if (!isCountList(range) || range.length !== 2)
    return fault('data_offsets', 'two whole numbers', range);
  const [begin, end] = range as [number, number];
  let bytes: number = DTYPE_BLOCKS[dtype as DTypeName][1];
  for (const dim of shape) bytes *= dim;
  if (end - begin !== bytes)
    return fault('data_offsets', `a range of ${bytes} bytes`, `${begin} to ${end}`);
  if (place.data + end > place.size) {
    return fault('data_offsets', `an end within the file's ${place.size} bytes`, place.data + end);
  }
  return {
    name,
    dtype: dtype as DTypeName,
    shape,
    file: place.file,
    offset: place.data + begin,
    bytes,
  };
}

function isCountList(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((entry) => Number.isSafeInteger(entry) && entry >= 0);
}

function checkOverlaps(path: string, tensors: SafetensorsTensor[]): void {
  const ordered = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes);
  for (let i = 1; i < ordered.length; i++) {
    const before = ordered[i - 1]!;
    const after = ordered[i]!;
    if (before.offset + before.bytes <= after.offset) continue;
    throw formatError({
      file: path,
      where: `data_offsets of tensor ${shown(after.name)}`,
      offset: after.offset,
      expected: `no overlap with tensor ${shown(before.name)}, which ends at ${before.offset + before.bytes}`,
      found: String(after.offset),
    });
  }
}
