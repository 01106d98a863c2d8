/**
 * What the compiler must have made of each kernel. A kernel without a row here fails the check, and
 * so does a row without a kernel: a renamed kernel cannot leave its expectations behind.
 *
 * Of every kernel: no spills, no stack frame and no local memory, unless `allows` says why.
 */
export interface Expectation {
  /** Of the readable name, `attention_decode_kernel<DecodeConfig<128, kF16>>`. */
  kernel: RegExp;
  /** Instructions of which at least one must be there; see INSTRUCTIONS. */
  needs: readonly (keyof typeof INSTRUCTIONS)[];
  /** What those instructions carry. */
  because: string;
  /** Warps that registers must leave room for: what the kernel's cost sketch counts on. */
  warps?: number;
  /** Stack, spills or local memory that are meant, with the reason. */
  allows?: { stackBytes: number; because: string };
}

/** Mnemonics of sm_80 and sm_90a, modifiers included ("LDG.E.NA.128.CONSTANT"). */
export const INSTRUCTIONS = {
  'tensor f16': /^(HMMA|HGMMA)\./,
  'tensor int8': /^(IMMA|IGMMA)\./,
  'async copy': /^(LDGSTS\.E.*\.128|UBLKCP)\b/,
  'matrix load': /^LDSM\./,
  'load 128': /^LDG\.E.*\.128\b/,
  'store 128': /^STG\.E.*\.128\b/,
} as const;

/** Local memory: a register array that was indexed by a variable, or a spill. */
export const LOCAL_MEMORY = /^(LDL|STL)\b/;

export const EXPECTATIONS: readonly Expectation[] = [
  {
    kernel: /^attention_decode_kernel<DecodeConfig<256,/,
    needs: ['tensor f16', 'async copy', 'matrix load'],
    because: 'as below; two warps a block for the sake of registers',
    warps: 6,
  },
  {
    kernel: /^attention_decode_kernel</,
    needs: ['tensor f16', 'async copy', 'matrix load'],
    because: 'K and V stream into shared memory 16 bytes a copy and meet 16 rows in a tile',
    warps: 12,
  },
  {
    kernel: /^attention_prefill_kernel</,
    needs: ['tensor f16', 'async copy', 'matrix load'],
    because: 'both products run on tensor cores while the next tile arrives',
    warps: 8,
  },
  {
    kernel: /^attention_combine_kernel/,
    needs: ['load 128'],
    because: 'partial rows are read once, four channels a lane',
  },
  {
    kernel: /^matmul_gemv_quant_kernel</,
    needs: ['tensor int8', 'load 128'],
    because: 'weights go from memory to the tensor core in one 16-byte load a lane',
    warps: 24,
  },
  {
    kernel: /^matmul_gemv_dense_kernel</,
    needs: ['tensor f16', 'load 128'],
    because: 'weights go from memory to the tensor core, eight a load',
    warps: 24,
  },
  {
    kernel: /^matmul_quant_kernel</,
    needs: ['tensor int8', 'async copy'],
    because: 'weights and rows arrive in shared memory while tensor cores multiply the last ones',
    warps: 16,
  },
  {
    kernel: /^dequantize_kernel</,
    needs: ['load 128', 'store 128'],
    because: 'a copy with arithmetic: bytes in, twice to four times as many out',
  },
  {
    kernel: /^(rms_norm|add_norm|convert_rows)_kernel</,
    needs: ['load 128'],
    because: 'rows of f32, four a load',
  },
  {
    kernel: /^qkv_finish_kernel</,
    needs: ['load 128'],
    because: 'rows of f32, four a load',
  },
  {
    kernel: /^silu_mul_kernel</,
    needs: ['load 128'],
    because: 'two rows of f32 in, one out',
  },
  {
    kernel: /^sample_(scan|weigh)_kernel/,
    needs: ['load 128'],
    because: 'every draw reads the row of logits once in each of them',
  },
  { kernel: /^sample_(collect|rank)_kernel/, needs: [], because: 'few rows ask for them' },
  {
    kernel: /^copy_blocks_kernel/,
    needs: ['load 128', 'store 128'],
    because: 'a copy',
  },
  { kernel: /^embed_(quant|dense)_kernel</, needs: ['load 128'], because: 'one row a token' },
  { kernel: /^(compact_rows|softcap)_kernel/, needs: [], because: 'rare, or a row of logits' },
];

/**
 * Functions that kernels call and that have a stack frame of their own, and what makes that
 * harmless. (Kernels that call them: their `allows`.)
 */
export const CALLED_FUNCTIONS: readonly { name: RegExp; because: string }[] = [];

export function expectationOf(kernel: string): Expectation | undefined {
  return EXPECTATIONS.find((row) => row.kernel.test(kernel));
}
