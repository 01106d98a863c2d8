/**
 * Reads the front of a file piece by piece, little-endian, never past its end and never more than
 * was asked for (rounded up to a doubling buffer). Every read names what it is for, so that a
 * truncated file is refused with field, offset, and both byte counts.
 *
 * Lengths come from untrusted files: callers pass them through `require` before they allocate, so
 * no allocation exceeds a small multiple of the bytes really present.
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import { formatError, unavailable } from './model-error.js';

/** Headers are a few MiB even for the largest vocabularies; more is a damaged or hostile file. */
const HEADER_BYTES_MAX = 512 * 1024 * 1024;
const FIRST_READ_BYTES = 256 * 1024;

export class HeaderReader {
  readonly path: string;
  readonly size: number;
  position = 0;
  /** Bytes [0, filled) of the file. */
  private buffer: Buffer = Buffer.alloc(0);
  private filled = 0;
  private readonly fd: number;

  constructor(path: string) {
    this.path = path;
    try {
      this.fd = openSync(path, 'r');
    } catch (error) {
      throw unavailable(`${path}: cannot be opened: ${(error as Error).message}`, error);
    }
    const status = fstatSync(this.fd);
    if (!status.isFile()) {
      closeSync(this.fd);
      throw formatError({
        file: path,
        where: 'file',
        expected: 'a regular file',
        found: 'another kind',
      });
    }
    this.size = status.size;
  }

  close(): void {
    closeSync(this.fd);
  }

  get remaining(): number {
    return this.size - this.position;
  }

  /** Throws unless `bytes` more bytes exist in the file. Reads nothing. */
  require(bytes: number, where: string): void {
    if (bytes <= this.remaining) return;
    throw formatError({
      file: this.path,
      where,
      offset: this.position,
      expected: `${bytes} more bytes`,
      found: `${this.remaining} until the end of the file (${this.size} bytes)`,
    });
  }

  /** The buffer that holds [position, position + bytes), at the file's own offsets. */
  view(bytes: number, where: string): Buffer {
    const end = this.position + bytes;
    if (end > this.filled) {
      this.require(bytes, where);
      this.fill(end, where);
    }
    return this.buffer;
  }

  u8(where: string): number {
    const value = this.view(1, where).readUInt8(this.position);
    this.position += 1;
    return value;
  }

  u32(where: string): number {
    const value = this.view(4, where).readUInt32LE(this.position);
    this.position += 4;
    return value;
  }

  /** A 64-bit count, length or offset. Beyond 2^53 no file could satisfy it. */
  count(where: string): number {
    const buffer = this.view(8, where);
    const low = buffer.readUInt32LE(this.position);
    const high = buffer.readUInt32LE(this.position + 4);
    if (high >= 0x20_0000) {
      const found = (BigInt(high) << 32n) | BigInt(low);
      throw formatError({
        file: this.path,
        where,
        offset: this.position,
        expected: `a number within the file's ${this.size} bytes`,
        found: String(found),
      });
    }
    this.position += 8;
    return high * 0x1_0000_0000 + low;
  }

  /** `bytes` raw bytes, copied. */
  bytes(bytes: number, where: string): Uint8Array {
    const buffer = this.view(bytes, where);
    const copy = new Uint8Array(bytes);
    copy.set(buffer.subarray(this.position, this.position + bytes));
    this.position += bytes;
    return copy;
  }

  text(bytes: number, where: string): string {
    const buffer = this.view(bytes, where);
    const value = buffer.toString('utf8', this.position, this.position + bytes);
    this.position += bytes;
    return value;
  }

  private fill(end: number, where: string): void {
    if (end > HEADER_BYTES_MAX) {
      throw formatError({
        file: this.path,
        where,
        offset: this.position,
        expected: `a header of at most ${HEADER_BYTES_MAX} bytes`,
        found: `at least ${end}`,
      });
    }
    if (end > this.buffer.length) {
      const capacity = Math.min(this.size, Math.max(end, this.buffer.length * 2, FIRST_READ_BYTES));
      const grown = Buffer.allocUnsafe(capacity);
      this.buffer.copy(grown, 0, 0, this.filled);
      this.buffer = grown;
    }
    const target = Math.min(this.size, this.buffer.length);
    while (this.filled < target) {
      const got = readSync(this.fd, this.buffer, this.filled, target - this.filled, this.filled);
      if (got === 0) break;
      this.filled += got;
    }
    if (this.filled < end) {
      throw formatError({
        file: this.path,
        where,
        offset: this.position,
        expected: `${end} bytes`,
        found: `${this.filled}; the file shrank while it was read`,
      });
    }
  }
}

/** Reads `length` bytes at `offset`, exactly. For small tensors that the loader itself needs. */
export function readAt(path: string, offset: number, length: number): Buffer {
  const fd = openSync(path, 'r');
  try {
    const buffer = Buffer.alloc(length);
    let done = 0;
    while (done < length) {
      const got = readSync(fd, buffer, done, length - done, offset + done);
      if (got === 0) {
        throw formatError({
          file: path,
          where: 'data',
          offset,
          expected: `${length} bytes`,
          found: `${done}`,
        });
      }
      done += got;
    }
    return buffer;
  } finally {
    closeSync(fd);
  }
}
