import t from 'tap';
import { oneTwoFiveBuckets } from '../../../src/metrics/metric-table.js';
import { Metrics } from '../../../src/metrics/metrics.js';
import { FakeEngine } from '../../support/fake-engine.js';

const LABELS = 'model_name="m",engine="0"';

interface Parsed {
  types: Map<string, string>;
  samples: Map<string, number>;
}

/** Reads the text format strictly: anything that is not a comment or a sample fails. */
function parse(text: string): Parsed {
  const types = new Map<string, string>();
  const samples = new Map<string, number>();
  for (const line of text.split('\n')) {
    if (line === '' || line.startsWith('# HELP ')) continue;
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary)$/.exec(line);
    if (type) {
      if (types.has(type[1]!)) throw new Error(`${type[1]} is declared twice`);
      types.set(type[1]!, type[2]!);
      continue;
    }
    const sample = /^([a-zA-Z_:][\w:]*(?:\{[^}]*\})?) (\S+)$/.exec(line);
    if (!sample || samples.has(sample[1]!)) throw new Error(`bad line: ${line}`);
    samples.set(sample[1]!, Number(sample[2]));
  }
  return { types, samples };
}

const make = (maxModelLen = 1000) => new Metrics({ modelName: 'm', maxModelLen });
const scrape = async (metrics: Metrics) => parse(await metrics.exposition());

t.test("names and types are vLLM's", async (t) => {
  const { types } = await scrape(make());
  const expected: Record<string, string> = {
    'vllm:num_requests_running': 'gauge',
    'vllm:num_requests_waiting': 'gauge',
    'vllm:num_requests_waiting_by_reason': 'gauge',
    'vllm:kv_cache_usage_perc': 'gauge',
    'vllm:cache_config_info': 'gauge',
    'vllm:prefix_cache_queries_total': 'counter',
    'vllm:prefix_cache_hits_total': 'counter',
    'vllm:num_preemptions_total': 'counter',
    'vllm:prompt_tokens_total': 'counter',
    'vllm:prompt_tokens_cached_total': 'counter',
    'vllm:prompt_tokens_by_source_total': 'counter',
    'vllm:generation_tokens_total': 'counter',
    'vllm:request_success_total': 'counter',
    'vllm:time_to_first_token_seconds': 'histogram',
    'vllm:inter_token_latency_seconds': 'histogram',
    'vllm:request_time_per_output_token_seconds': 'histogram',
    'vllm:e2e_request_latency_seconds': 'histogram',
    'vllm:request_queue_time_seconds': 'histogram',
    'vllm:request_prefill_time_seconds': 'histogram',
    'vllm:request_decode_time_seconds': 'histogram',
    'vllm:request_inference_time_seconds': 'histogram',
    'vllm:iteration_tokens_total': 'histogram',
    'vllm:request_prompt_tokens': 'histogram',
    'vllm:request_generation_tokens': 'histogram',
    'vllm:request_max_num_generation_tokens': 'histogram',
    'vllm:request_params_max_tokens': 'histogram',
    'vllm:request_prefill_kv_computed_tokens': 'histogram',
    'vllm:request_params_n': 'histogram',
    longhaul_step_total: 'counter',
    longhaul_step_seconds: 'histogram',
    longhaul_kv_blocks: 'gauge',
    longhaul_http_requests_total: 'counter',
    nodejs_eventloop_lag_p99_seconds: 'gauge',
    process_resident_memory_bytes: 'gauge',
  };
  for (const [name, type] of Object.entries(expected)) t.equal(types.get(name), type, name);
  const ours = [...types.keys()].filter((name) => /^(vllm:|longhaul_)/.test(name));
  t.strictSame(
    ours.filter((name) => !Object.hasOwn(expected, name)),
    [],
  );
});

