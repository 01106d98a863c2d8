/**
 * Counts what the engine and HTTP report, and answers Prometheus. Gauges are read from the engine
 * when scraped; counters and histograms are fed as things happen.
 */
import { collectDefaultMetrics, Registry } from 'prom-client';
import type { Engine, EngineObserver } from '../engine/engine-types.js';
import { createMetricTable, type MetricTable } from './metric-table.js';

const SOURCES = ['local_compute', 'local_cache_hit'] as const;
const FINISH_REASONS = ['stop', 'length', 'abort', 'error'] as const;

export interface MetricsOptions {
  modelName: string;
  /** Bounds the buckets of token histograms. */
  maxModelLen: number;
}

/** Settings that vllm:cache_config_info shows as labels. */
export interface CacheConfig {
  blockSize: number;
  numBlocks: number;
  kvDtype: string;
  prefixCache: boolean;
}

export class Metrics implements EngineObserver {
  readonly #registry = new Registry();
  readonly #table: MetricTable;
  readonly #labels: { model_name: string; engine: string };
  #engine: Engine | null = null;

  constructor(options: MetricsOptions) {
    this.#labels = { model_name: options.modelName, engine: '0' };
    this.#table = createMetricTable(this.#registry, options.maxModelLen);
    collectDefaultMetrics({ register: this.#registry });
    this.#startAtZero();
  }

  /** From now on scrapes read this engine; it was built with these metrics as its observer. */
  attach(engine: Engine, cache: CacheConfig): void {
    this.#engine = engine;
    this.#table.cacheConfigInfo.set(
      {
        engine: this.#labels.engine,
        block_size: String(cache.blockSize),
        cache_dtype: cache.kvDtype,
        enable_prefix_caching: cache.prefixCache ? 'True' : 'False',
        num_gpu_blocks: String(cache.numBlocks),
        num_cpu_blocks: '0',
      },
      1,
    );
  }

  get contentType(): string {
    return this.#registry.contentType;
  }

  async exposition(): Promise<string> {
    this.#readEngine();
    return this.#registry.metrics();
  }

  onStep(step: Parameters<EngineObserver['onStep']>[0]): void {
    this.#table.steps.inc();
    this.#table.stepSeconds.observe(step.seconds);
    this.#table.iterationTokens.observe(this.#labels, step.numTokens);
    this.#table.promptTokens.inc(this.#labels, step.prefillTokens);
  }

  onFirstToken(request: { ttftSeconds: number; queueSeconds: number }): void {
    this.#table.timeToFirstToken.observe(this.#labels, request.ttftSeconds);
    this.#table.generationTokens.inc(this.#labels);
  }

  /** Tokens after the first one. */
  onToken(gapSeconds: number, count: number): void {
    this.#table.generationTokens.inc(this.#labels, count);
    // Tokens of one step arrive together; each is counted as its share of the step's gap.
    for (let token = 0; token < count; token += 1) {
      this.#table.interTokenLatency.observe(this.#labels, gapSeconds / count);
    }
  }

  onPrefixCache(queriedTokens: number, hitTokens: number): void {
    this.#table.prefixCacheQueries.inc(this.#labels, queriedTokens);
    this.#table.prefixCacheHits.inc(this.#labels, hitTokens);
  }

  onPreemption(): void {
    this.#table.numPreemptions.inc(this.#labels);
  }

  onFinish(request: Parameters<EngineObserver['onFinish']>[0]): void {
    const { usage, timings } = request;
    const table = this.#table;
    const labels = this.#labels;
    const computed = usage.promptTokens - usage.cachedTokens;
    table.requestSuccess.inc({ ...labels, finished_reason: request.reason });
    table.e2eLatency.observe(labels, request.e2eSeconds);
    table.requestMaxTokens.observe(labels, request.maxTokens);
    if (timings.queueMs !== null) table.queueTime.observe(labels, timings.queueMs / 1000);
    // A request that left the queue unserved has no prompt or decode to speak of.
    if (timings.prefillMs === null) return;
    const decodeMs = timings.decodeMs ?? 0;
    table.prefillTime.observe(labels, timings.prefillMs / 1000);
    table.decodeTime.observe(labels, decodeMs / 1000);
    table.inferenceTime.observe(labels, (timings.prefillMs + decodeMs) / 1000);
    table.requestPromptTokens.observe(labels, usage.promptTokens);
    table.requestGenerationTokens.observe(labels, usage.completionTokens);
    table.requestPrefillComputed.observe(labels, computed);
    table.promptTokensCached.inc(labels, usage.cachedTokens);
    table.promptTokensBySource.inc({ ...labels, source: 'local_cache_hit' }, usage.cachedTokens);
    table.promptTokensBySource.inc({ ...labels, source: 'local_compute' }, computed);
    if (usage.completionTokens > 1) {
      table.timePerOutputToken.observe(labels, decodeMs / 1000 / (usage.completionTokens - 1));
    }
  }

  onResponse(route: string, code: number): void {
    this.#table.httpRequests.inc({ route, code: String(code) });
  }

  onChoices(count: number, generatedTokensMax: number): void {
    this.#table.requestChoices.observe(this.#labels, count);
    this.#table.requestMaxGenerationTokens.observe(this.#labels, generatedTokensMax);
  }

  #readEngine(): void {
    if (this.#engine === null) return;
    const { blocks, numRunning, numWaiting } = this.#engine.stats();
    const total = blocks.owned + blocks.cached + blocks.free + blocks.moving;
    const table = this.#table;
    const labels = this.#labels;
    table.numRequestsRunning.set(labels, numRunning);
    table.numRequestsWaiting.set(labels, numWaiting);
    table.numRequestsWaitingByReason.set({ ...labels, reason: 'capacity' }, numWaiting);
    table.numRequestsWaitingByReason.set({ ...labels, reason: 'deferred' }, 0);
    // Cached blocks can be taken at any time: like vLLM, they count as free.
    table.kvCacheUsage.set(labels, total === 0 ? 0 : (blocks.owned + blocks.moving) / total);
    for (const [state, count] of Object.entries(blocks)) {
      table.kvBlocks.set({ tier: 'device', state }, count);
    }
  }

  /** Series exist from the first scrape, so that rates over them see the first increment. */
  #startAtZero(): void {
    const table = this.#table;
    for (const counter of [
      table.prefixCacheQueries,
      table.prefixCacheHits,
      table.numPreemptions,
      table.promptTokens,
      table.promptTokensCached,
      table.generationTokens,
    ]) {
      counter.inc(this.#labels, 0);
    }
    for (const source of SOURCES) table.promptTokensBySource.inc({ ...this.#labels, source }, 0);
    for (const finished_reason of FINISH_REASONS) {
      table.requestSuccess.inc({ ...this.#labels, finished_reason }, 0);
    }
  }
}
