/**
 * Random tensor bytes of every type, for synthetic model files. Values are uniform with zero mean
 * and a standard deviation of 0.02, the usual initialization, so that activations stay finite
 * through any number of layers. Quantized blocks get random codes under one fixed scale.
 */
import { DTYPE_BLOCKS, type DTypeName } from '../types.js';

const DEVIATION = 0.02;

/** sfc32 (Doty-Humphrey, PractRand): fast in 32-bit integers, good enough for weights. */
export class RandomBytes {
  private a: number;
  private b: number;
  private c: number;
  private counter = 1;

  constructor(seed: number) {
    this.a = seed | 0;
    this.b = 0x9e37_79b9 | 0;
    this.c = ~seed;
    for (let i = 0; i < 12; i++) this.next();
  }

  next(): number {
    const sum = (this.a + this.b + this.counter) | 0;
    this.counter = (this.counter + 1) | 0;
    this.a = this.b ^ (this.b >>> 9);
    this.b = (this.c + (this.c << 3)) | 0;
    this.c = (((this.c << 21) | (this.c >>> 11)) + sum) | 0;
    return sum;
  }

  fill(words: Int32Array): void {
    for (let i = 0; i < words.length; i++) words[i] = this.next();
  }
}

/** IEEE half precision bits of a positive normal number, rounded to nearest. */
export function halfBits(value: number): number {
  const exponent = Math.floor(Math.log2(value));
  const mantissa = Math.round((value / 2 ** exponent - 1) * 1024);
  return ((exponent + 15) << 10) + mantissa;
}

/** Standard deviation of codes spread evenly over `count` values. */
const spread = (count: number): number => Math.sqrt((count * count - 1) / 12);

/** Q6_K's sub-scales: small enough that the block's own scale stays a normal half. */
const Q6_SCALE = 8;

interface Scale {
  /** Byte position inside a block. */
  at: number;
  bits: number;
}

const negative = (bits: number): number => bits | 0x8000;
/** 6-bit sub-scales and sub-minimums of K-blocks, all 32, packed. */
const K_SCALES = [0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0xa0, 0, 0, 0, 0];

/** The half-precision fields of a block; its other bytes are codes. */
function scalesOf(dtype: DTypeName): Scale[] {
  const step = (count: number): number => DEVIATION / spread(count);
  switch (dtype) {
    case 'Q8_0':
      return [{ at: 0, bits: halfBits(step(256)) }];
    case 'Q4_0':
      return [{ at: 0, bits: halfBits(step(16)) }];
    case 'Q5_0':
      return [{ at: 0, bits: halfBits(step(32)) }];
    case 'Q4_1':
      return [
        { at: 0, bits: halfBits(step(16)) },
        { at: 2, bits: negative(halfBits(7.5 * step(16))) },
      ];
    case 'Q5_1':
      return [
        { at: 0, bits: halfBits(step(32)) },
        { at: 2, bits: negative(halfBits(15.5 * step(32))) },
      ];
    case 'Q4_K':
      return [
        { at: 0, bits: halfBits(step(16) / 32) },
        { at: 2, bits: halfBits((7.5 * step(16)) / 32) },
      ];
    case 'Q5_K':
      return [
        { at: 0, bits: halfBits(step(32) / 32) },
        { at: 2, bits: halfBits((15.5 * step(32)) / 32) },
      ];
    case 'Q6_K':
      return [{ at: 208, bits: halfBits(step(64) / Q6_SCALE) }];
    default:
      return [];
  }
}

/** Overwrites `bytes` (whole blocks, 4-byte aligned) with random values of a type. */
export function fillRandom(dtype: DTypeName, bytes: Buffer, random: RandomBytes): void {
  const words = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >> 2);
  random.fill(words);
  for (let i = words.length * 4; i < bytes.length; i++) bytes[i] = random.next() & 0xff;
  if (dtype === 'F32') fillFloats(words, bytes);
  else if (dtype === 'F16' || dtype === 'BF16') fillHalves(dtype, bytes);
  else fixScales(dtype, bytes);
}

function fixScales(dtype: DTypeName, bytes: Buffer): void {
  const [, blockBytes] = DTYPE_BLOCKS[dtype];
  const scales = scalesOf(dtype);
  for (let block = 0; block < bytes.length; block += blockBytes) {
    for (const scale of scales) bytes.writeUInt16LE(scale.bits, block + scale.at);
    if (dtype === 'Q4_K' || dtype === 'Q5_K') bytes.set(K_SCALES, block + 4);
    if (dtype === 'Q6_K') bytes.fill(Q6_SCALE, block + 192, block + 208);
  }
}

const HALF_RANGE = DEVIATION * Math.sqrt(3);

function fillFloats(words: Int32Array, bytes: Buffer): void {
  const floats = new Float32Array(bytes.buffer, bytes.byteOffset, words.length);
  for (let i = 0; i < words.length; i++) floats[i] = (words[i]! / 0x8000_0000) * HALF_RANGE;
}

/** Sign and mantissa random, exponents near the deviation's: +-[0.0156, 0.0313). */
function fillHalves(dtype: DTypeName, bytes: Buffer): void {
  for (let i = 0; i < bytes.length; i += 2) {
    const bits = bytes.readUInt16LE(i);
    const half = dtype === 'F16' ? (bits & 0x83ff) | (9 << 10) : (bits & 0x807f) | (121 << 7);
    bytes.writeUInt16LE(half, i);
  }
}