t.test("buckets are vLLM's", async (t) => {
  const metrics = make(600);
  metrics.onFirstToken({ ttftSeconds: 0.05, queueSeconds: 0 });
  metrics.onToken(0.05, 1);
  metrics.onStep({ seconds: 1, numTokens: 8, numSequences: 1, prefillTokens: 8 });
  metrics.onChoices(2, 3);
  metrics.onFinish({
    reason: 'stop',
    usage: { promptTokens: 8, completionTokens: 2, cachedTokens: 0 },
    timings: { queueMs: 1, prefillMs: 2, decodeMs: 3 },
    e2eSeconds: 1,
    maxTokens: 16,
  });
  const { samples } = await scrape(metrics);
  const bounds = (name: string) =>
    [...samples.keys()]
      .filter((key) => key.startsWith(`${name}_bucket{`))
      .map((key) => /le="([^"]+)"/.exec(key)![1]);
  const withInf = (list: number[]) => [...list.map(String), '+Inf'];
  t.strictSame(
    bounds('vllm:time_to_first_token_seconds'),
    withInf([
      0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
      80, 160, 640, 2560,
    ]),
  );
  t.strictSame(
    bounds('vllm:inter_token_latency_seconds'),
    withInf([
      0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
    ]),
  );
  const latency = withInf([
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
  ]);
  for (const name of [
    'e2e_request_latency',
    'request_queue_time',
    'request_prefill_time',
    'request_decode_time',
    'request_inference_time',
  ]) {
    t.strictSame(bounds(`vllm:${name}_seconds`), latency, name);
  }
  t.strictSame(
    bounds('vllm:iteration_tokens_total'),
    withInf([1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]),
  );
  t.strictSame(bounds('vllm:request_params_n'), withInf([1, 2, 5, 10, 20]));
  const tokens = withInf([1, 2, 5, 10, 20, 50, 100, 200, 500]);
  for (const name of [
    'request_prompt_tokens',
    'request_generation_tokens',
    'request_max_num_generation_tokens',
    'request_params_max_tokens',
    'request_prefill_kv_computed_tokens',
  ]) {
    t.strictSame(bounds(`vllm:${name}`), tokens, name);
  }
});

t.test('1-2-5 buckets end at the limit', async (t) => {
  t.strictSame(oneTwoFiveBuckets(1), [1]);
  t.strictSame(oneTwoFiveBuckets(10), [1, 2, 5, 10]);
  t.strictSame(oneTwoFiveBuckets(49), [1, 2, 5, 10, 20]);
});

t.test('counters begin at zero and follow the observer', async (t) => {
  const metrics = make();
  const before = await scrape(metrics);
  for (const reason of ['stop', 'length', 'abort', 'error']) {
    t.equal(
      before.samples.get(`vllm:request_success_total{${LABELS},finished_reason="${reason}"}`),
      0,
    );
  }
  t.equal(before.samples.get(`vllm:generation_tokens_total{${LABELS}}`), 0);

  metrics.onPrefixCache(100, 64);
  metrics.onStep({ seconds: 0.25, numTokens: 36, numSequences: 1, prefillTokens: 100 });
  metrics.onFirstToken({ ttftSeconds: 0.3, queueSeconds: 0.01 });
  metrics.onStep({ seconds: 0.5, numTokens: 1, numSequences: 1, prefillTokens: 0 });
  metrics.onToken(0.06, 3);
  metrics.onPreemption();
  metrics.onFinish({
    reason: 'length',
    usage: { promptTokens: 100, completionTokens: 4, cachedTokens: 64 },
    timings: { queueMs: 500, prefillMs: 1000, decodeMs: 3000 },
    e2eSeconds: 4.5,
    maxTokens: 4,
  });
  metrics.onResponse('/v1/completions', 200);
  const { samples } = await scrape(metrics);
  const value = (name: string, labels = LABELS) => samples.get(`${name}{${labels}}`);
  t.equal(value('vllm:prefix_cache_queries_total'), 100);
  t.equal(value('vllm:prefix_cache_hits_total'), 64);
  t.equal(value('vllm:prompt_tokens_total'), 100);
  t.equal(value('vllm:prompt_tokens_cached_total'), 64);
  t.equal(value('vllm:prompt_tokens_by_source_total', `${LABELS},source="local_compute"`), 36);
  t.equal(value('vllm:prompt_tokens_by_source_total', `${LABELS},source="local_cache_hit"`), 64);
  t.equal(value('vllm:generation_tokens_total'), 4);
  t.equal(value('vllm:num_preemptions_total'), 1);
  t.equal(value('vllm:request_success_total', `${LABELS},finished_reason="length"`), 1);
  t.equal(value('vllm:inter_token_latency_seconds_count'), 3);
  t.ok(Math.abs(value('vllm:inter_token_latency_seconds_sum')! - 0.06) < 1e-12);
  t.equal(value('vllm:request_queue_time_seconds_sum'), 0.5);
  t.equal(value('vllm:request_prefill_time_seconds_sum'), 1);
  t.equal(value('vllm:request_decode_time_seconds_sum'), 3);
  t.equal(value('vllm:request_inference_time_seconds_sum'), 4);
  t.equal(value('vllm:request_time_per_output_token_seconds_sum'), 1);
  t.equal(value('vllm:request_prefill_kv_computed_tokens_sum'), 36);
  t.equal(value('vllm:e2e_request_latency_seconds_sum'), 4.5);
  t.equal(value('vllm:iteration_tokens_total_sum'), 37);
  t.equal(samples.get('longhaul_step_total'), 2);
  t.equal(samples.get('longhaul_step_seconds_sum'), 0.75);
  t.equal(value('longhaul_http_requests_total', 'route="/v1/completions",code="200"'), 1);
});

