/**
 * One short stream beside a long prompt: how long the stream's gaps become while the prompt is
 * computed, and what the prompt loses to the stream.
 */
import { BenchClient, type BenchRequest, type ClientOptions } from '../src/bench/serve-client.js';
import { randomRequests } from '../src/bench/serve-datasets.js';
import { median, percentile } from '../src/bench/statistics.js';

export interface BesideOptions extends ClientOptions {
  /** Tokens of the long prompt. */
  longTokens: number;
  /** Most tokens of the stream; more than it decodes beside the prompt. */
  streamTokens: number;
  vocabSize: number;
  /** Another seed, other prompts: nothing is found in a prefix cache. */
  seed: number;
}

/** Times in ms. */
export interface BesideMetrics {
  /** The long prompt's first token, when it has the server to itself, and beside the stream. */
  solo_ttft_ms: number;
  beside_ttft_ms: number;
  /** Speed of the prompt beside the stream over its speed alone. */
  prefill_share: number;
  /** Of the stream, before the prompt came. */
  alone_gap_ms: number;
  /** Of the stream, while the prompt was computed. */
  num_gaps: number;
  median_gap_ms: number;
  p99_gap_ms: number;
  max_gap_ms: number;
}

const STREAM_PROMPT_TOKENS = 32;
/** Pieces of the stream before the prompt is sent. */
const SETTLED_PIECES = 32;

/** Gaps, in the unit of `times`, of which any part lies between `from` and `to`. */
export function gapsBetween(times: readonly number[], from: number, to: number): number[] {
  return times
    .slice(1)
    .map((time, i) => ({ begin: times[i]!, end: time }))
    .filter(({ begin, end }) => end > from && begin < to)
    .map(({ begin, end }) => end - begin);
}

/** What was seen: `times` of the stream's pieces, and when the prompt was sent; in seconds. */
export interface BesideTimes {
  times: readonly number[];
  sentAt: number;
  soloTtft: number;
  besideTtft: number;
}

/** Throws an Error when the stream did not outlast the prompt. */
export function besideMetrics({ times, sentAt, soloTtft, besideTtft }: BesideTimes): BesideMetrics {
  const firstToken = sentAt + besideTtft;
  if (times.length < 2 || times.at(-1)! < firstToken) {
    throw new Error('the stream ended before the long prompt was computed');
  }
  const before = gapsBetween(
    times.filter((time) => time <= sentAt),
    -Infinity,
    sentAt,
  );
  const gaps = gapsBetween(times, sentAt, firstToken);
  const ms = (seconds: number): number => seconds * 1000;
  return {
    solo_ttft_ms: ms(soloTtft),
    beside_ttft_ms: ms(besideTtft),
    prefill_share: soloTtft / besideTtft,
    alone_gap_ms: ms(median(before)),
    num_gaps: gaps.length,
    median_gap_ms: ms(median(gaps)),
    p99_gap_ms: ms(percentile(gaps, 99)),
    max_gap_ms: ms(Math.max(...gaps)),
  };
}

/** Measures once. Throws an Error when a request fails. */
export async function benchBeside(options: BesideOptions): Promise<BesideMetrics> {
  const client = new BenchClient(options);
  try {
    const [alone, beside, short] = prompts(options);
    const solo = await client.send(alone!);
    if (solo.error !== null) throw new Error(`long prompt alone: ${solo.error}`);

    const times: number[] = [];
    const hangUp = new AbortController();
    let promptDone = Infinity;
    let settle = (): void => {};
    const settled = new Promise<void>((resolve) => {
      settle = resolve;
    });
    const onPiece = (time: number): void => {
      times.push(time);
      if (times.length === SETTLED_PIECES) settle();
      if (time > promptDone) hangUp.abort();
    };
    const streaming = client.send(short!, { onPiece, signal: hangUp.signal });
    void streaming.then(settle);
    await settled;
    const long = await client.send(beside!);
    if (long.error === null) promptDone = long.startTime + long.ttft;
    else hangUp.abort();
    const stream = await streaming;
    if (long.error !== null) throw new Error(`long prompt beside the stream: ${long.error}`);
    if (stream.error !== null && !hangUp.signal.aborted) throw new Error(`stream: ${stream.error}`);
    const { startTime: sentAt, ttft: besideTtft } = long;
    return besideMetrics({ times, sentAt, soloTtft: solo.ttft, besideTtft });
  } finally {
    client.close();
  }
}

/** Two long prompts that ask for one token, and the stream's. */
function prompts({ longTokens, streamTokens, vocabSize, seed }: BesideOptions): BenchRequest[] {
  const common = { rangeRatio: 0, prefixLength: 0, vocabSize };
  return [
    ...randomRequests({ ...common, numPrompts: 2, inputLength: longTokens, outputLength: 1, seed }),
    ...randomRequests({
      ...common,
      numPrompts: 1,
      inputLength: STREAM_PROMPT_TOKENS,
      outputLength: streamTokens,
      seed: seed + 1,
    }),
  ];
}
