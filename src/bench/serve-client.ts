/**
 * One streamed request to an OpenAI-style server, timed as a user's client would see it. Uses
 * node:http directly: what the client itself costs must not show in the gaps.
 */
import http, { type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { RequestOutcome } from './serve-metrics.js';

/** A prompt is a text or token ids. */
export interface BenchRequest {
  prompt: string | number[];
  /** Tokens of the prompt as far as known; the server's count wins. */
  promptTokens: number;
  outputTokens: number;
}

/** What a caller may want of a request while it runs. */
export interface RequestWatch {
  /** Hangs up; the outcome's error says so. */
  signal?: AbortSignal;
  /** Each piece of the answer, in seconds of performance.now()'s clock. */
  onPiece?: (time: number) => void;
}

export interface ClientOptions {
  baseUrl: string;
  endpoint: string;
  model: string;
  apiKey: string | null;
  ignoreEos: boolean;
}

interface Chunk {
  choices?: Array<{
    text?: string;
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
  }>;
  usage?: { prompt_tokens?: number; completion_tokens?: number } | null;
  error?: { message?: string } | string;
}

export class BenchClient {
  private readonly options: ClientOptions;
  private readonly url: URL;
  private readonly agent: http.Agent;

  constructor(options: ClientOptions) {
    this.options = options;
    this.url = new URL(options.baseUrl.replace(/\/+$/, '') + options.endpoint);
    const secure = this.url.protocol === 'https:';
    this.agent = new (secure ? https : http).Agent({ keepAlive: true, maxSockets: Infinity });
  }

  close(): void {
    this.agent.destroy();
  }

  /** Never throws: a failure is an outcome with `error` set. */
  async send(request: BenchRequest, watch: RequestWatch = {}): Promise<RequestOutcome> {
    const startTime = performance.now() / 1000;
    const recorder = new StreamRecorder(startTime, request);
    try {
      const response = await this.post(JSON.stringify(this.body(request)), watch.signal);
      if (response.statusCode !== 200) {
        throw new Error(`${response.statusCode}: ${(await readAll(response)).slice(0, 500)}`);
      }
      for await (const data of serverSentData(response)) {
        if (data === '[DONE]') break;
        const now = performance.now() / 1000;
        if (recorder.onChunk(JSON.parse(data) as Chunk, now)) watch.onPiece?.(now);
      }
      response.resume();
      return recorder.outcome(null);
    } catch (error) {
      return recorder.outcome((error as Error).message || String(error));
    }
  }

  private body({ prompt, outputTokens }: BenchRequest): object {
    const { endpoint, model, ignoreEos } = this.options;
    const chat = endpoint.endsWith('/chat/completions');
    return {
      model,
      ...(chat ? { messages: [{ role: 'user', content: prompt }] } : { prompt }),
      max_tokens: outputTokens,
      temperature: 0,
      stream: true,
      stream_options: { include_usage: true },
      ...(ignoreEos && { ignore_eos: true }),
    };
  }

  private post(body: string, signal: AbortSignal | undefined): Promise<IncomingMessage> {
    const { apiKey } = this.options;
    return new Promise((resolve, reject) => {
      const request = (this.url.protocol === 'https:' ? https : http).request(
        this.url,
        {
          method: 'POST',
          agent: this.agent,
          headers: {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(body),
            accept: 'text/event-stream',
            ...(apiKey !== null && { authorization: `Bearer ${apiKey}` }),
          },
        },
        resolve,
      );
      request.setNoDelay(true);
      request.on('error', reject);
      // Not by http's own `signal`: that destroys with an error, which nobody gets when the answer
      // has arrived to its end but is not read to it, and the process ends.
      signal?.addEventListener('abort', () => request.destroy(), { once: true });
      request.end(body);
    });
  }
}

/** Collects the pieces of one answer. Times in seconds, of one clock. */
export class StreamRecorder {
  private readonly startTime: number;
  private readonly request: BenchRequest;
  private readonly itls: number[] = [];
  private ttft: number | null = null;
  private latest: number;
  private numPieces = 0;
  private promptTokens: number | null = null;
  private outputTokens: number | null = null;

  constructor(startTime: number, request: BenchRequest) {
    this.startTime = startTime;
    this.latest = startTime;
    this.request = request;
  }

  /** Whether it was a piece of the answer. Throws an Error for an error event. */
  onChunk(chunk: Chunk, now: number): boolean {
    if (chunk.error !== undefined) {
      const { error } = chunk;
      throw new Error(typeof error === 'string' ? error : (error.message ?? 'error event'));
    }
    if (chunk.usage) {
      this.promptTokens = chunk.usage.prompt_tokens ?? this.promptTokens;
      this.outputTokens = chunk.usage.completion_tokens ?? this.outputTokens;
    }
    const choice = chunk.choices?.[0];
    if (!choice) return false;
    const text = choice.text ?? choice.delta?.content ?? choice.delta?.reasoning_content ?? '';
    // Two events are no token's: a chat's opening one, which only names the role, and a closing one
    // that only gives the reason. The latter still ends the answer.
    if (text === '' && choice.delta && !choice.finish_reason && this.ttft === null) return false;
    const closes = text === '' && Boolean(choice.finish_reason);
    if (this.ttft === null) this.ttft = now - this.startTime;
    else if (!closes) this.itls.push(now - this.latest);
    if (!closes) this.numPieces++;
    this.latest = now;
    return !closes;
  }

  outcome(error: string | null): RequestOutcome {
    return {
      error: error ?? (this.ttft === null ? 'no token was received' : null),
      startTime: this.startTime,
      promptTokens: this.promptTokens ?? this.request.promptTokens,
      outputTokens: this.outputTokens ?? this.numPieces,
      ttft: this.ttft ?? 0,
      itls: this.itls,
      latency: this.latest - this.startTime,
    };
  }
}

async function readAll(response: IncomingMessage): Promise<string> {
  response.setEncoding('utf8');
  let text = '';
  for await (const part of response) text += part;
  return text;
}

/** The data of each event of a stream; comments, names and ids are passed over. */
export async function* serverSentData(stream: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = '';
  let data: string[] = [];
  for await (const bytes of stream) {
    rest += decoder.decode(bytes, { stream: true });
    for (let end = rest.indexOf('\n'); end >= 0; end = rest.indexOf('\n')) {
      const line = rest.slice(0, end).replace(/\r$/, '');
      rest = rest.slice(end + 1);
      if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
      if (line !== '' || data.length === 0) continue;
      yield data.join('\n');
      data = [];
    }
  }
}
