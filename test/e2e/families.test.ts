/**
 * Every model family against transformers, on tiny random checkpoints that use the family's own
 * parts (test/golden/reference/tiny_models.py). Loaded, tokenized and served as a user would.
 */
import t from 'tap';
import {
  readTinyCases,
  TINY_FAMILIES,
  type TinyCase,
  type Top,
  tinyModelFolder,
} from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { type CompletionChoice, complete, firstChoice, post } from './client.js';

/**
 * Activations and K/V are rounded to 16 bit on the way, the reference rounds nothing: that costs
 * about 0.002 nat on average. Logits spread over several nats, and one wrong constant (a window off
 * by one, a scale, a forgotten bias) moves them by far more than these bounds.
 */
const MEAN_ERROR_MAX = 0.01;
const ERROR_MAX = 0.1;
/** Where the reference's first two tokens are at least this far apart, their order is certain. */
const CLEAR_GAP = 0.2;

interface Distance {
  sum: number;
  max: number;
  count: number;
}

function compareTop(
  entry: Record<string, { logprob: number }>,
  [ids, logprobs]: Top,
  into: Distance,
): void {
  ids.forEach((id, rank) => {
    const actual = entry[String(id)]?.logprob;
    // Fifth place may have gone to a near equal; the first three are always among ours.
    if (actual === undefined && rank >= 3) return;
    const error = Math.abs((actual ?? Number.NaN) - (logprobs[rank] as number));
    into.sum += error;
    into.count += 1;
    if (!(error <= into.max)) into.max = error;
  });
}

const gapOf = ([, logprobs]: Top): number => (logprobs[0] as number) - (logprobs[1] as number);

function firstDifference(golden: TinyCase, choice: CompletionChoice): number {
  return golden.tokens.findIndex((token, step) => choice.token_ids?.[step] !== token);
}

for (const family of TINY_FAMILIES) {
  t.test(`${family}, tiny random checkpoint`, async (t) => {
    const server = await startServer({ model: tinyModelFolder(family) });
    t.teardown(() => server.stop());
    const cases = readTinyCases(family);

    t.test('token ids are those of the reference tokenizer', async (t) => {
      for (const { text, ids } of cases) {
        const answer = await post<{ tokens: number[] }>(`${server.url}/tokenize`, { prompt: text });
        t.strictSame(answer.body.tokens, ids, JSON.stringify(text.slice(0, 40)));
        const back = await post<{ prompt: string }>(`${server.url}/detokenize`, { tokens: ids });
        t.ok(back.body.prompt.endsWith(text), 'and decode to the text');
      }
    });

    t.test('prompt log-probabilities', async (t) => {
      const distance: Distance = { sum: 0, max: 0, count: 0 };
      let clear = 0;
      let agree = 0;
      for (const golden of cases) {
        const answer = firstChoice(
          await complete(server.url, { prompt: golden.ids, max_tokens: 1, prompt_logprobs: 20 }),
        );
        const entries = answer.prompt_logprobs ?? [];
        t.equal(entries.length, golden.ids.length);
        golden.prompt_top.forEach((top, index) => {
          const entry = entries[index + 1] ?? {};
          compareTop(entry, top, distance);
          const id = golden.ids[index + 1] as number;
          const known: Top = [[id], [golden.logprobs[index] as number]];
          compareTop(entry, known, distance);
          if (gapOf(top) < CLEAR_GAP) return;
          clear += 1;
          if (entry[String(top[0][0])]?.rank === 1) agree += 1;
        });
      }
      const mean = distance.sum / distance.count;
      t.comment(
        `mean error ${mean.toFixed(5)}, largest ${distance.max.toFixed(4)} of ${distance.count}`,
      );
      t.ok(mean <= MEAN_ERROR_MAX, `mean error ${mean}`);
      t.ok(distance.max <= ERROR_MAX, `largest error ${distance.max}`);
      t.equal(agree, clear, 'the likeliest token, wherever the reference is clear');
      t.ok(clear > 100, 'enough places are clear');
    });

    t.test('greedy continuations', async (t) => {
      let exact = 0;
      for (const golden of cases) {
        const choice = firstChoice(
          await complete(server.url, {
            prompt: golden.ids,
            max_tokens: golden.tokens.length,
            temperature: 0,
            ignore_eos: true,
            return_token_ids: true,
          }),
        );
        t.equal(choice.token_ids?.length, golden.tokens.length);
        const first = firstDifference(golden, choice);
        if (first < 0) exact += 1;
        else {
          const gap = gapOf(golden.top[first] as Top);
          t.ok(gap < CLEAR_GAP, `parts at token ${first}, where the gap is ${gap.toFixed(3)}`);
        }
      }
      t.comment(`${exact} of ${cases.length} agree to the last token`);
    });
  });
}
