/** POST /v1/completions: text or token ids, one prompt or many. */
import { CompletionShape } from '../completion-shape.js';
import { buildJob, type PrepareTask, resolveModel, streamFields } from '../generation-task.js';
import { TokenSpelling } from '../logprobs.js';
import { checkPromptTokens } from '../sampling.js';
import { CHOICES_MAX, CompletionBody } from '../schemas.js';
import type { ServerContext } from '../server-context.js';
import { refuseUnsupportedCompletionFields } from '../unsupported-fields.js';
import { bodyParser, invalid } from '../validation.js';

/** OpenAI's default for this endpoint. */
const MAX_TOKENS_DEFAULT = 16;

const parseBody = bodyParser(CompletionBody);

export const prepareCompletion: PrepareTask = async (context, json) => {
  refuseUnsupportedCompletionFields(json);
  const body = parseBody(json);
  const model = resolveModel(context, body.model);
  const stream = streamFields(body);
  const echo = body.echo ?? false;
  if (body.max_tokens === 0 && !echo) {
    throw invalid('max_tokens', 'an integer of at least 1, or echo to be true', 0);
  }
  const prompts = promptList(body.prompt);
  const numChoices = prompts.length * (body.n ?? 1);
  if (numChoices > CHOICES_MAX) {
    throw invalid('prompt', `at most ${CHOICES_MAX} prompts times n`, numChoices);
  }
  const numLogprobs = body.logprobs ?? -1;
  const numPromptLogprobs = body.prompt_logprobs ?? -1;
  const job = buildJob(context, body, {
    idPrefix: 'cmpl',
    prompts: await Promise.all(
      prompts.map((prompt, index) =>
        encodePrompt(
          context,
          prompts.length === 1 ? 'prompt' : `prompt[${index}]`,
          prompt,
          body.add_special_tokens ?? true,
        ),
      ),
    ),
    maxTokens: body.max_tokens ?? null,
    defaultMaxTokens: MAX_TOKENS_DEFAULT,
    numLogprobs,
    // An echoed prompt is scored like the output.
    numPromptLogprobs: Math.max(numPromptLogprobs, echo ? numLogprobs : -1),
  });
  const shape = new CompletionShape({
    id: job.id,
    created: Math.floor(Date.now() / 1000),
    model,
    text: context.text,
    spelling: new TokenSpelling(context.text, body.return_tokens_as_token_ids ?? false),
    numLogprobs,
    numPromptLogprobs,
    echo,
    returnTokenIds: body.return_token_ids ?? false,
    includeUsage: stream.includeUsage,
  });
  return { job, shape, model, ...stream };
};

function promptList(prompt: CompletionBody['prompt']): Array<string | number[]> {
  if (typeof prompt === 'string') return [prompt];
  return isTokenIds(prompt) ? [prompt] : prompt;
}

function isTokenIds(prompt: string[] | number[] | number[][]): prompt is number[] {
  return typeof prompt[0] === 'number';
}

async function encodePrompt(
  context: ServerContext,
  field: string,
  prompt: string | number[],
  addSpecialTokens: boolean,
): Promise<{ tokens: Int32Array; text: string | null }> {
  const text = typeof prompt === 'string' ? prompt : null;
  const tokens =
    typeof prompt === 'string'
      ? await context.text.encode(prompt, { addSpecialTokens })
      : Int32Array.from(prompt);
  checkPromptTokens(field, tokens, context.text);
  return { tokens, text };
}
