/** Many short byte strings without an object each: one byte array and the offsets into it. */
export class StringTable {
  readonly bytes: Uint8Array;
  /** length + 1 entries, ascending; string i is bytes [offsets[i], offsets[i + 1]). */
  readonly offsets: Uint32Array;

  constructor(bytes: Uint8Array, offsets: Uint32Array) {
    this.bytes = bytes;
    this.offsets = offsets;
  }

  static from(strings: readonly string[]): StringTable {
    const buffer = Buffer.from(strings.join(''), 'utf8');
    const offsets = new Uint32Array(strings.length + 1);
    let end = 0;
    for (let i = 0; i < strings.length; i++) {
      end += Buffer.byteLength(strings[i]!, 'utf8');
      offsets[i + 1] = end;
    }
    return new StringTable(buffer, offsets);
  }

  get length(): number {
    return this.offsets.length - 1;
  }

  text(index: number): string {
    const start = this.offsets[index]!;
    const end = this.offsets[index + 1]!;
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + start, end - start).toString(
      'utf8',
    );
  }

  /** The index of the first string equal to `text`, or -1. */
  indexOf(text: string): number {
    const wanted = Buffer.from(text, 'utf8');
    const { bytes, offsets } = this;
    for (let i = 0; i + 1 < offsets.length; i++) {
      const start = offsets[i]!;
      if (offsets[i + 1]! - start !== wanted.length) continue;
      let k = 0;
      while (k < wanted.length && bytes[start + k] === wanted[k]) k++;
      if (k === wanted.length) return i;
    }
    return -1;
  }
}
