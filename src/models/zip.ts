/**
 * Reads entries of a ZIP archive (APPNOTE 6.3.10): stored and deflated, ZIP64 included. Python
 * wheels are ZIP archives; nothing else of the format is needed. Streams: memory stays small
 * whatever an entry's size. Sizes and CRC-32 are checked.
 */
import { closeSync, createReadStream, fstatSync, openSync, readSync } from 'node:fs';
import { pipeline } from 'node:stream';
import { crc32, createInflateRaw } from 'node:zlib';
import { formatError } from './model-error.js';

export interface ZipEntry {
  name: string;
  method: number;
  crc: number;
  compressedBytes: number;
  bytes: number;
  /** Of the local header. */
  offset: number;
}

const END_SIGNATURE = 0x06054b50;
const END64_LOCATOR = 0x07064b50;
const END64_SIGNATURE = 0x06064b50;
const CENTRAL_SIGNATURE = 0x02014b50;
const LOCAL_SIGNATURE = 0x04034b50;
const COMMENT_MAX = 65_535;
const DIRECTORY_BYTES_MAX = 64 * 1024 * 1024;

/** The central directory. Throws ERR_MODEL_FORMAT for anything damaged. */
export function readZip(path: string): ZipEntry[] {
  const fd = openSync(path, 'r');
  try {
    const size = fstatSync(fd).size;
    const { offset, bytes } = findDirectory(path, fd, size);
    return readDirectory(path, readRange(path, fd, offset, bytes), size);
  } finally {
    closeSync(fd);
  }
}

function fault(file: string, where: string, expected: string, found: unknown): never {
  throw formatError({ file, where, expected, found: String(found) });
}

function readRange(path: string, fd: number, offset: number, bytes: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  const got = readSync(fd, buffer, 0, bytes, offset);
  if (got !== bytes) fault(path, 'ZIP archive', `${bytes} bytes at ${offset}`, got);
  return buffer;
}

function findDirectory(path: string, fd: number, size: number): { offset: number; bytes: number } {
  const tailBytes = Math.min(size, 22 + COMMENT_MAX);
  const start = size - tailBytes;
  const tail = readRange(path, fd, start, tailBytes);
  let at = tailBytes - 22;
  while (at >= 0 && tail.readUInt32LE(at) !== END_SIGNATURE) at--;
  if (at < 0) fault(path, 'ZIP archive', 'an end of central directory', 'none');
  let bytes = tail.readUInt32LE(at + 12);
  let offset = tail.readUInt32LE(at + 16);
  if (at >= 20 && tail.readUInt32LE(at - 20) === END64_LOCATOR) {
    const position = safe(path, tail.readBigUInt64LE(at - 20 + 8));
    if (position + 56 > size) fault(path, 'ZIP64 end', `an offset below ${size}`, position);
    const end = readRange(path, fd, position, 56);
    if (end.readUInt32LE(0) !== END64_SIGNATURE)
      fault(path, 'ZIP64 end', 'its signature', 'other bytes');
    bytes = safe(path, end.readBigUInt64LE(40));
    offset = safe(path, end.readBigUInt64LE(48));
  }
  if (offset + bytes > size || bytes > DIRECTORY_BYTES_MAX) {
    fault(path, 'central directory', `a range inside ${size} bytes`, `${offset} + ${bytes}`);
  }
  return { offset, bytes };
}

function safe(path: string, value: bigint): number {
  if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
  return fault(path, 'ZIP archive', 'an offset inside the file', value);
}

function readDirectory(path: string, directory: Buffer, size: number): ZipEntry[] {
  const entries: ZipEntry[] = [];
  let at = 0;
  while (at + 46 <= directory.length) {
    if (directory.readUInt32LE(at) !== CENTRAL_SIGNATURE) {
      fault(path, `entry ${entries.length}`, 'a central directory header', 'other bytes');
    }
    const nameBytes = directory.readUInt16LE(at + 28);
    const extraBytes = directory.readUInt16LE(at + 30);
    const next = at + 46 + nameBytes + extraBytes + directory.readUInt16LE(at + 32);
    if (next > directory.length)
      fault(path, `entry ${entries.length}`, 'a whole header', 'a cut one');
    const entry: ZipEntry = {
      name: directory.toString('utf8', at + 46, at + 46 + nameBytes),
      method: directory.readUInt16LE(at + 10),
      crc: directory.readUInt32LE(at + 16),
      compressedBytes: directory.readUInt32LE(at + 20),
      bytes: directory.readUInt32LE(at + 24),
      offset: directory.readUInt32LE(at + 42),
    };
    applyZip64(
      path,
      entry,
      directory.subarray(at + 46 + nameBytes, at + 46 + nameBytes + extraBytes),
    );
    if (entry.offset + 30 + entry.compressedBytes > size) {
      fault(path, `entry ${entry.name}`, `a range inside ${size} bytes`, entry.offset);
    }
    entries.push(entry);
    at = next;
  }
  return entries;
}

