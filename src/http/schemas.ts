/**
 * Request bodies: the single source of their types and of what is accepted. Each node's
 * `description` is the "expected …" part of its error message. Fields that are not listed are
 * ignored, except those of unsupported-fields.ts.
 */
import { type Static, type TProperties, Type } from 'typebox';

const INT32_MAX = 2 ** 31 - 1;
/** Sequences of one request; the queue bounds what really runs. */
export const CHOICES_MAX = 128;
const LOGPROBS_MAX = 20;

const number = (minimum: number, maximum: number) =>
  Type.Number({ minimum, maximum, description: `a number from ${minimum} to ${maximum}` });
const integer = (minimum: number, maximum = INT32_MAX) =>
  Type.Integer({
    minimum,
    maximum,
    description:
      maximum === INT32_MAX
        ? `an integer of at least ${minimum}`
        : `an integer from ${minimum} to ${maximum}`,
  });
const boolean = () => Type.Boolean({ description: 'true or false' });
const string = (description = 'a string') => Type.String({ description });
const tokenIds = () =>
  Type.Array(integer(0), { description: 'an array of token ids (integers of at least 0)' });
const optional = <Properties extends TProperties>(properties: Properties) =>
  Type.Partial(Type.Object(properties));

const StreamOptions = Type.Object(
  {
    include_usage: Type.Optional(boolean()),
    include_progress: Type.Optional(boolean()),
  },
  { description: 'an object' },
);

const generationFields = {
  model: string(),
  stream: boolean(),
  stream_options: StreamOptions,
  n: integer(1, CHOICES_MAX),
  temperature: number(0, 2),
  top_p: Type.Number({
    exclusiveMinimum: 0,
    maximum: 1,
    description: 'a number above 0 and up to 1',
  }),
  min_p: number(0, 1),
  top_k: integer(-1),
  repetition_penalty: Type.Number({
    exclusiveMinimum: 0,
    maximum: 100,
    description: 'a number above 0 and up to 100',
  }),
  frequency_penalty: number(-2, 2),
  presence_penalty: number(-2, 2),
  seed: Type.Integer({
    minimum: -(2 ** 63),
    maximum: 2 ** 63,
    description: 'a 64-bit integer',
  }),
  stop: Type.Union(
    [Type.String({ minLength: 1 }), Type.Array(Type.String({ minLength: 1 }), { maxItems: 64 })],
    { description: 'a non-empty string or an array of up to 64 non-empty strings' },
  ),
  stop_token_ids: tokenIds(),
  include_stop_str_in_output: boolean(),
  min_tokens: integer(0),
  ignore_eos: boolean(),
  skip_special_tokens: boolean(),
  logit_bias: Type.Record(Type.String(), number(-100, 100), {
    description: 'an object of token ids to numbers from -100 to 100',
  }),
  prompt_logprobs: integer(0, LOGPROBS_MAX),
  return_token_ids: boolean(),
  return_tokens_as_token_ids: boolean(),
  add_special_tokens: boolean(),
  priority: Type.Integer({
    minimum: -INT32_MAX,
    maximum: INT32_MAX,
    description: 'a 32-bit integer',
  }),
  cache_salt: Type.String({
    maxLength: 256,
    description: 'a string of at most 256 characters',
  }),
  session_id: string(),
};

const Message = Type.Object(
  {
    role: Type.String({ minLength: 1, description: 'a non-empty string' }),
    content: Type.Optional(
      Type.Union(
        [
          Type.String(),
          Type.Null(),
          Type.Array(Type.Object({ type: Type.String(), text: Type.Optional(Type.String()) })),
        ],
        { description: 'a string, null or an array of content parts, each with a type' },
      ),
    ),
  },
  { description: 'an object with role and content' },
);
const Messages = Type.Array(Message, {
  minItems: 1,
  description: 'a non-empty array of messages',
});
const TemplateArguments = Type.Record(Type.String(), Type.Unknown(), {
  description: 'an object',
});

export const ChatCompletionBody = Type.Interface(
  [
    optional({
      ...generationFields,
      max_tokens: integer(1),
      max_completion_tokens: integer(1),
      logprobs: boolean(),
      top_logprobs: integer(0, LOGPROBS_MAX),
      add_generation_prompt: boolean(),
      continue_final_message: boolean(),
      chat_template_kwargs: TemplateArguments,
      reasoning_effort: string(),
    }),
  ],
  { messages: Messages },
);
export type ChatCompletionBody = Static<typeof ChatCompletionBody>;

export const CompletionBody = Type.Interface(
  [
    optional({
      ...generationFields,
      max_tokens: integer(0),
      logprobs: integer(0, LOGPROBS_MAX),
      echo: boolean(),
    }),
  ],
  {
    prompt: Type.Union(
      [
        Type.String(),
        Type.Array(Type.String(), { minItems: 1 }),
        Type.Array(Type.Integer({ minimum: 0, maximum: INT32_MAX }), { minItems: 1 }),
        Type.Array(Type.Array(Type.Integer({ minimum: 0, maximum: INT32_MAX })), { minItems: 1 }),
      ],
      {
        description: 'a string, an array of token ids, or a non-empty array of either',
      },
    ),
  },
);
export type CompletionBody = Static<typeof CompletionBody>;

export const TokenizeBody = optional({
  model: string(),
  prompt: string(),
  messages: Messages,
  add_special_tokens: boolean(),
  return_token_strs: boolean(),
  add_generation_prompt: boolean(),
  continue_final_message: boolean(),
  chat_template_kwargs: TemplateArguments,
});
export type TokenizeBody = Static<typeof TokenizeBody>;

export const DetokenizeBody = Type.Object({
  model: Type.Optional(string()),
  tokens: tokenIds(),
});
export type DetokenizeBody = Static<typeof DetokenizeBody>;

/** What a websocket client sends. */
export const GenerateFrame = Type.Object({
  type: Type.Literal('generate'),
  id: Type.String({ minLength: 1, maxLength: 256, description: 'a non-empty string' }),
  endpoint: Type.Union([Type.Literal('chat.completions'), Type.Literal('completions')], {
    description: '"chat.completions" or "completions"',
  }),
  body: Type.Record(Type.String(), Type.Unknown(), { description: 'a JSON object' }),
});
export type GenerateFrame = Static<typeof GenerateFrame>;

export const CancelFrame = Type.Object({
  type: Type.Literal('cancel'),
  id: Type.String({ minLength: 1, maxLength: 256, description: 'a non-empty string' }),
});
export type CancelFrame = Static<typeof CancelFrame>;
