/** The formulas of `bench serve` on timings written by hand, with their values worked out by hand. */
import t from 'tap';
import { StreamRecorder } from '../../../src/bench/serve-client.js';
import { type RequestOutcome, serveMetrics } from '../../../src/bench/serve-metrics.js';

function outcome(values: Partial<RequestOutcome>): RequestOutcome {
  return {
    error: null,
    startTime: 100,
    promptTokens: 10,
    outputTokens: 3,
    ttft: 0.5,
    itls: [0.25, 0.75],
    latency: 1.5,
    ...values,
  };
}

t.test('totals, rates and times', async (t) => {
  const metrics = serveMetrics(
    [
      outcome({}), // tpot (1.5 - 0.5) / 2 = 0.5
      outcome({ startTime: 101, outputTokens: 5, ttft: 1, itls: [1, 0, 0, 1], latency: 3 }), // 0.5
      outcome({ startTime: 101.5, outputTokens: 1, ttft: 0.25, itls: [], latency: 0.25 }), // none
      outcome({ error: '503: busy', promptTokens: 1000 }),
    ],
    4,
    {},
  );
  t.match(metrics, {
    duration: 4,
    completed: 3,
    failed: 1,
    total_input_tokens: 30,
    total_output_tokens: 9,
    request_throughput: 0.75,
    request_goodput: null,
    output_throughput: 2.25,
    total_token_throughput: 9.75,
    median_ttft_ms: 500,
    mean_tpot_ms: 500,
    median_tpot_ms: 500,
    std_tpot_ms: 0,
    p99_tpot_ms: 500,
    mean_itl_ms: 500, // 250 750 1000 0 0 1000
    median_itl_ms: 500,
    p99_itl_ms: 1000,
    median_e2el_ms: 1500,
    p99_e2el_ms: 2970, // 1500 + 0.98 * 1500
    max_stall_ms: 1000,
  });
  const close = (key: string, expected: number): void => {
    t.ok(Math.abs(metrics[key]! - expected) < 1e-9, `${key}: ${metrics[key]} is ${expected}`);
  };
  close('mean_ttft_ms', 1750 / 3);
  close(
    'std_ttft_ms',
    Math.sqrt(((500 - 1750 / 3) ** 2 + (1000 - 1750 / 3) ** 2 + (250 - 1750 / 3) ** 2) / 3),
  );
  close('mean_e2el_ms', 4750 / 3);
  t.same(Object.keys(metrics), [
    ...['duration', 'completed', 'failed', 'total_input_tokens', 'total_output_tokens'],
    ...['request_throughput', 'request_goodput', 'output_throughput', 'total_token_throughput'],
    ...['max_output_tokens_per_s', 'max_concurrent_requests'],
    ...['ttft', 'tpot', 'itl', 'e2el'].flatMap((metric) =>
      ['mean', 'median', 'std', 'p99'].map((kind) => `${kind}_${metric}_ms`),
    ),
    'max_stall_ms',
  ]);
});

t.test('the busiest second', async (t) => {
  const metrics = serveMetrics(
    [
      // Pieces at 0.5, 0.75 and 1.5 s.
      outcome({}),
      // At 1.25, 1.5 and 2.5 s; under way in seconds 0 to 2.
      outcome({ startTime: 100.75, ttft: 0.5, itls: [0.25, 1], latency: 1.75 }),
    ],
    3,
    {},
  );
  t.equal(metrics.max_output_tokens_per_s, 3);
  t.equal(metrics.max_concurrent_requests, 2);
});

t.test('goodput: all limits must hold, at the limit is good', async (t) => {
  const outcomes = [
    outcome({}), // ttft 500, tpot 500, e2el 1500
    outcome({ ttft: 0.25, latency: 2.25 }), // 250, 1000, 2250
    outcome({ outputTokens: 1, ttft: 2, itls: [], latency: 2 }), // 2000, 0, 2000
    outcome({ error: 'gone' }),
  ];
  const good = (goodput: object): number | null =>
    serveMetrics(outcomes, 2, goodput).request_goodput!;
  t.equal(good({ ttft: 500 }), 1);
  t.equal(good({ ttft: 499.9 }), 0.5);
  t.equal(good({ tpot: 500 }), 1, 'one token has no time per further token');
  t.equal(good({ ttft: 500, tpot: 500 }), 0.5);
  t.equal(good({ e2el: 2000 }), 1);
  t.equal(good({ ttft: 1, tpot: 1, e2el: 1 }), 0);
});

t.test('nothing succeeded', async (t) => {
  const metrics = serveMetrics([outcome({ error: 'refused' })], 1, { ttft: 1 });
  t.match(metrics, {
    completed: 0,
    failed: 1,
    request_goodput: 0,
    mean_ttft_ms: 0,
    max_stall_ms: 0,
  });
  t.ok(Object.values(metrics).every((value) => Number.isFinite(value)));
});

t.test('what counts as a piece of an answer', async (t) => {
  const request = { prompt: [1, 2], promptTokens: 2, outputTokens: 9 };
  const completion = new StreamRecorder(10, request);
  completion.onChunk({ choices: [{ text: 'a' }] }, 10.5);
  completion.onChunk({ choices: [{ text: '' }] }, 10.75); // half a character
  completion.onChunk({ choices: [{ text: 'é', finish_reason: null }] }, 11.25);
  completion.onChunk({ choices: [{ text: '', finish_reason: 'length' }] }, 11.5);
  completion.onChunk({ choices: [], usage: { prompt_tokens: 7, completion_tokens: 3 } }, 12);
  t.same(completion.outcome(null), {
    error: null,
    startTime: 10,
    promptTokens: 7,
    outputTokens: 3,
    ttft: 0.5,
    itls: [0.25, 0.5],
    latency: 1.5,
  });

  const chat = new StreamRecorder(0, request);
  chat.onChunk({ choices: [{ delta: { content: '' } }] }, 0.25); // the role
  chat.onChunk({ choices: [{ delta: { content: 'x' } }] }, 1);
  chat.onChunk({ choices: [{ delta: { content: 'y' }, finish_reason: 'stop' }] }, 1.5);
  t.match(chat.outcome(null), {
    ttft: 1,
    itls: [0.5],
    latency: 1.5,
    outputTokens: 2,
    promptTokens: 2,
  });

  t.equal(new StreamRecorder(0, request).outcome(null).error, 'no token was received');
  t.throws(() => new StreamRecorder(0, request).onChunk({ error: { message: 'boom' } }, 1), /boom/);
});
