/**
 * A completion request made ready: checked, tokenized, with its answer's shape chosen. What the
 * two endpoints share of that work; each adds its own prompt and shape (routes/).
 */
import { randomUUID } from 'node:crypto';
import { EngineError } from '../errors.js';
import type { GenerationJob, Prompt } from './generation.js';
import type { ResponseShape } from './response-shape.js';
import { resolveMaxTokens, samplingRequest } from './sampling.js';
import type { ChatCompletionBody, CompletionBody } from './schemas.js';
import type { ServerContext } from './server-context.js';
import { invalid } from './validation.js';

export interface GenerationTask {
  job: GenerationJob;
  shape: ResponseShape;
  /** The name the client used; answered with. */
  model: string;
  stream: boolean;
  includeUsage: boolean;
  includeProgress: boolean;
}

/** Turns a parsed JSON body into a task. Throws EngineError; the engine is not touched yet. */
export type PrepareTask = (context: ServerContext, body: unknown) => Promise<GenerationTask>;

type CommonBody = Omit<ChatCompletionBody | CompletionBody, 'logprobs' | 'max_tokens'>;

/** The served name a request means. Throws ERR_MODEL_NOT_FOUND. */
export function resolveModel(context: ServerContext, name: string | undefined): string {
  const { id, aliases } = context.model;
  if (name === undefined) return id;
  if (name === id || aliases.includes(name)) return name;
  throw new EngineError(
    'ERR_MODEL_NOT_FOUND',
    `The model ${JSON.stringify(name.slice(0, 200))} does not exist here; this server has ${[id, ...aliases].join(', ')}.`,
    { param: 'model' },
  );
}

export interface JobParts {
  /** 'chatcmpl' or 'cmpl'. */
  idPrefix: string;
  prompts: ReadonlyArray<Omit<Prompt, 'maxTokens'>>;
  /** As asked for; null: the endpoint's default applies. */
  maxTokens: number | null;
  /** Null: until the context is full. */
  defaultMaxTokens: number | null;
  numLogprobs: number;
  numPromptLogprobs: number;
}

export function buildJob(context: ServerContext, body: CommonBody, parts: JobParts): GenerationJob {
  const sampling = samplingRequest(body, context.model, context.text, parts);
  const prompts = parts.prompts.map((prompt) => ({
    ...prompt,
    maxTokens: resolveMaxTokens({
      promptTokens: prompt.tokens.length,
      maxTokens: parts.maxTokens,
      defaultMaxTokens: parts.defaultMaxTokens,
      minTokens: sampling.minTokens,
      contextLimit: context.contextLimit,
    }),
  }));
  return {
    id: `${parts.idPrefix}-${randomUUID().replaceAll('-', '')}`,
    prompts,
    n: body.n ?? 1,
    sampling,
    seed: body.seed === undefined ? context.nextSeed() : BigInt.asUintN(64, BigInt(body.seed)),
    stops: typeof body.stop === 'string' ? [body.stop] : (body.stop ?? []),
    stopTokenIds: body.stop_token_ids ?? [],
    includeStop: body.include_stop_str_in_output ?? false,
    skipSpecialTokens: body.skip_special_tokens ?? true,
    priority: body.priority ?? 0,
    cacheSalt: body.cache_salt ?? '',
  };
}

/** Stream options, which mean nothing without a stream. */
export function streamFields(
  body: CommonBody,
): Pick<GenerationTask, 'stream' | 'includeUsage' | 'includeProgress'> {
  const stream = body.stream ?? false;
  if (stream && body.prompt_logprobs !== undefined) {
    throw invalid('prompt_logprobs', 'to be absent when stream is true', body.prompt_logprobs);
  }
  return {
    stream,
    includeUsage: body.stream_options?.include_usage ?? false,
    includeProgress: body.stream_options?.include_progress ?? false,
  };
}
