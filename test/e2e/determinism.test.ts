/**
 * Greedy output is byte-identical whatever else runs, however the prompt was cut, cold or from the
 * prefix cache, with either step loop and any number of threads. Log-probabilities are compared
 * too: their last bit shows a changed order of summation long before a token does.
 */
import t, { type Test } from 'tap';
import { readAccuracy, readText } from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { REAL_MODELS, testModel } from '../support/test-models.js';
import { complete, firstChoice, idleIntegrity, readMetrics, sample } from './client.js';

const NUM_TOKENS = 24;
const NUM_OTHERS = 15;

/** Holds one sequence of 640 tokens and little more. */
const SMALL_KV_MEMORY = { smollm2: '16MiB', gemma3: '12MiB' } as const;

interface Probe {
  ids: number[];
}
interface Output {
  tokens: number[];
  logprobs: Array<number | null>;
  cachedTokens: number;
}

/** A short prompt, one of odd length, and one of several chunks (longer than Gemma's window). */
function probes(name: (typeof REAL_MODELS)[number]): Probe[] {
  const { greedy, text } = readAccuracy(name);
  return [
    { ids: greedy[0]?.ids ?? [] },
    { ids: text.ids.slice(0, 77) },
    { ids: text.ids.slice(0, 601) },
  ];
}

async function run(url: string, { ids }: Probe, salt: string): Promise<Output> {
  const completion = await complete(url, {
    prompt: ids,
    max_tokens: NUM_TOKENS,
    temperature: 0,
    ignore_eos: true,
    logprobs: 1,
    return_token_ids: true,
    cache_salt: salt,
  });
  const choice = firstChoice(completion);
  return {
    tokens: choice.token_ids ?? [],
    logprobs: choice.logprobs?.token_logprobs ?? [],
    cachedTokens: completion.usage.prompt_tokens_details?.cached_tokens ?? 0,
  };
}

/** Other users' requests: different lengths, sampled and greedy, arriving over some steps. */
async function others(url: string, numTokens: number): Promise<void> {
  const text = readText('python-reference');
  await Promise.all(
    Array.from({ length: NUM_OTHERS }, async (_, index) => {
      await new Promise((resolve) => setTimeout(resolve, index * 15));
      await complete(url, {
        prompt: text.slice(index * 100, index * 100 + 40 + index * 60),
        max_tokens: numTokens + index,
        temperature: index % 2,
        seed: index,
        ignore_eos: true,
        cache_salt: 'others',
      });
    }),
  );
}

const sameOutput = (t: Test, actual: Output, expected: Output, what: string): void => {
  t.strictSame(actual.tokens, expected.tokens, `${what}: tokens`);
  t.strictSame(actual.logprobs, expected.logprobs, `${what}: log-probabilities, to the last bit`);
};

interface Variant {
  what: string;
  args?: string[];
  env?: Record<string, string>;
  /** Probes to run; the scalar oracle is too slow for the long one. */
  numProbes?: number;
}

const VARIANTS: readonly Variant[] = [
  { what: 'one thread', args: ['--threads', '1'] },
  { what: 'the plain loop', args: ['--no-overlap'] },
  { what: 'chunks of at most 48 tokens', args: ['--max-num-batched-tokens', '48'] },
  { what: 'no prefix cache', args: ['--no-prefix-cache'] },
  { what: 'blocks of 64 tokens', args: ['--block-size', '64'] },
  // No promise to users, but the paths were built for it (native/backend/cpu/matmul.h).
  { what: 'AVX2 at most', env: { LONGHAUL_ISA: 'avx2' } },
  { what: 'the scalar oracle', env: { LONGHAUL_ISA: 'scalar' }, numProbes: 1 },
];

for (const name of REAL_MODELS) {
  const model = await testModel(name);
  t.test(`${name}: same bytes`, { skip: model.skip }, async (t) => {
    const all = probes(name);
    const server = await startServer({ model: model.path, args: ['--threads', '2'] });
    t.teardown(() => server.stop());

    const alone: Output[] = [];
    for (const [index, probe] of all.entries())
      alone.push(await run(server.url, probe, `cold-${index}`));
    const expected = (index: number): Output => alone[index] as Output;
    t.ok(alone.every((output) => output.tokens.length === NUM_TOKENS && output.cachedTokens === 0));

    t.test('again, from the prefix cache', async (t) => {
      for (const [index, probe] of all.entries()) {
        const output = await run(server.url, probe, `cold-${index}`);
        if (probe.ids.length > 64) t.ok(output.cachedTokens > 0, 'the cache was hit');
        sameOutput(t, output, expected(index), `probe ${index}`);
      }
    });

    t.test('a longer prompt whose first half is cached', async (t) => {
      const long = all[2] as Probe;
      await run(server.url, { ids: long.ids.slice(0, 300) }, 'half');
      const output = await run(server.url, long, 'half');
      t.ok(output.cachedTokens > 0 && output.cachedTokens <= 300, `${output.cachedTokens} cached`);
      sameOutput(t, output, expected(2), 'half cached');
    });

    t.test(`among ${NUM_OTHERS} others`, async (t) => {
      const crowd = others(server.url, 16);
      const outputs = await Promise.all(all.map((probe) => run(server.url, probe, 'crowd')));
      await crowd;
      for (const [index, output] of outputs.entries())
        sameOutput(t, output, expected(index), `probe ${index}`);
    });

    t.test('the books are balanced afterwards', async (t) => {
      t.match(await idleIntegrity(server.url), { ok: true, owned: 0, moving: 0 });
    });

    t.test(
      `among ${NUM_OTHERS} others in too little memory: preempted, computed again`,
      async (t) => {
        const small = await startServer({
          model: model.path,
          args: ['--kv-memory', SMALL_KV_MEMORY[name], '--max-model-len', '640', '--check'],
        });
        t.teardown(() => small.stop());
        const crowd = others(small.url, 60);
        const outputs = await Promise.all(all.map((probe) => run(small.url, probe, 'crowd')));
        await crowd;
        const preemptions = sample(await readMetrics(small.url), 'vllm:num_preemptions_total');
        t.ok(preemptions > 0, `${preemptions} preemptions`);
        for (const [index, output] of outputs.entries()) {
          sameOutput(t, output, expected(index), `probe ${index}`);
        }
        t.match(await idleIntegrity(small.url), { ok: true, owned: 0 });
      },
    );

    for (const { what, args = [], env = {}, numProbes = all.length } of VARIANTS) {
      t.test(`with ${what}`, async (t) => {
        const other = await startServer({ model: model.path, args, env });
        t.teardown(() => other.stop());
        const outputs = await Promise.all(
          all.slice(0, numProbes).map((probe) => run(other.url, probe, '')),
        );
        for (const [index, output] of outputs.entries()) {
          sameOutput(t, output, expected(index), `probe ${index}`);
        }
      });
    }
  });
}
