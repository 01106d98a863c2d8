/** Sixty-four streaming clients of mixed lengths, a quarter of which hang up midway. */
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { readText } from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import { events, idleIntegrity, openStream, readMetrics, sample } from './client.js';

const NUM_CLIENTS = 64;
/** The promise is 50 ms; the test fails only where the server was plainly blocked. */
const LIVE_P99_LIMIT_MS = 250;

interface Outcome {
  hungUp: boolean;
  chunks: number;
  finishReason: string | null;
  completionTokens: number | null;
  done: boolean;
}

async function client(url: string, index: number): Promise<Outcome> {
  const text = readText(index % 2 ? 'python-source' : 'python-reference');
  const hungUp = index % 4 === 3;
  const maxTokens = 16 + (index % 8) * 8;
  const controller = new AbortController();
  const outcome: Outcome = {
    hungUp,
    chunks: 0,
    finishReason: null,
    completionTokens: null,
    done: false,
  };
  try {
    const stream = await openStream(
      `${url}/v1/completions`,
      {
        prompt: text.slice(index * 50, index * 50 + 30 + (index % 16) * 100),
        max_tokens: maxTokens,
        ignore_eos: true,
        temperature: index % 3 === 0 ? 0.8 : 0,
        seed: index,
        stream_options: { include_usage: true },
        return_token_ids: true,
      },
      controller.signal,
    );
    for await (const data of events(stream)) {
      if (data === '[DONE]') {
        outcome.done = true;
        continue;
      }
      const chunk = JSON.parse(data) as {
        choices: Array<{ finish_reason: string | null }>;
        usage?: { completion_tokens: number } | null;
      };
      outcome.chunks += 1;
      outcome.finishReason = chunk.choices[0]?.finish_reason ?? outcome.finishReason;
      outcome.completionTokens = chunk.usage?.completion_tokens ?? outcome.completionTokens;
      if (hungUp && outcome.chunks >= 2 + (index % 5)) controller.abort();
    }
  } catch (error) {
    if (!hungUp || (error as Error).name !== 'AbortError') throw error;
  }
  return outcome;
}

function percentile(values: number[], share: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN;
}

const model = await testModel('smollm2');

t.test(
  `${NUM_CLIENTS} streaming clients, a quarter hanging up`,
  { skip: model.skip },
  async (t) => {
    const server = await startServer({ model: model.path });
    t.teardown(() => server.stop());
    const probe = new Worker(new URL('./health-probe.js', import.meta.url), {
      workerData: { url: `${server.url}/health/live` },
    });

    const start = performance.now();
    const outcomes = await Promise.all(
      Array.from({ length: NUM_CLIENTS }, (_, index) => client(server.url, index)),
    );
    t.comment(`all ended after ${((performance.now() - start) / 1000).toFixed(1)} s`);
    probe.postMessage('stop');
    const [latencies] = (await once(probe, 'message')) as [number[]];

    for (const [index, outcome] of outcomes.entries()) {
      if (outcome.hungUp) {
        t.notOk(outcome.done, `client ${index} hung up midway`);
        continue;
      }
      t.strictSame(
        { done: outcome.done, reason: outcome.finishReason, tokens: outcome.completionTokens },
        { done: true, reason: 'length', tokens: 16 + (index % 8) * 8 },
        `client ${index} got everything it asked for`,
      );
    }
    t.equal(outcomes.filter((outcome) => outcome.hungUp).length, NUM_CLIENTS / 4);

    const p99 = percentile(latencies, 0.99);
    t.comment(
      `/health/live of ${latencies.length}: median ${percentile(latencies, 0.5).toFixed(1)} ms, ` +
        `99 % ${p99.toFixed(1)} ms, largest ${percentile(latencies, 1).toFixed(1)} ms`,
    );
    t.ok(p99 < LIVE_P99_LIMIT_MS, `/health/live stays responsive (${p99.toFixed(1)} ms)`);

    t.match(await idleIntegrity(server.url), { ok: true, owned: 0, moving: 0 }, 'no block leaked');
    const metrics = await readMetrics(server.url);
    t.equal(sample(metrics, 'vllm:num_requests_running'), 0);
    t.equal(sample(metrics, 'vllm:num_requests_waiting'), 0);
  },
);
