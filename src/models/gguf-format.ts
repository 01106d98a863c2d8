/** The numbers and value types of the GGUF format. */
import type { DTypeName } from '../types.js';
import type { StringTable } from './string-table.js';

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
/** Bytes of one value, by type; of strings and arrays the smallest. */
export const VALUE_BYTES = [1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8] as const;

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
