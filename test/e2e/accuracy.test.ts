/**
 * The two real models against transformers in fp32 on the same dequantized weights. Bounds come
 * from llama.cpp's distance on the same file (test/golden/README.md); the full divergence over
 * 4096 tokens is measured by bench/accuracy.ts.
 */
import t from 'tap';
import { readAccuracy } from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { REAL_MODELS, testModel } from '../support/test-models.js';
import { complete, firstChoice } from './client.js';

const GREEDY_TOKENS_EXACT = 32;
const GAP_IN_RMS_ERRORS = 4;

for (const name of REAL_MODELS) {
  const model = await testModel(name);
  const fixture = readAccuracy(name);

  t.test(`${name} against the fp32 reference`, { skip: model.skip }, async (t) => {
    t.equal(model.sha256, fixture.source.sha256, 'the references are of this very file');
    const server = await startServer({ model: model.path });
    t.teardown(() => server.stop());

    t.test('greedy continuations follow the reference', async (t) => {
      const answers = await Promise.all(
        fixture.greedy.map(async ({ ids, tokens }) =>
          firstChoice(
            await complete(server.url, {
              prompt: ids,
              max_tokens: tokens.length,
              temperature: 0,
              ignore_eos: true,
              return_token_ids: true,
            }),
          ),
        ),
      );
      const tolerance = GAP_IN_RMS_ERRORS * fixture.llama.rms_logit_error;
      let matched = 0;
      fixture.greedy.forEach((golden, index) => {
        const ids = answers[index]?.token_ids ?? [];
        t.equal(ids.length, golden.tokens.length, `${golden.text}: all tokens arrived`);
        const first = golden.tokens.findIndex((token, step) => ids[step] !== token);
        if (first < 0) {
          matched += 1;
          return;
        }
        const [, logprobs] = golden.top[first] as [number[], number[]];
        const gap = (logprobs[0] as number) - (logprobs[1] as number);
        t.ok(
          first >= GREEDY_TOKENS_EXACT || gap < tolerance,
          `${golden.text}: parts at token ${first}, where the gap is ${gap.toFixed(3)} (below ${tolerance.toFixed(3)})`,
        );
      });
      t.comment(`${matched} of ${fixture.greedy.length} continuations agree to the last token`);
    });

    t.test('log-probabilities of a text', async (t) => {
      const { ids, logprobs, top, llama } = fixture.text;
      const answer = firstChoice(
        await complete(server.url, { prompt: ids, max_tokens: 1, prompt_logprobs: 5 }),
      );
      const entries = answer.prompt_logprobs ?? [];
      t.equal(entries.length, ids.length);
      t.equal(entries[0], null, 'nothing predicts the first token');
      let error = 0;
      let agree = 0;
      logprobs.forEach((expected, index) => {
        const entry = entries[index + 1] ?? {};
        const actual = entry[String(ids[index + 1])]?.logprob ?? Number.NaN;
        error += Math.abs(actual - expected);
        if (entry[String(top[index]?.[0])]?.rank === 1) agree += 1;
      });
      const meanError = error / logprobs.length;
      const agreement = agree / logprobs.length;
      t.comment(
        `mean error ${meanError.toFixed(5)} (llama.cpp ${llama.mean_target_error}), ` +
          `top-1 ${(100 * agreement).toFixed(2)} % (llama.cpp ${(100 * llama.top1_agreement).toFixed(2)} %)`,
      );
      // A sample this small scatters more than the measured 4096 tokens: room for that, none for a bug.
      t.ok(meanError <= 1.25 * llama.mean_target_error, 'as near as llama.cpp');
      t.ok(agreement >= llama.top1_agreement - 0.015, 'the likeliest token is the reference one');
    });
  });
}
