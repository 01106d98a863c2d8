/**
 * From request fields to the engine's SamplingParams: the model's own defaults, the ids that end
 * a sequence, the seed, and the room left for new tokens.
 */
import { randomBytes } from 'node:crypto';
import { EngineError } from '../errors.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import type { SamplingParams } from '../types.js';
import type { ChatCompletionBody, CompletionBody } from './schemas.js';
import type { ModelInfo } from './server-context.js';
import { invalid } from './validation.js';

type SamplingBody = Omit<ChatCompletionBody | CompletionBody, 'logprobs' | 'max_tokens'>;

/** What a request asks of sampling, before its prompt's length is known. */
export type SamplingRequest = Omit<SamplingParams, 'seed' | 'maxTokens'>;

export function samplingRequest(
  body: SamplingBody,
  model: ModelInfo,
  text: TextService,
  logprobs: { numLogprobs: number; numPromptLogprobs: number },
): SamplingRequest {
  const defaults = model.defaults;
  const stopIds = body.stop_token_ids ?? [];
  stopIds.forEach((id, index) => {
    if (id >= text.vocabSize) throw outsideVocabulary(`stop_token_ids[${index}]`, id, text);
  });
  return {
    numLogprobs: logprobs.numLogprobs,
    numPromptLogprobs: logprobs.numPromptLogprobs,
    temperature: body.temperature ?? defaults.temperature ?? 1,
    topP: body.top_p ?? defaults.topP ?? 1,
    minP: body.min_p ?? 0,
    // -1 is vLLM's spelling of "off".
    topK: Math.max(0, body.top_k ?? defaults.topK ?? 0),
    repetitionPenalty: body.repetition_penalty ?? defaults.repetitionPenalty ?? 1,
    frequencyPenalty: body.frequency_penalty ?? 0,
    presencePenalty: body.presence_penalty ?? 0,
    logitBias: logitBias(body.logit_bias ?? {}, text),
    minTokens: body.min_tokens ?? 0,
    stopTokenIds: [...new Set([...(body.ignore_eos ? [] : text.eosTokenIds), ...stopIds])],
  };
}

/** Checks prompt ids against the vocabulary; an empty prompt has nothing to go on from. */
export function checkPromptTokens(
  field: string,
  tokens: ArrayLike<number>,
  text: TextService,
): void {
  if (tokens.length === 0) throw invalid(field, 'at least one token', []);
  for (let index = 0; index < tokens.length; index += 1) {
    const id = tokens[index] ?? 0;
    if (id >= text.vocabSize) throw outsideVocabulary(`${field}[${index}]`, id, text);
  }
}

export interface TokenRoom {
  promptTokens: number;
  /** Asked for by the request; null when it leaves the choice to the server. */
  maxTokens: number | null;
  /** Where the request names no number: null is "until the context is full". */
  defaultMaxTokens: number | null;
  minTokens: number;
  contextLimit: number;
}

/** Tokens a sequence may generate. A request that cannot fit is refused, never cut. */
export function resolveMaxTokens(room: TokenRoom): number {
  const left = room.contextLimit - room.promptTokens;
  const wanted = room.maxTokens ?? Math.min(room.defaultMaxTokens ?? left, left);
  if (wanted > left || (left < 1 && room.maxTokens === null)) {
    const asked = room.maxTokens ?? 1;
    throw new EngineError(
      'ERR_CONTEXT_TOO_LONG',
      `This model's context holds ${room.contextLimit} tokens, but ${room.promptTokens + asked} ` +
        `were asked for: ${room.promptTokens} in the prompt and ${asked} to generate. ` +
        'Shorten the prompt or ask for fewer tokens.',
      { param: 'max_tokens' },
    );
  }
  if (room.minTokens > wanted) {
    throw invalid('min_tokens', `at most max_tokens (${wanted})`, room.minTokens);
  }
  return wanted;
}

/** Seeds for requests that bring none: random, or a reproducible sequence from the server's seed. */
export function seedSource(serverSeed: bigint | null): () => bigint {
  if (serverSeed === null) return () => randomBytes(8).readBigUInt64LE();
  let state = serverSeed;
  return () => {
    // SplitMix64 (Steele, Lea, Flood 2014): neighboring states give unrelated seeds.
    state = BigInt.asUintN(64, state + 0x9e3779b97f4a7c15n);
    let mixed = state;
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 30n)) * 0xbf58476d1ce4e5b9n);
    mixed = BigInt.asUintN(64, (mixed ^ (mixed >> 27n)) * 0x94d049bb133111ebn);
    return mixed ^ (mixed >> 31n);
  };
}

function logitBias(
  biases: Record<string, number>,
  text: TextService,
): Array<readonly [number, number]> {
  return Object.entries(biases).map(([key, bias]) => {
    if (!/^\d{1,10}$/.test(key)) throw invalid('logit_bias', 'token ids as keys', key);
    const id = Number(key);
    if (id >= text.vocabSize) throw outsideVocabulary('logit_bias', id, text);
    return [id, bias] as const;
  });
}

function outsideVocabulary(field: string, id: number, text: TextService): EngineError {
  const error = invalid(field, `a token id below the vocabulary size ${text.vocabSize}`, id);
  return new EngineError(error.code, error.message, { param: field.replace(/\[.*/, '') });
}
