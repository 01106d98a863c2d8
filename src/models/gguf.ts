/**
 * GGUF: reads metadata and the tensor table of a file (format: ggml/docs/gguf.md). Owns the byte
 * format and its limits, not the meaning of any key. Tensor data is never read here.
 *
 * Invariants of what it returns: every tensor lies inside its file, aligned, overlaps no other, and
 * has a type and shape the engine knows. Anything else is ERR_MODEL_FORMAT with field and offset.
 */
import { existsSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { GgufTensor, GgufValue } from './gguf-format.js';
import { readMetadata } from './gguf-metadata.js';
import { alignmentOf, placeTensors, readTensorTable } from './gguf-tensors.js';
import { HeaderReader } from './header-reader.js';
import { formatError, shown } from './model-error.js';

export interface GgufFile {
  /** All parts, in order; one for a file that is not split. */
  paths: string[];
  metadata: Map<string, GgufValue>;
  tensors: Map<string, GgufTensor>;
}

const MAGIC = 0x46554747; // "GGUF", little-endian
/** Smallest encodings: key length + type + one byte; name length + dims + one dim + type + offset. */
const METADATA_BYTES_MIN = 8 + 4 + 1;
const TENSOR_BYTES_MIN = 8 + 4 + 8 + 4 + 8;
const SPLIT_NAME = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;

/** Opens a GGUF file, or all parts of a split one when given any part. Throws EngineError. */
export function readGguf(path: string): GgufFile {
  const paths = partPaths(path);
  const first = readPart(paths[0]!, 0);
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
    throw formatError({
      file: path,
      where: 'file name',
      expected: 'a part count above 0',
      found: '0',
    });
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
  throw formatError({
    file: path,
    where: 'split.no',
    expected: String(index),
    found: shown(number),
  });
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
    throw formatError({
      file,
      where: 'version',
      offset: 4,
      expected: '3 (or 2), little-endian',
      found,
    });
  }
  const tensorCount = reader.count('tensor count');
  const metadataCount = reader.count('metadata count');
  reader.require(metadataCount * METADATA_BYTES_MIN, `metadata count ${metadataCount}`);
  reader.require(tensorCount * TENSOR_BYTES_MIN, `tensor count ${tensorCount}`);
  return { metadataCount, tensorCount };
}
