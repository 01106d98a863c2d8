/** POST /v1/chat/completions: messages through the model's own template. */
import type { ChatMessage, ChatRender } from '../../tokenizer/tokenizer-types.js';
import { ChatShape } from '../chat-shape.js';
import { buildJob, type PrepareTask, resolveModel, streamFields } from '../generation-task.js';
import { TokenSpelling } from '../logprobs.js';
import { checkPromptTokens } from '../sampling.js';
import { ChatCompletionBody } from '../schemas.js';
import { refuseUnsupportedChatFields, refuseUnsupportedParts } from '../unsupported-fields.js';
import { bodyParser, checkNesting, invalid } from '../validation.js';

const parseBody = bodyParser(ChatCompletionBody);

export const prepareChatCompletion: PrepareTask = async (context, json) => {
  refuseUnsupportedChatFields(json);
  const body = parseBody(json);
  const model = resolveModel(context, body.model);
  const stream = streamFields(body);
  if (body.top_logprobs !== undefined && body.logprobs !== true) {
    throw invalid('top_logprobs', 'logprobs to be true beside it', body.logprobs);
  }
  const numLogprobs = body.logprobs === true ? (body.top_logprobs ?? 0) : -1;
  const numPromptLogprobs = body.prompt_logprobs ?? -1;
  const { text, tokens } = await context.text.encodeChat(chatRender(body));
  checkPromptTokens('messages', tokens, context.text);
  const job = buildJob(context, body, {
    idPrefix: 'chatcmpl',
    prompts: [{ text, tokens }],
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? null,
    defaultMaxTokens: null,
    numLogprobs,
    numPromptLogprobs,
  });
  const shape = new ChatShape({
    id: job.id,
    created: Math.floor(Date.now() / 1000),
    model,
    spelling: new TokenSpelling(context.text, body.return_tokens_as_token_ids ?? false),
    numLogprobs,
    numPromptLogprobs,
    returnTokenIds: body.return_token_ids ?? false,
    includeUsage: stream.includeUsage,
  });
  return { job, shape, model, ...stream };
};

/** The template's arguments; also what /tokenize renders. */
export function chatRender(body: {
  messages: ChatCompletionBody['messages'];
  add_generation_prompt?: boolean;
  continue_final_message?: boolean;
  chat_template_kwargs?: Record<string, unknown>;
  reasoning_effort?: string;
}): ChatRender {
  refuseUnsupportedParts(body.messages);
  checkNesting('messages', body.messages);
  checkNesting('chat_template_kwargs', body.chat_template_kwargs);
  const continueFinalMessage = body.continue_final_message ?? false;
  const addGenerationPrompt = body.add_generation_prompt ?? !continueFinalMessage;
  if (continueFinalMessage && addGenerationPrompt) {
    throw invalid('continue_final_message', 'add_generation_prompt to be false beside it', true);
  }
  return {
    messages: body.messages.map(templateMessage),
    addGenerationPrompt,
    continueFinalMessage,
    kwargs: {
      ...(body.reasoning_effort !== undefined && { reasoning_effort: body.reasoning_effort }),
      ...body.chat_template_kwargs,
    },
  };
}

/** Text parts in whichever spelling become plain ones; how parts are rendered is the template's. */
function templateMessage(
  message: ChatCompletionBody['messages'][number],
  index: number,
): ChatMessage {
  // "developer" is OpenAI's newer word for the role that models were trained on as "system".
  const role = message.role === 'developer' ? 'system' : message.role;
  const content = message.content ?? null;
  if (!Array.isArray(content)) return { ...message, role, content };
  const parts = content.map((part: { type: string; text?: string; refusal?: unknown }, at) => {
    const text = part.type === 'refusal' ? part.refusal : part.text;
    if (typeof text === 'string') return { type: 'text', text };
    throw invalid(`messages[${index}].content[${at}].text`, 'a string', text);
  });
  return { ...message, role, content: parts };
}
