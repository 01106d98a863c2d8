/** Ids, sampling parameters and finish reasons shared by every room. */

/** Element types as native code numbers them (native/dtype.h). */
export const DTYPES = {
  F32: 0,
  F16: 1,
  BF16: 2,
  Q8_0: 3,
  Q4_0: 4,
  Q4_1: 5,
  Q5_0: 6,
  Q5_1: 7,
  Q4_K: 8,
  Q5_K: 9,
  Q6_K: 10,
} as const;
export type DTypeName = keyof typeof DTYPES;

/** `[elements, bytes]` of one block of a type, as stored in files. */
export const DTYPE_BLOCKS: Record<DTypeName, readonly [elements: number, bytes: number]> = {
  F32: [1, 4],
  F16: [1, 2],
  BF16: [1, 2],
  Q8_0: [32, 34],
  Q4_0: [32, 18],
  Q4_1: [32, 20],
  Q5_0: [32, 22],
  Q5_1: [32, 24],
  Q4_K: [256, 144],
  Q5_K: [256, 176],
  Q6_K: [256, 210],
};

/** How one sequence's tokens are drawn; mirrors native/sampler/sampling_params.h. */
export interface SamplingParams {
  /** 0 is greedy. */
  temperature: number;
  topP: number;
  minP: number;
  /** 0 is off. */
  topK: number;
  repetitionPenalty: number;
  frequencyPenalty: number;
  presencePenalty: number;
  /** Unsigned 64 bit. */
  seed: bigint;
  /** -1 none, 0 the sampled token's only, k the top k besides. */
  numLogprobs: number;
  numPromptLogprobs: number;
  logitBias: ReadonlyArray<readonly [tokenId: number, bias: number]>;
  minTokens: number;
  maxTokens: number;
  /** Ids that end the sequence: the model's own end ids (unless ignore_eos) and the request's. */
  stopTokenIds: readonly number[];
}

/** Numbers of the K/V cache (native/kv/kv_dtype.h); fp8 needs a CUDA device. */
export const KV_DTYPES = ['f16', 'bf16', 'q8', 'fp8'] as const;
export type KvDtype = (typeof KV_DTYPES)[number];

/** The most likely token every time, and nothing asked for besides; maxTokens is the caller's to set. */
export const GREEDY_SAMPLING: SamplingParams = {
  temperature: 0,
  topP: 1,
  minP: 0,
  topK: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  seed: 0n,
  numLogprobs: -1,
  numPromptLogprobs: -1,
  logitBias: [],
  minTokens: 0,
  maxTokens: 0,
  stopTokenIds: [],
};

export type FinishReason = 'stop' | 'length';

export interface TokenLogprob {
  tokenId: number;
  /** Natural log of the model's own probability, before temperature and penalties. */
  logprob: number;
  /** 1 is the most likely token. */
  rank: number;
}

export interface TokenWithLogprobs extends TokenLogprob {
  /** Descending by logprob; at most as many as asked for. */
  top: ReadonlyArray<{ tokenId: number; logprob: number }>;
}
