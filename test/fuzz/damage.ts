/** Changes to bytes that find weak readers: extreme lengths, cuts, repeats, stray bits. */
import fc from 'fast-check';

export type Damage =
  | { kind: 'flip'; at: number; bit: number }
  | { kind: 'byte'; at: number; value: number }
  | { kind: 'u32'; at: number; value: number }
  | { kind: 'u64'; at: number; value: bigint }
  | { kind: 'cut'; at: number }
  | { kind: 'remove'; at: number; bytes: number }
  | { kind: 'repeat'; at: number; bytes: number };

const INTERESTING_32 = [0, 1, 2, 255, 256, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];
const INTERESTING_64 = [
  0n,
  1n,
  1n << 31n,
  1n << 32n,
  1n << 40n,
  1n << 53n,
  1n << 62n,
  1n << 63n,
  (1n << 64n) - 1n,
];

/** One to four changes among the first `bytes` bytes. */
export function damageOf(bytes: number): fc.Arbitrary<Damage[]> {
  const at = fc.nat({ max: bytes - 1 });
  const length = fc.integer({ min: 1, max: 64 });
  const change: fc.Arbitrary<Damage> = fc.oneof(
    fc.record({ kind: fc.constant('flip' as const), at, bit: fc.nat({ max: 7 }) }),
    fc.record({ kind: fc.constant('byte' as const), at, value: fc.nat({ max: 255 }) }),
    fc.record({ kind: fc.constant('u32' as const), at, value: fc.constantFrom(...INTERESTING_32) }),
    fc.record({ kind: fc.constant('u64' as const), at, value: fc.constantFrom(...INTERESTING_64) }),
    fc.record({ kind: fc.constant('cut' as const), at }),
    fc.record({ kind: fc.constant('remove' as const), at, bytes: length }),
    fc.record({ kind: fc.constant('repeat' as const), at, bytes: length }),
  );
  return fc.array(change, { minLength: 1, maxLength: 4 });
}

export function damage(base: Buffer, changes: readonly Damage[]): Buffer {
  let bytes = Buffer.from(base);
  for (const change of changes) {
    if (change.at + 8 > bytes.length) continue;
    switch (change.kind) {
      case 'flip':
        bytes[change.at]! ^= 1 << change.bit;
        break;
      case 'byte':
        bytes[change.at] = change.value;
        break;
      case 'u32':
        bytes.writeUInt32LE(change.value, change.at);
        break;
      case 'u64':
        bytes.writeBigUInt64LE(change.value, change.at);
        break;
      case 'cut':
        bytes = bytes.subarray(0, change.at);
        break;
      case 'remove':
        bytes = Buffer.concat([
          bytes.subarray(0, change.at),
          bytes.subarray(change.at + change.bytes),
        ]);
        break;
      case 'repeat': {
        const piece = bytes.subarray(change.at, change.at + change.bytes);
        bytes = Buffer.concat([bytes.subarray(0, change.at), piece, bytes.subarray(change.at)]);
        break;
      }
    }
  }
  return bytes;
}
