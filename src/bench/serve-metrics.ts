/**
 * From what clients saw to a serving benchmark's result: keys and formulas of vLLM's
 * `vllm bench serve` (vllm-project/vllm, vllm/benchmarks/serve.py, Apache-2.0), so that results of
 * the two tools can be laid side by side. Ours besides: max_stall_ms, the longest gap between two
 * pieces of any answer.
 */
import { mean, median, percentile, standardDeviation } from './statistics.js';

/** One request as its client saw it. Times in seconds. */
export interface RequestOutcome {
  /** Null when it succeeded. */
  error: string | null;
  /** When it was sent, on any clock shared by the run. */
  startTime: number;
  promptTokens: number;
  outputTokens: number;
  /** To the first piece. */
  ttft: number;
  /** Gaps between pieces after the first. */
  itls: number[];
  /** To the last piece. */
  latency: number;
}

/** Limits in ms that a good request keeps. */
export type Goodput = Partial<Record<'ttft' | 'tpot' | 'e2el', number>>;

export interface ServeMetrics {
  [key: string]: number | null;
}

const METRICS = ['ttft', 'tpot', 'itl', 'e2el'] as const;
const PERCENTILE = 99;

/** `duration` in seconds, from the first request's arrival to the last answer's end. */
export function serveMetrics(
  outcomes: readonly RequestOutcome[],
  duration: number,
  goodput: Goodput,
): ServeMetrics {
  const good = outcomes.filter((outcome) => outcome.error === null);
  const totalInput = sum(good.map((outcome) => outcome.promptTokens));
  const totalOutput = sum(good.map((outcome) => outcome.outputTokens));
  const ms: Record<(typeof METRICS)[number], number[]> = {
    ttft: good.map((outcome) => outcome.ttft * 1000),
    // An answer of one token has no time per further token.
    tpot: good.filter((outcome) => outcome.outputTokens > 1).map((outcome) => tpot(outcome) * 1000),
    itl: good.flatMap((outcome) => outcome.itls.map((gap) => gap * 1000)),
    e2el: good.map((outcome) => outcome.latency * 1000),
  };
  const numGood = good.filter((outcome) => isGood(outcome, goodput)).length;
  const result: ServeMetrics = {
    duration,
    completed: good.length,
    failed: outcomes.length - good.length,
    total_input_tokens: totalInput,
    total_output_tokens: totalOutput,
    request_throughput: good.length / duration,
    request_goodput: Object.keys(goodput).length > 0 ? numGood / duration : null,
    output_throughput: totalOutput / duration,
    total_token_throughput: (totalInput + totalOutput) / duration,
    ...peaks(good),
  };
  for (const metric of METRICS) {
    result[`mean_${metric}_ms`] = mean(ms[metric]);
    result[`median_${metric}_ms`] = median(ms[metric]);
    result[`std_${metric}_ms`] = standardDeviation(ms[metric]);
    result[`p${PERCENTILE}_${metric}_ms`] = percentile(ms[metric], PERCENTILE);
  }
  result.max_stall_ms = ms.itl.reduce((most, gap) => Math.max(most, gap), 0);
  return result;
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}

/** Seconds per output token after the first; 0 for one token, as a goodput limit sees it. */
function tpot({ latency, ttft, outputTokens }: RequestOutcome): number {
  return outputTokens > 1 ? (latency - ttft) / (outputTokens - 1) : 0;
}

function isGood(outcome: RequestOutcome, goodput: Goodput): boolean {
  const seconds = { ttft: outcome.ttft, tpot: tpot(outcome), e2el: outcome.latency };
  return Object.entries(goodput).every(
    ([metric, limit]) => seconds[metric as keyof Goodput] * 1000 <= limit,
  );
}

/** The busiest second: pieces received, and requests under way. Seconds count from the first start. */
function peaks(outcomes: readonly RequestOutcome[]): ServeMetrics {
  const begin = outcomes.reduce((least, { startTime }) => Math.min(least, startTime), Infinity);
  const pieces = new Map<number, number>();
  const requests = new Map<number, number>();
  const count = (into: Map<number, number>, time: number): void => {
    const second = Math.floor(time - begin);
    into.set(second, (into.get(second) ?? 0) + 1);
  };
  for (const { startTime, ttft, itls, latency } of outcomes) {
    let at = startTime + ttft;
    count(pieces, at);
    for (const gap of itls) {
      at += gap;
      count(pieces, at);
    }
    const last = Math.floor(startTime + latency - begin);
    for (let second = Math.floor(startTime - begin); second <= last; second++) {
      requests.set(second, (requests.get(second) ?? 0) + 1);
    }
  }
  return {
    max_output_tokens_per_s: Math.max(0, ...pieces.values()),
    max_concurrent_requests: Math.max(0, ...requests.values()),
  };
}
