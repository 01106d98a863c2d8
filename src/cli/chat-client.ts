/** The client side of a chat: messages in, text deltas out, over the OpenAI API. */

export interface ChatTurn {
  role: 'system' | 'user' | 'assistant';
  content: string;
}

export interface ChatClientOptions {
  /** With or without /v1. */
  baseUrl: string;
  apiKey: string | null;
  /** null: the server's first model. */
  model: string | null;
  temperature: number | null;
  maxTokens: number | null;
}

export interface ChatAnswer {
  finishReason: string | null;
  promptTokens: number;
  cachedTokens: number;
  completionTokens: number;
}

export class ChatClient {
  private readonly options: ChatClientOptions;
  private readonly root: string;
  private model: string | null;

  constructor(options: ChatClientOptions) {
    this.options = options;
    this.root = options.baseUrl.replace(/\/+$/, '').replace(/\/v1$/, '');
    this.model = options.model;
  }

  /** The model's name; asks the server once. Throws an Error fit to be shown. */
  async modelName(): Promise<string> {
    if (this.model !== null) return this.model;
    const response = await this.request('/v1/models', { method: 'GET' });
    const { data } = (await response.json()) as { data?: Array<{ id: string }> };
    const first = data?.[0]?.id;
    if (first === undefined) throw new Error(`${this.root} serves no model`);
    this.model = first;
    return first;
  }

  /** Streams one answer; rejects when `signal` aborts. */
  async ask(
    messages: readonly ChatTurn[],
    signal: AbortSignal,
    onText: (delta: string) => void,
  ): Promise<ChatAnswer> {
    const { temperature, maxTokens } = this.options;
    const body = {
      model: await this.modelName(),
      messages,
      stream: true,
      stream_options: { include_usage: true },
      ...(temperature === null ? {} : { temperature }),
      ...(maxTokens === null ? {} : { max_tokens: maxTokens }),
    };
    const response = await this.request('/v1/chat/completions', {
      method: 'POST',
      body: JSON.stringify(body),
      signal,
    });
    return readAnswer(response, onText);
  }

  private async request(path: string, init: RequestInit): Promise<Response> {
    const { apiKey } = this.options;
    let response: Response;
    try {
      response = await fetch(this.root + path, {
        ...init,
        headers: {
          'content-type': 'application/json',
          ...(apiKey === null ? {} : { authorization: `Bearer ${apiKey}` }),
        },
      });
    } catch (error) {
      if (init.signal?.aborted) throw error;
      const cause = (error as { cause?: Error }).cause;
      throw new Error(
        `${this.root} does not answer: ${cause?.message ?? (error as Error).message}`,
      );
    }
    if (!response.ok) throw new Error(await errorText(response));
    return response;
  }
}

async function errorText(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as { error?: { message?: string } };
    if (error?.message) return error.message;
  } catch {
    // Not ours: a proxy's page.
  }
  return `HTTP ${response.status} ${response.statusText}`;
}

interface Chunk {
  error?: { message?: string };
  choices?: Array<{ delta?: { content?: string | null }; finish_reason?: string | null }>;
  usage?: {
    prompt_tokens: number;
    completion_tokens: number;
    prompt_tokens_details?: { cached_tokens?: number } | null;
  } | null;
}

async function readAnswer(
  response: Response,
  onText: (delta: string) => void,
): Promise<ChatAnswer> {
  const answer: ChatAnswer = {
    finishReason: null,
    promptTokens: 0,
    cachedTokens: 0,
    completionTokens: 0,
  };
  for await (const data of eventData(response)) {
    if (data === '[DONE]') break;
    const chunk = JSON.parse(data) as Chunk;
    if (chunk.error) throw new Error(chunk.error.message ?? 'the server reported an error');
    const choice = chunk.choices?.[0];
    if (choice?.delta?.content) onText(choice.delta.content);
    if (choice?.finish_reason) answer.finishReason = choice.finish_reason;
    if (!chunk.usage) continue;
    answer.promptTokens = chunk.usage.prompt_tokens;
    answer.completionTokens = chunk.usage.completion_tokens;
    answer.cachedTokens = chunk.usage.prompt_tokens_details?.cached_tokens ?? 0;
  }
  return answer;
}

/** The data of each server-sent event; comments and other fields are skipped. */
async function* eventData(response: Response): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    rest += decoder.decode(bytes, { stream: true });
    const events = rest.split(/\r?\n\r?\n/);
    rest = events.pop()!;
    for (const event of events) {
      const lines = event.split(/\r?\n/).filter((line) => line.startsWith('data:'));
      if (lines.length > 0) yield lines.map((line) => line.slice(5).replace(/^ /, '')).join('\n');
    }
  }
}
