/**
 * Every metric: name, help, labels, buckets, in one table. Names, types, labels and buckets of
 * the `vllm:` part equal vLLM's V1 engine (vllm/v1/metrics/loggers.py), so that its dashboards,
 * autoscalers and routers work unchanged; `longhaul_` is ours. Prometheus counters carry `_total`.
 */
import { Counter, type CounterConfiguration, Gauge, Histogram, type Registry } from 'prom-client';

/** Labels of every engine metric; `engine` is the index of an engine in a process. */
export const ENGINE_LABELS = ['model_name', 'engine'] as const;

const LATENCY_BUCKETS = [
  0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680,
];
const TTFT_BUCKETS = [
  0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
  160, 640, 2560,
];
const TOKEN_LATENCY_BUCKETS = [
  0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80,
];
const ITERATION_BUCKETS = [1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384];
const CHOICES_BUCKETS = [1, 2, 5, 10, 20];
const STEP_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

/** 1, 2, 5, 10, 20, 50 … up to `max`, as vLLM sizes its token histograms. */
export function oneTwoFiveBuckets(max: number): number[] {
  const buckets: number[] = [];
  for (let decade = 1; decade <= max; decade *= 10) {
    buckets.push(...[1, 2, 5].map((step) => step * decade).filter((bucket) => bucket <= max));
  }
  return buckets;
}

export type MetricTable = ReturnType<typeof createMetricTable>;

export function createMetricTable(registry: Registry, maxModelLen: number) {
  const registers = [registry];
  const gauge = <Label extends string = never>(name: string, help: string, labels: Label[] = []) =>
    new Gauge({ name, help, registers, labelNames: [...ENGINE_LABELS, ...labels] });
  const counter = <Label extends string = never>(
    name: string,
    help: string,
    labels: Label[] = [],
  ) => {
    const configuration: CounterConfiguration<(typeof ENGINE_LABELS)[number] | Label> = {
      name,
      help,
      registers,
      labelNames: [...ENGINE_LABELS, ...labels],
    };
    return new Counter(configuration);
  };
  const histogram = (name: string, help: string, buckets: number[]) =>
    new Histogram({ name, help, registers, buckets, labelNames: [...ENGINE_LABELS] });
  const tokenBuckets = oneTwoFiveBuckets(maxModelLen);

  return {
    numRequestsRunning: gauge('vllm:num_requests_running', 'Requests in the running batch.'),
    numRequestsWaiting: gauge('vllm:num_requests_waiting', 'Requests waiting to be run.'),
    numRequestsWaitingByReason: gauge(
      'vllm:num_requests_waiting_by_reason',
      'Requests waiting to be run, by what they wait for.',
      ['reason'],
    ),
    kvCacheUsage: gauge('vllm:kv_cache_usage_perc', 'Share of KV blocks in use; 1 is all.'),
    cacheConfigInfo: new Gauge({
      name: 'vllm:cache_config_info',
      help: 'Settings of the KV cache, as labels.',
      registers,
      labelNames: [
        'engine',
        'block_size',
        'cache_dtype',
        'enable_prefix_caching',
        'num_gpu_blocks',
        'num_cpu_blocks',
      ],
    }),

    prefixCacheQueries: counter(
      'vllm:prefix_cache_queries_total',
      'Prompt tokens looked up in the prefix cache.',
    ),
    prefixCacheHits: counter(
      'vllm:prefix_cache_hits_total',
      'Prompt tokens found in the prefix cache.',
    ),
    numPreemptions: counter('vllm:num_preemptions_total', 'Times a running request was put back.'),
    promptTokens: counter('vllm:prompt_tokens_total', 'Prompt tokens processed.'),
    promptTokensCached: counter(
      'vllm:prompt_tokens_cached_total',
      'Prompt tokens that needed no computation.',
    ),
    promptTokensBySource: counter(
      'vllm:prompt_tokens_by_source_total',
      'Prompt tokens processed, by where their K/V came from.',
      ['source'],
    ),
    generationTokens: counter('vllm:generation_tokens_total', 'Tokens generated.'),
    requestSuccess: counter('vllm:request_success_total', 'Requests ended, by how.', [
      'finished_reason',
    ]),

    timeToFirstToken: histogram(
      'vllm:time_to_first_token_seconds',
      'From arrival to the first token.',
      TTFT_BUCKETS,
    ),
    interTokenLatency: histogram(
      'vllm:inter_token_latency_seconds',
      'Between two tokens of a request.',
      TOKEN_LATENCY_BUCKETS,
    ),
    timePerOutputToken: histogram(
      'vllm:request_time_per_output_token_seconds',
      'Mean time of a token after the first, a request.',
      TOKEN_LATENCY_BUCKETS,
    ),
    e2eLatency: histogram(
      'vllm:e2e_request_latency_seconds',
      'From arrival to the end of a request.',
      LATENCY_BUCKETS,
    ),
    queueTime: histogram(
      'vllm:request_queue_time_seconds',
      'Waiting before the first step of a request.',
      LATENCY_BUCKETS,
    ),
    prefillTime: histogram(
      'vllm:request_prefill_time_seconds',
      "From a request's first step to its first token.",
      LATENCY_BUCKETS,
    ),
    decodeTime: histogram(
      'vllm:request_decode_time_seconds',
      "From a request's first token to its last.",
      LATENCY_BUCKETS,
    ),
    inferenceTime: histogram(
      'vllm:request_inference_time_seconds',
      "From a request's first step to its last token.",
      LATENCY_BUCKETS,
    ),
    iterationTokens: histogram(
      'vllm:iteration_tokens_total',
      'Tokens computed in one step.',
      ITERATION_BUCKETS,
    ),
    requestPromptTokens: histogram(
      'vllm:request_prompt_tokens',
      'Prompt tokens of a request.',
      tokenBuckets,
    ),
    requestGenerationTokens: histogram(
      'vllm:request_generation_tokens',
      'Tokens generated for a request.',
      tokenBuckets,
    ),
    requestMaxGenerationTokens: histogram(
      'vllm:request_max_num_generation_tokens',
      'Tokens of the longest choice of a request.',
      tokenBuckets,
    ),
    requestMaxTokens: histogram(
      'vllm:request_params_max_tokens',
      'Tokens a request asked for at most.',
      tokenBuckets,
    ),
    requestPrefillComputed: histogram(
      'vllm:request_prefill_kv_computed_tokens',
      'Prompt tokens of a request that were computed, not taken from the cache.',
      tokenBuckets,
    ),
    requestChoices: histogram(
      'vllm:request_params_n',
      'Choices a request asked for.',
      CHOICES_BUCKETS,
    ),

    // Ours. `step` and `http` count for the whole process, so they carry no model label.
    steps: new Counter({
      name: 'longhaul_step_total',
      help: 'Engine steps run.',
      registers,
    }),
    stepSeconds: new Histogram({
      name: 'longhaul_step_seconds',
      help: 'Duration of an engine step.',
      registers,
      buckets: STEP_BUCKETS,
    }),
    kvBlocks: new Gauge({
      name: 'longhaul_kv_blocks',
      help: 'KV blocks by memory tier and state.',
      registers,
      labelNames: ['tier', 'state'],
    }),
    httpRequests: new Counter({
      name: 'longhaul_http_requests_total',
      help: 'HTTP answers by route pattern and status code; 499 is a client that left.',
      registers,
      labelNames: ['route', 'code'],
    }),
  };
}
