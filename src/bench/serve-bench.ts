/** `longhaul bench serve`: sends requests at their arrival times and collects what came of them. */

import { BenchClient, type BenchRequest, type ClientOptions } from './serve-client.js';
import { asText, type CountTokens } from './serve-datasets.js';
import {
  type Goodput,
  type RequestOutcome,
  type ServeMetrics,
  serveMetrics,
} from './serve-metrics.js';
import { seededRandom } from './statistics.js';

export interface ServeBenchOptions extends ClientOptions {
  requests: BenchRequest[];
  /** Requests a second; Infinity sends all at once. */
  requestRate: number;
  /** Requests under way at once, at most; null is no limit. */
  maxConcurrency: number | null;
  goodput: Goodput;
  seed: number;
}

export interface ServeBenchResult {
  metrics: ServeMetrics;
  outcomes: RequestOutcome[];
  /** Prompts went as ids, or as words because the server does not take ids. */
  promptsAs: 'ids' | 'text';
}

/** Throws an Error when the server does not answer a first small request. */
export async function benchServe(options: ServeBenchOptions): Promise<ServeBenchResult> {
  const { maxConcurrency, goodput } = options;
  const client = new BenchClient(options);
  try {
    const promptsAs = await probe(client, options);
    const requests = promptsAs === 'ids' ? options.requests : options.requests.map(asText);
    const gate = new Gate(maxConcurrency ?? Infinity);
    const delays = arrivals(requests.length, options.requestRate, options.seed);
    const begin = performance.now();
    const outcomes = await Promise.all(
      requests.map(async (request, i) => {
        await until(begin + delays[i]! * 1000);
        await gate.enter();
        try {
          return await client.send(request);
        } finally {
          gate.leave();
        }
      }),
    );
    const duration = (performance.now() - begin) / 1000;
    return { metrics: serveMetrics(outcomes, duration, goodput), outcomes, promptsAs };
  } finally {
    client.close();
  }
}

const PROBE_TOKENS = 8;

/** A small request that also warms the server up; unlike any of the run, so that it caches nothing. */
async function probe(client: BenchClient, options: ServeBenchOptions): Promise<'ids' | 'text'> {
  const first = options.requests[0]!;
  const takesIds = !options.endpoint.endsWith('/chat/completions');
  if (typeof first.prompt !== 'string' && takesIds) {
    const prompt = first.prompt.slice(-PROBE_TOKENS).reverse();
    const tried = await client.send({ prompt, promptTokens: prompt.length, outputTokens: 2 });
    if (tried.error === null && tried.promptTokens >= prompt.length) return 'ids';
    const text = await client.send({ prompt: 'one two', promptTokens: 2, outputTokens: 2 });
    if (text.error === null) return 'text';
    throw new Error(`${options.baseUrl}: ${tried.error ?? text.error}`);
  }
  const { error } = await client.send({ prompt: 'one two', promptTokens: 2, outputTokens: 2 });
  if (error !== null) throw new Error(`${options.baseUrl}: ${error}`);
  return 'text';
}

/**
 * Seconds after the start at which each request is sent: exponential gaps, scaled so that the last
 * one comes exactly after count / rate seconds, which keeps seeds comparable.
 */
export function arrivals(count: number, rate: number, seed: number): number[] {
  if (rate === Infinity) return new Array<number>(count).fill(0);
  const random = seededRandom(seed);
  let at = 0;
  const times = Array.from({ length: count }, () => {
    at += -Math.log(1 - random()) / rate;
    return at;
  });
  const scale = at > 0 ? count / rate / at : 1;
  return times.map((time) => time * scale);
}

async function until(time: number): Promise<void> {
  const wait = time - performance.now();
  if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
}

/** Lets `limit` through at once; the others wait in order. */
class Gate {
  private free: number;
  private readonly waiting: Array<() => void> = [];

  constructor(limit: number) {
    this.free = limit;
  }

  async enter(): Promise<void> {
    if (this.free > 0) this.free--;
    else await new Promise<void>((resolve) => this.waiting.push(resolve));
  }

  leave(): void {
    const next = this.waiting.shift();
    if (next) next();
    else this.free++;
  }
}

const FETCH_TIMEOUT_MS = 30_000;

/** The server's first model. Throws an Error when it does not say. */
export async function firstModel(baseUrl: string, apiKey: string | null): Promise<string> {
  const url = `${baseUrl.replace(/\/+$/, '')}/v1/models`;
  let answer: Response;
  try {
    answer = await fetch(url, {
      headers: apiKey === null ? {} : { authorization: `Bearer ${apiKey}` },
      signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
    });
  } catch (error) {
    const cause = (error as { cause?: Error }).cause;
    throw new Error(`${url}: ${cause?.message ?? (error as Error).message}`);
  }
  if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
  const { data } = (await answer.json()) as { data?: Array<{ id?: string }> };
  const id = data?.[0]?.id;
  if (!id) throw new Error(`${url}: names no model; use --model`);
  return id;
}

const CHARACTERS_PER_TOKEN = 4;

/** By the server's /tokenize (vLLM's or llama-server's body); an estimate where it has none. */
export function tokenCounter(baseUrl: string, model: string, apiKey: string | null): CountTokens {
  let missing = false;
  return async (text) => {
    const estimate = Math.ceil(text.length / CHARACTERS_PER_TOKEN);
    if (missing) return estimate;
    try {
      const answer = await fetch(`${baseUrl.replace(/\/+$/, '')}/tokenize`, {
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...(apiKey !== null && { authorization: `Bearer ${apiKey}` }),
        },
        body: JSON.stringify({ model, prompt: text, content: text }),
        signal: AbortSignal.timeout(FETCH_TIMEOUT_MS),
      });
      const { tokens } = (await answer.json()) as { tokens?: unknown[] };
      if (answer.ok && Array.isArray(tokens)) return tokens.length;
    } catch {
      // Not JSON, or no such route: fall through to the estimate.
    }
    missing = true;
    return estimate;
  };
}
