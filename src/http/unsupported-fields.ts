/**
 * Fields that clients of OpenAI, vLLM or llama.cpp may send, that this server knows and does not
 * offer, and that would change the answer: they are refused by name, never ignored. A field set
 * to its do-nothing value is accepted.
 */
import { EngineError } from '../errors.js';

type Body = Record<string, unknown>;
/** Whether a value asks for something; absent and null values are never passed. */
type Asks = (value: unknown, body: Body) => boolean;

const anything: Asks = () => true;
const truthy: Asks = (value) => value !== false && value !== 0 && value !== '';
const nonEmpty: Asks = (value) =>
  typeof value === 'object' && value !== null ? Object.keys(value).length > 0 : value !== '';
const otherThan =
  (...neutral: unknown[]): Asks =>
  (value) =>
    !neutral.includes(value);

const COMMON: Record<string, Asks> = {
  // Structured output, in the spellings of several servers.
  response_format: (value) => (value as { type?: unknown }).type !== 'text',
  structured_outputs: nonEmpty,
  guided_json: anything,
  guided_regex: anything,
  guided_choice: anything,
  guided_grammar: anything,
  guided_whitespace_pattern: anything,
  json_schema: anything,
  grammar: nonEmpty,
  regex: nonEmpty,
  ebnf: nonEmpty,
  // Fixed contexts and squeezed attention.
  context: anything,
  attention: otherThan('exact', 'auto'),
  sparsity: anything,
  kept_tokens: anything,
  attention_debug: truthy,
  // Decoding and sampling that does not exist here.
  best_of: (value, body) => value !== (body.n ?? 1),
  use_beam_search: truthy,
  length_penalty: otherThan(1),
  allowed_token_ids: anything,
  bad_words: nonEmpty,
  logits_processors: nonEmpty,
  logprob_token_ids: nonEmpty,
  repetition_detection: anything,
  truncate_prompt_tokens: anything,
  thinking_token_budget: anything,
  typical_p: otherThan(1),
  top_n_sigma: otherThan(-1),
  mirostat: otherThan(0),
  xtc_probability: otherThan(0),
  dry_multiplier: otherThan(0),
  spaces_between_special_tokens: otherThan(true),
  stop_regex: nonEmpty,
};

const CHAT: Record<string, Asks> = {
  ...COMMON,
  tools: nonEmpty,
  tool_choice: otherThan('none', 'auto'),
  functions: nonEmpty,
  function_call: otherThan('none', 'auto'),
  modalities: (value) => !(Array.isArray(value) && value.every((item) => item === 'text')),
  audio: anything,
  web_search_options: anything,
  echo: truthy,
  documents: nonEmpty,
  chat_template: nonEmpty,
  mm_processor_kwargs: nonEmpty,
  prompt_embeds: anything,
};

const COMPLETION: Record<string, Asks> = {
  ...COMMON,
  suffix: nonEmpty,
  prompt_embeds: anything,
};

const PART_TYPES = new Set(['text', 'input_text', 'output_text', 'refusal']);

export const refuseUnsupportedChatFields = (body: unknown): void => refuse(CHAT, body);
export const refuseUnsupportedCompletionFields = (body: unknown): void => refuse(COMPLETION, body);

/** Refuses image, audio, video and file parts of messages. */
export function refuseUnsupportedParts(messages: ReadonlyArray<{ content?: unknown }>): void {
  messages.forEach((message, index) => {
    if (!Array.isArray(message.content)) return;
    message.content.forEach((part: { type: string }, partIndex) => {
      if (PART_TYPES.has(part.type)) return;
      throw unsupported(
        `messages[${index}].content[${partIndex}]`,
        `content parts of type ${JSON.stringify(part.type.slice(0, 40))} are not supported`,
      );
    });
  });
}

export function unsupported(field: string, reason: string): EngineError {
  return new EngineError('ERR_UNSUPPORTED', `${field}: ${reason}`, { param: field });
}

function refuse(table: Record<string, Asks>, body: unknown): void {
  if (typeof body !== 'object' || body === null) return;
  for (const [field, value] of Object.entries(body)) {
    if (value === null || value === undefined || !Object.hasOwn(table, field)) continue;
    if (table[field]?.(value, body as Body)) {
      throw unsupported(field, 'this value is known but not supported by this server');
    }
  }
}
