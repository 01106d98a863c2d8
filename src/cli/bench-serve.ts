/** longhaul bench serve: flags, the run, a table or JSON. */
import { writeFileSync } from 'node:fs';
import {
  benchServe,
  firstModel,
  type ServeBenchResult,
  tokenCounter,
} from '../bench/serve-bench.js';
import type { BenchRequest } from '../bench/serve-client.js';
import { customRequests, randomRequests, sharegptRequests } from '../bench/serve-datasets.js';
import type { Goodput, ServeMetrics } from '../bench/serve-metrics.js';
import { shortNumber, textTable } from '../bench/table.js';
import { parseCount } from '../bench/workload.js';
import { ConfigError } from '../config.js';
import { EXIT } from './exit-codes.js';

export interface BenchServeFlags {
  baseUrl: string;
  endpoint: string;
  model?: string;
  apiKey?: string;
  datasetName: string;
  datasetPath?: string;
  numPrompts: string;
  randomInputLen: string;
  randomOutputLen: string;
  randomRangeRatio: string;
  randomPrefixLen: string;
  vocabSize: string;
  sharegptOutputLen?: string;
  customOutputLen: string;
  requestRate: string;
  maxConcurrency?: string;
  goodput?: string[];
  ignoreEos?: boolean;
  seed: string;
  saveResult?: string;
  saveDetailed?: boolean;
}

const ENDPOINTS = ['/v1/completions', '/v1/chat/completions'];

/** Returns the exit code: 1 when a request failed. Throws ConfigError. */
export async function runBenchServe(flags: BenchServeFlags): Promise<number> {
  const settings = parseFlags(flags);
  const { baseUrl, apiKey } = settings;
  const model = flags.model ?? (await firstModel(baseUrl, apiKey));
  const requests = await settings.makeRequests(model);
  const result = await benchServe({ ...settings, model, requests });
  const report = toReport(flags, settings, model, result);
  const json = `${JSON.stringify(report, null, 2)}\n`;
  if (flags.saveResult === '-') process.stdout.write(json);
  else process.stdout.write(`${serveTable(result.metrics)}\n`);
  if (flags.saveResult !== undefined && flags.saveResult !== '-') {
    writeFileSync(flags.saveResult, json);
  }
  const failure = result.outcomes.find((outcome) => outcome.error !== null);
  if (failure) process.stderr.write(`first failure: ${failure.error}\n`);
  return failure ? EXIT.failure : EXIT.ok;
}

interface Settings {
  baseUrl: string;
  endpoint: string;
  apiKey: string | null;
  ignoreEos: boolean;
  requestRate: number;
  maxConcurrency: number | null;
  goodput: Goodput;
  seed: number;
  makeRequests: (model: string) => Promise<BenchRequest[]>;
}

/** Everything is checked before the server is asked anything. */
export function parseFlags(flags: BenchServeFlags): Settings {
  const { baseUrl, endpoint } = flags;
  if (!URL.canParse(baseUrl) || !/^https?:$/.test(new URL(baseUrl).protocol)) {
    throw new ConfigError('--base-url', 'an http:// or https:// address', baseUrl);
  }
  if (!ENDPOINTS.includes(endpoint)) {
    throw new ConfigError('--endpoint', `one of ${ENDPOINTS.join(', ')}`, endpoint);
  }
  const apiKey = flags.apiKey ?? process.env.OPENAI_API_KEY ?? null;
  const seed = parseCount('--seed', flags.seed, 0);
  return {
    baseUrl,
    endpoint,
    apiKey,
    ignoreEos: flags.ignoreEos === true || flags.datasetName === 'random',
    requestRate: parseRate(flags.requestRate),
    maxConcurrency:
      flags.maxConcurrency === undefined
        ? null
        : parseCount('--max-concurrency', flags.maxConcurrency, 1),
    goodput: parseGoodput(flags.goodput ?? []),
    seed,
    makeRequests: requestMaker(flags, baseUrl, apiKey, seed),
  };
}

