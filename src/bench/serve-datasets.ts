/** What a serving benchmark asks: random token ids, ShareGPT conversations, or lines of a file. */
import { readFileSync } from 'node:fs';
import { ConfigError } from '../config.js';
import type { BenchRequest } from './serve-client.js';
import { seededRandom } from './statistics.js';

export interface RandomDataset {
  numPrompts: number;
  inputLength: number;
  outputLength: number;
  /** Lengths are drawn from [length * (1 - ratio), length * (1 + ratio)]. */
  rangeRatio: number;
  /** Tokens that all prompts begin with, besides inputLength. */
  prefixLength: number;
  vocabSize: number;
  seed: number;
}

/** Ids below are control tokens and single bytes in common vocabularies. */
const FIRST_ORDINARY_ID = 300;

/** Prompts as token ids, so that every server computes exactly as many tokens. */
export function randomRequests(options: RandomDataset): BenchRequest[] {
  const { numPrompts, inputLength, outputLength, rangeRatio, prefixLength, vocabSize } = options;
  const random = seededRandom(options.seed);
  const whole = (low: number, high: number): number =>
    low + Math.floor(random() * (high - low + 1));
  const vary = (length: number): number =>
    whole(Math.floor(length * (1 - rangeRatio)), Math.ceil(length * (1 + rangeRatio)));
  const low = Math.min(FIRST_ORDINARY_ID, Math.floor(vocabSize / 2));
  const ids = (count: number): number[] =>
    Array.from({ length: count }, () => whole(low, vocabSize - 1));
  const prefix = ids(prefixLength);
  return Array.from({ length: numPrompts }, () => {
    const prompt = [...prefix, ...ids(Math.max(1, vary(inputLength)))];
    return {
      prompt,
      promptTokens: prompt.length,
      outputTokens: Math.max(1, vary(outputLength)),
    };
  });
}

/**
 * For servers that take no ids: as many words, each of one token in common vocabularies. The
 * server's own count of prompt tokens is what is reported.
 */
export function asText(request: BenchRequest): BenchRequest {
  if (typeof request.prompt === 'string') return request;
  return { ...request, prompt: request.prompt.map((id) => WORDS[id % WORDS.length]).join(' ') };
}

const WORDS = (
  'the of and to in is that it was for on are as with his they at be this from have or by one had ' +
  'not but what all were when we there can an your which their said if do will each about how up out ' +
  'them then she many some so these would other into has more her two like him see time could no make ' +
  'than first been its who now people my made over did down only way find use may water long little ' +
  'very after words called just where most know'
).split(' ');

/** Tokens of a text: the server's tokenizer where it has a route for it. */
export type CountTokens = (text: string) => Promise<number>;

const SHAREGPT = { tokensMin: 4, promptMax: 1024, totalMax: 2048 } as const;

/**
 * First question and length of the first answer of conversations in random order; those shorter
 * than 4 tokens or longer than 1,024 + 1,024 are passed over, as vLLM does.
 */
export async function sharegptRequests(
  path: string,
  numPrompts: number,
  outputLength: number | null,
  seed: number,
  countTokens: CountTokens,
): Promise<BenchRequest[]> {
  const conversations = (parseJson(path, readText(path)) as Array<{ conversations?: Turn[] }>)
    .map(({ conversations: turns }) => turns ?? [])
    .filter((turns) => turns.length >= 2);
  shuffle(conversations, seededRandom(seed));
  const requests: BenchRequest[] = [];
  for (const [question, answer] of conversations) {
    if (requests.length >= numPrompts) break;
    const promptTokens = await countTokens(question!.value);
    const outputTokens = outputLength ?? (await countTokens(answer!.value));
    const { tokensMin, promptMax, totalMax } = SHAREGPT;
    if (promptTokens < tokensMin || promptTokens > promptMax) continue;
    if (outputLength === null && outputTokens < tokensMin) continue;
    if (promptTokens + outputTokens > totalMax) continue;
    requests.push({ prompt: question!.value, promptTokens, outputTokens });
  }
  return repeatTo(requests, numPrompts, path);
}

interface Turn {
  value: string;
}

/** Lines of {"prompt": "...", "output_tokens": n}, in order; output_tokens may be left out. */
export async function customRequests(
  path: string,
  numPrompts: number,
  outputLength: number,
  countTokens: CountTokens,
): Promise<BenchRequest[]> {
  const lines = readText(path)
    .split('\n')
    .filter((line) => line.trim() !== '');
  const requests: BenchRequest[] = [];
  for (const line of lines.slice(0, numPrompts)) {
    const { prompt, output_tokens: own } = parseJson(path, line) as {
      prompt?: unknown;
      output_tokens?: unknown;
    };
    if (typeof prompt !== 'string') {
      throw new ConfigError('--dataset-path', 'lines with a "prompt" text', line.slice(0, 80));
    }
    requests.push({
      prompt,
      promptTokens: await countTokens(prompt),
      outputTokens: typeof own === 'number' && own >= 1 ? Math.floor(own) : outputLength,
    });
  }
  return repeatTo(requests, numPrompts, path);
}

/** Begins again at the first request when a file holds fewer than asked for. */
function repeatTo(requests: BenchRequest[], count: number, path: string): BenchRequest[] {
  if (requests.length === 0) throw new ConfigError('--dataset-path', 'a file with requests', path);
  return Array.from({ length: count }, (_, i) => requests[i % requests.length]!);
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new ConfigError(
      '--dataset-path',
      'a readable file',
      `${path}: ${(error as Error).message}`,
    );
  }
}

function parseJson(path: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ConfigError('--dataset-path', 'JSON', `${path}: ${text.slice(0, 80)}`);
  }
}

function shuffle<T>(values: T[], random: () => number): void {
  for (let i = values.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [values[i], values[j]] = [values[j]!, values[i]!];
  }
}
