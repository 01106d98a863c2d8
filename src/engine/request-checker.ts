/**
 * Checks a request before it is queued. HTTP has validated what users write; this is the wall in
 * front of native code, which refuses a whole step plan for one bad number in it.
 */
import { EngineError } from '../errors.js';
import type { SamplingParams } from '../types.js';
import type { EngineLimits, GenerationRequest } from './engine-types.js';

const FLOAT_MAX = 3.4e38;
const INT32_MAX = 0x7fffffff;
/** kLogprobsMax of native/engine_core.h. */
const LOGPROBS_MAX = 128;

type Range = [field: keyof SamplingParams, min: number, max: number, isWhole: boolean];
const RANGES: readonly Range[] = [
  ['temperature', 0, FLOAT_MAX, false],
  ['topP', 0, 1, false],
  ['minP', 0, 1, false],
  ['topK', 0, INT32_MAX, true],
  ['repetitionPenalty', 1e-6, FLOAT_MAX, false],
  ['frequencyPenalty', -1e6, 1e6, false],
  ['presencePenalty', -1e6, 1e6, false],
  ['numLogprobs', -1, LOGPROBS_MAX, true],
  ['numPromptLogprobs', -1, LOGPROBS_MAX, true],
  ['minTokens', 0, INT32_MAX, true],
];

export class RequestChecker {
  private readonly limits: EngineLimits;

  constructor(limits: EngineLimits) {
    this.limits = limits;
  }

  /**
   * The request's sampling with a finite maxTokens (Infinity becomes what is left of the context).
   * Throws ERR_INVALID_REQUEST, and ERR_CONTEXT_TOO_LONG with both counts.
   */
  check(request: GenerationRequest): SamplingParams {
    this.checkPrompt(request.promptTokens);
    this.checkSampling(request.sampling);
    this.checkLogprobsFrom(request.promptLogprobsFrom ?? 1, request.promptTokens.length);
    const { deadlineMs, priority } = request;
    if (!Number.isFinite(priority)) throw invalid('priority', 'a number', priority);
    if (deadlineMs !== null && !Number.isFinite(deadlineMs)) {
      throw invalid('deadlineMs', 'a time or null', deadlineMs);
    }
    return this.fitLength(request.promptTokens.length, request.sampling);
  }

  private checkPrompt(tokens: Int32Array): void {
    if (tokens.length === 0) throw invalid('prompt', 'at least one token', 0);
    for (let i = 0; i < tokens.length; i++) {
      const id = tokens[i]!;
      if (id < 0 || id >= this.limits.vocabSize) {
        throw invalid(`prompt[${i}]`, `a token id below ${this.limits.vocabSize}`, id);
      }
    }
  }

  private checkLogprobsFrom(from: number, numPromptTokens: number): void {
    if (Number.isInteger(from) && from >= 1 && from <= numPromptTokens) return;
    throw invalid('promptLogprobsFrom', `a position in [1, ${numPromptTokens}]`, from);
  }

  private checkSampling(sampling: SamplingParams): void {
    for (const [field, min, max, isWhole] of RANGES) {
      const value = sampling[field] as number;
      const fits = value >= min && value <= max && (!isWhole || Number.isInteger(value));
      if (!fits)
        throw invalid(field, `${isWhole ? 'an integer' : 'a number'} in [${min}, ${max}]`, value);
    }
    const { maxTokens } = sampling;
    if (!(maxTokens >= 0) || (Number.isFinite(maxTokens) && !Number.isInteger(maxTokens))) {
      throw invalid('maxTokens', 'a whole number of tokens or Infinity', maxTokens);
    }
    for (const [tokenId, bias] of sampling.logitBias) {
      if (!Number.isInteger(tokenId) || tokenId < 0 || tokenId >= this.limits.vocabSize) {
        throw invalid('logitBias', `a token id below ${this.limits.vocabSize}`, tokenId);
      }
      if (!(Math.abs(bias) <= FLOAT_MAX)) throw invalid('logitBias', 'a finite number', bias);
    }
  }

  /** prompt + output must fit the context and, alone, the KV pool. */
  private fitLength(numPromptTokens: number, sampling: SamplingParams): SamplingParams {
    const { maxModelLen, kvTokens } = this.limits;
    const isPoolSmaller = kvTokens < maxModelLen;
    const limit = isPoolSmaller ? kvTokens : maxModelLen;
    const isUntilFull = sampling.maxTokens === Number.POSITIVE_INFINITY;
    const maxTokens = isUntilFull ? limit - numPromptTokens : sampling.maxTokens;
    if (numPromptTokens < limit && numPromptTokens + maxTokens <= limit) {
      return { ...sampling, maxTokens, minTokens: Math.min(sampling.minTokens, maxTokens) };
    }
    const wanted = isUntilFull ? '' : ` and ${sampling.maxTokens} to generate`;
    const holds = isPoolSmaller ? 'The KV memory holds' : 'The context holds';
    throw new EngineError(
      'ERR_CONTEXT_TOO_LONG',
      `${holds} ${limit} tokens, the request has ${numPromptTokens} in the prompt${wanted}.`,
      { param: numPromptTokens < limit ? 'max_tokens' : 'prompt' },
    );
  }
}

function invalid(field: string, expected: string, received: unknown): EngineError {
  return new EngineError(
    'ERR_INVALID_REQUEST',
    `${field}: expected ${expected}, received ${String(received)}.`,
    { param: field },
  );
}