function requestMaker(
  flags: BenchServeFlags,
  baseUrl: string,
  apiKey: string | null,
  seed: number,
): Settings['makeRequests'] {
  const numPrompts = parseCount('--num-prompts', flags.numPrompts, 1);
  if (flags.datasetName === 'random') {
    const rangeRatio = Number(flags.randomRangeRatio);
    if (!(rangeRatio >= 0 && rangeRatio < 1)) {
      throw new ConfigError('--random-range-ratio', 'a number from 0 to below 1', rangeRatio);
    }
    const dataset = {
      numPrompts,
      inputLength: parseCount('--random-input-len', flags.randomInputLen, 1),
      outputLength: parseCount('--random-output-len', flags.randomOutputLen, 1),
      rangeRatio,
      prefixLength: parseCount('--random-prefix-len', flags.randomPrefixLen, 0),
      vocabSize: parseCount('--vocab-size', flags.vocabSize, 2),
      seed,
    };
    return async () => randomRequests(dataset);
  }
  if (flags.datasetName !== 'sharegpt' && flags.datasetName !== 'custom') {
    throw new ConfigError('--dataset-name', 'one of random, sharegpt, custom', flags.datasetName);
  }
  const path = flags.datasetPath;
  if (path === undefined) {
    throw new ConfigError('--dataset-path', `a file for --dataset-name ${flags.datasetName}`, '');
  }
  if (flags.datasetName === 'sharegpt') {
    const own = flags.sharegptOutputLen;
    const length = own === undefined ? null : parseCount('--sharegpt-output-len', own, 1);
    return (model) =>
      sharegptRequests(path, numPrompts, length, seed, tokenCounter(baseUrl, model, apiKey));
  }
  const length = parseCount('--custom-output-len', flags.customOutputLen, 1);
  return (model) => customRequests(path, numPrompts, length, tokenCounter(baseUrl, model, apiKey));
}

function parseRate(text: string): number {
  const rate = text === 'inf' ? Infinity : Number(text);
  if (text.trim() !== '' && rate > 0) return rate;
  throw new ConfigError('--request-rate', 'a number above 0, or inf', text);
}

/** "ttft:500,tpot:50", or the same as separate words. */
export function parseGoodput(pairs: readonly string[]): Goodput {
  const goodput: Goodput = {};
  for (const pair of pairs.flatMap((text) => text.split(',')).filter((text) => text !== '')) {
    const [metric, limit, ...rest] = pair.split(':');
    const ms = Number(limit);
    const known = metric === 'ttft' || metric === 'tpot' || metric === 'e2el';
    if (!known || !limit || !(ms >= 0) || rest.length > 0) {
      throw new ConfigError('--goodput', 'ttft:MS, tpot:MS or e2el:MS', pair);
    }
    goodput[metric] = ms;
  }
  return goodput;
}

function toReport(
  flags: BenchServeFlags,
  settings: Settings,
  model: string,
  { metrics, outcomes, promptsAs }: ServeBenchResult,
): Record<string, unknown> {
  return {
    date: new Date().toISOString(),
    base_url: settings.baseUrl,
    endpoint: settings.endpoint,
    model_id: model,
    dataset_name: flags.datasetName,
    prompts_as: promptsAs,
    num_prompts: outcomes.length,
    request_rate: settings.requestRate === Infinity ? 'inf' : settings.requestRate,
    burstiness: 1,
    max_concurrency: settings.maxConcurrency,
    seed: settings.seed,
    ...metrics,
    ...(flags.saveDetailed && {
      input_lens: outcomes.map((outcome) => outcome.promptTokens),
      output_lens: outcomes.map((outcome) => (outcome.error === null ? outcome.outputTokens : 0)),
      ttfts: outcomes.map((outcome) => outcome.ttft),
      itls: outcomes.map((outcome) => outcome.itls),
      start_times: outcomes.map((outcome) => outcome.startTime),
      errors: outcomes.map((outcome) => outcome.error ?? ''),
    }),
  };
}

/** The result as people read it. */
export function serveTable(metrics: ServeMetrics): string {
  const number = (key: string): string => shortNumber(metrics[key] ?? 0);
  const whole = (key: string): string => String(metrics[key] ?? 0);
  const totals = [
    ['completed / failed', `${whole('completed')} / ${whole('failed')}`],
    ['duration (s)', number('duration')],
    ['input / output tokens', `${whole('total_input_tokens')} / ${whole('total_output_tokens')}`],
    ['requests/s', number('request_throughput')],
    ...(metrics.request_goodput === null ? [] : [['good requests/s', number('request_goodput')]]),
    ['output tokens/s', number('output_throughput')],
    ['total tokens/s', number('total_token_throughput')],
    ['longest stall (ms)', number('max_stall_ms')],
  ];
  const times = ['ttft', 'tpot', 'itl', 'e2el'].map((metric) => [
    metric.toUpperCase(),
    ...['mean', 'median', 'std', 'p99'].map((kind) => number(`${kind}_${metric}_ms`)),
  ]);
  return `${textTable(totals)}\n\n${textTable([['ms', 'mean', 'median', 'std', 'p99'], ...times])}`;
}