/** Extra field 1 holds, in this order, the fields that are all ones in the header. */
function applyZip64(path: string, entry: ZipEntry, extra: Buffer): void {
  for (let at = 0; at + 4 <= extra.length; ) {
    const id = extra.readUInt16LE(at);
    const end = at + 4 + extra.readUInt16LE(at + 2);
    if (id === 1) {
      let field = at + 4;
      for (const key of ['bytes', 'compressedBytes', 'offset'] as const) {
        if (entry[key] !== 0xffff_ffff) continue;
        if (field + 8 > Math.min(end, extra.length)) fault(path, entry.name, 'ZIP64 sizes', 'none');
        entry[key] = safe(path, extra.readBigUInt64LE(field));
        field += 8;
      }
      return;
    }
    at = end;
  }
}

/**
 * An entry's content, chunk by chunk. Throws ERR_MODEL_FORMAT as soon as it exceeds the size it
 * claims (a bomb stops here, not when the disk is full), and at the end unless size and CRC match.
 */
export async function* entryChunks(
  path: string,
  entry: ZipEntry,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  if (entry.method !== 0 && entry.method !== 8) {
    fault(path, `entry ${entry.name}`, 'stored or deflated data', `method ${entry.method}`);
  }
  let crc = 0;
  let bytes = 0;
  for await (const chunk of openEntry(path, entry, signal)) {
    bytes += chunk.length;
    if (bytes > entry.bytes) fault(path, `entry ${entry.name}`, `${entry.bytes} bytes`, 'more');
    crc = crc32(chunk, crc);
    yield chunk;
  }
  if (bytes !== entry.bytes) fault(path, `entry ${entry.name}`, `${entry.bytes} bytes`, bytes);
  if (crc !== entry.crc) fault(path, `entry ${entry.name}`, `CRC-32 ${entry.crc}`, crc);
}

async function* openEntry(
  path: string,
  entry: ZipEntry,
  signal: AbortSignal,
): AsyncGenerator<Buffer> {
  if (entry.compressedBytes === 0) return;
  const start = dataOffset(path, entry);
  const end = start + entry.compressedBytes - 1;
  const source = createReadStream(path, { start, end, highWaterMark: 1 << 20, signal });
  if (entry.method === 0) {
    yield* source as AsyncIterable<Buffer>;
    return;
  }
  try {
    // The callback form hands errors of either stage to whoever reads the last one.
    yield* pipeline(source, createInflateRaw(), () => {}) as AsyncIterable<Buffer>;
  } catch (error) {
    if (signal.aborted) throw error;
    fault(path, `entry ${entry.name}`, 'deflated data', (error as Error).message);
  }
}

function dataOffset(path: string, entry: ZipEntry): number {
  const fd = openSync(path, 'r');
  try {
    const header = readRange(path, fd, entry.offset, 30);
    if (header.readUInt32LE(0) !== LOCAL_SIGNATURE) {
      fault(path, `entry ${entry.name}`, 'a local header', 'other bytes');
    }
    return entry.offset + 30 + header.readUInt16LE(26) + header.readUInt16LE(28);
  } finally {
    closeSync(fd);
  }
}

const TEXT_BYTES_MAX = 16 * 1024 * 1024;

/** A small entry as text. */
export async function readEntryText(
  path: string,
  entry: ZipEntry,
  signal: AbortSignal,
): Promise<string> {
  if (entry.bytes > TEXT_BYTES_MAX)
    fault(path, `entry ${entry.name}`, `${TEXT_BYTES_MAX} bytes at most`, entry.bytes);
  const chunks: Buffer[] = [];
  for await (const chunk of entryChunks(path, entry, signal)) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}