t.test('a request that never ran is counted, not timed', async (t) => {
  const metrics = make();
  metrics.onFinish({
    reason: 'abort',
    usage: { promptTokens: 9, completionTokens: 0, cachedTokens: 0 },
    timings: { queueMs: null, prefillMs: null, decodeMs: null },
    e2eSeconds: 1,
    maxTokens: 5,
  });
  const { samples } = await scrape(metrics);
  t.equal(samples.get(`vllm:request_success_total{${LABELS},finished_reason="abort"}`), 1);
  t.equal(samples.get(`vllm:request_queue_time_seconds_count{${LABELS}}`) ?? 0, 0);
  t.equal(samples.get(`vllm:request_prompt_tokens_count{${LABELS}}`) ?? 0, 0);
});

t.test('gauges are read from the engine when scraped', async (t) => {
  const metrics = make();
  const engine = new FakeEngine();
  metrics.attach(engine, { blockSize: 16, numBlocks: 20, kvDtype: 'bf16', prefixCache: false });
  Object.assign(engine.statsOverrides, {
    numRunning: 3,
    numWaiting: 5,
    blocks: { owned: 4, cached: 6, free: 9, moving: 1 },
  });
  const { samples } = await scrape(metrics);
  t.equal(samples.get(`vllm:num_requests_running{${LABELS}}`), 3);
  t.equal(samples.get(`vllm:num_requests_waiting{${LABELS}}`), 5);
  t.equal(samples.get(`vllm:num_requests_waiting_by_reason{${LABELS},reason="capacity"}`), 5);
  t.equal(samples.get(`vllm:kv_cache_usage_perc{${LABELS}}`), 0.25);
  for (const [state, count] of [
    ['owned', 4],
    ['cached', 6],
    ['free', 9],
    ['moving', 1],
  ] as const) {
    t.equal(samples.get(`longhaul_kv_blocks{tier="device",state="${state}"}`), count);
  }
  t.equal(
    samples.get(
      'vllm:cache_config_info{engine="0",block_size="16",cache_dtype="bf16",enable_prefix_caching="False",num_gpu_blocks="20",num_cpu_blocks="0"}',
    ),
    1,
  );
  Object.assign(engine.statsOverrides, { numRunning: 0 });
  t.equal((await scrape(metrics)).samples.get(`vllm:num_requests_running{${LABELS}}`), 0);
});
