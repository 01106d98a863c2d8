/** POST /tokenize and /detokenize, in vLLM's shapes. */
import type { FastifyInstance } from 'fastify';
import { resolveModel } from '../generation-task.js';
import { checkPromptTokens } from '../sampling.js';
import { DetokenizeBody, TokenizeBody } from '../schemas.js';
import type { ServerContext } from '../server-context.js';
import { bodyParser, invalid } from '../validation.js';
import { chatRender } from './chat-completions.js';

const parseTokenize = bodyParser(TokenizeBody);
const parseDetokenize = bodyParser(DetokenizeBody);

export function tokenizeRoutes(app: FastifyInstance, context: ServerContext): void {
  const { text } = context;

  app.post('/tokenize', async (request) => {
    const body = parseTokenize(request.body);
    resolveModel(context, body.model);
    const tokens = Array.from(await tokenize(context, body));
    return {
      count: tokens.length,
      max_model_len: context.contextLimit,
      tokens,
      token_strs: body.return_token_strs ? tokens.map((id) => text.tokenText(id)) : null,
    };
  });

  app.post('/detokenize', (request) => {
    const body = parseDetokenize(request.body);
    resolveModel(context, body.model);
    if (body.tokens.length > 0) checkPromptTokens('tokens', body.tokens, text);
    return { prompt: text.decode(body.tokens, { skipSpecialTokens: false }) };
  });
}

async function tokenize(context: ServerContext, body: TokenizeBody): Promise<Int32Array> {
  const { prompt, messages, ...rest } = body;
  if (messages !== undefined) {
    if (prompt !== undefined) throw invalid('prompt', 'to be absent beside messages', prompt);
    return (await context.text.encodeChat(chatRender({ ...rest, messages }))).tokens;
  }
  if (prompt === undefined) throw invalid('prompt', 'a string, or messages', prompt);
  return context.text.encode(prompt, { addSpecialTokens: body.add_special_tokens ?? true });
}
