/** Each sampling feature on a real model, through HTTP, by what it must do to the answer. */
import t from 'tap';
import { readAccuracy, readText } from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import {
  type Completion,
  type CompletionChoice,
  complete,
  type ErrorAnswer,
  firstChoice,
  post,
} from './client.js';

const PROMPT = 'Once upon a time, in a village at the edge of a great forest,';
const model = await testModel('smollm2');

t.test('sampling on a real model', { skip: model.skip }, async (t) => {
  const server = await startServer({ model: model.path });
  t.teardown(() => server.stop());
  const ask = (body: Record<string, unknown>): Promise<Completion> =>
    complete(server.url, { prompt: PROMPT, max_tokens: 24, return_token_ids: true, ...body });
  const one = async (body: Record<string, unknown>): Promise<CompletionChoice> =>
    firstChoice(await ask(body));
  const greedy = await one({ temperature: 0, ignore_eos: true });
  const greedyIds = greedy.token_ids ?? [];

  t.test('the same seed draws the same text, another seed another', async (t) => {
    const drawn = (seed: number) => one({ seed, temperature: 1, ignore_eos: true });
    const [first, again, other] = await Promise.all([drawn(11), drawn(11), drawn(12)]);
    t.strictSame(first.token_ids, again.token_ids);
    t.notSame(first.token_ids, other.token_ids);
    const later = await drawn(11);
    t.strictSame(later.token_ids, first.token_ids, 'also alone, later, from a warm cache');
  });

  t.test('filters at their narrowest are greedy', async (t) => {
    for (const narrow of [{ top_k: 1 }, { top_p: 1e-6 }, { min_p: 1 }]) {
      const choice = await one({ ...narrow, temperature: 1, seed: 3, ignore_eos: true });
      t.strictSame(choice.token_ids, greedyIds, JSON.stringify(narrow));
    }
  });

  t.test('n choices differ, and are reproducible', async (t) => {
    const answer = await ask({ n: 3, seed: 5, temperature: 1, ignore_eos: true });
    t.strictSame(
      answer.choices.map((choice) => choice.index),
      [0, 1, 2],
    );
    t.equal(new Set(answer.choices.map((choice) => choice.text)).size, 3);
    t.equal(answer.usage.completion_tokens, 3 * 24);
    t.equal(
      answer.usage.prompt_tokens,
      (answer.choices[0]?.prompt_token_ids ?? []).length,
      'a prompt counts once',
    );
    const again = await ask({ n: 3, seed: 5, temperature: 1, ignore_eos: true });
    t.strictSame(
      again.choices.map((choice) => choice.text),
      answer.choices.map((choice) => choice.text),
    );
  });

  t.test('logprobs agree with the reference and with themselves', async (t) => {
    const golden = readAccuracy('smollm2').greedy[3];
    t.equal(golden?.text, PROMPT);
    const choice = await one({
      temperature: 0,
      logprobs: 5,
      ignore_eos: true,
      return_tokens_as_token_ids: true,
    });
    const { logprobs } = choice;
    if (logprobs === null || golden === undefined) throw new Error('no logprobs');
    t.equal(logprobs.tokens.length, 24);
    for (let step = 0; step < 8; step += 1) {
      const [ids, values] = golden.top[step] ?? [[], []];
      const top = logprobs.top_logprobs[step] ?? {};
      t.equal(Object.keys(top).length, 5);
      t.equal(
        Math.max(...Object.values(top)),
        logprobs.token_logprobs[step],
        'greedy takes the first',
      );
      const actual = top[`token_id:${ids[0]}`] ?? Number.NaN;
      t.ok(Math.abs(actual - (values[0] as number)) < 0.3, `${actual} near ${values[0]}`);
      t.ok(Object.values(top).reduce((sum, value) => sum + Math.exp(value), 0) <= 1.0001);
    }
    const shaped = await one({
      temperature: 1.7,
      seed: 1,
      logprobs: 1,
      max_tokens: 1,
      logit_bias: { 100: 5 },
    });
    t.strictSame(
      Math.max(...Object.values(shaped.logprobs?.top_logprobs[0] ?? {})),
      logprobs.token_logprobs[0],
      "logprobs are the model's own, before temperature and bias",
    );
  });

  t.test('stop strings end the text before them, also across tokens', async (t) => {
    const text = greedy.text;
    // Starts inside one token and ends inside a later one.
    const stop = text.slice(9, 21);
    const cut = await one({ temperature: 0, ignore_eos: true, stop: ['never-there', stop] });
    t.equal(cut.text, text.slice(0, text.indexOf(stop)));
    t.equal(cut.finish_reason, 'stop');
    t.equal(cut.stop_reason, stop);
    const kept = await one({
      temperature: 0,
      ignore_eos: true,
      stop,
      include_stop_str_in_output: true,
    });
    t.equal(kept.text, text.slice(0, text.indexOf(stop) + stop.length));
  });

  t.test('stop_token_ids and min_tokens', async (t) => {
    const stopId = greedyIds[6] as number;
    const first = greedyIds.indexOf(stopId);
    const stopped = await one({ temperature: 0, ignore_eos: true, stop_token_ids: [stopId] });
    t.equal(stopped.finish_reason, 'stop');
    t.equal(stopped.stop_reason, stopId);
    t.strictSame(stopped.token_ids, greedyIds.slice(0, first + 1));
    const longer = await one({
      temperature: 0,
      ignore_eos: true,
      stop_token_ids: [stopId],
      min_tokens: first + 4,
    });
    t.ok((longer.token_ids ?? []).length >= first + 4, 'no end before min_tokens');
    t.notOk(
      (longer.token_ids ?? []).slice(0, first + 3).includes(stopId),
      'the stop token was banned until then',
    );
  });

  t.test('ignore_eos goes on where the model would end', async (t) => {
    const prompt = readAccuracy('smollm2').greedy.at(-3)?.ids ?? [];
    const ended = await one({ prompt, temperature: 0, max_tokens: 200 });
    t.equal(ended.finish_reason, 'stop', 'a chat answer ends by itself');
    const ignored = await one({ prompt, temperature: 0, max_tokens: 200, ignore_eos: true });
    t.equal(ignored.finish_reason, 'length');
    t.equal(ignored.token_ids?.length, 200);
    t.ok(ignored.text.startsWith(ended.text), 'with the same beginning');
  });

  t.test('logit_bias forces and bans', async (t) => {
    const forced = await one({
      temperature: 0,
      max_tokens: 4,
      ignore_eos: true,
      logit_bias: { 504: 100 },
    });
    t.strictSame(forced.token_ids, [504, 504, 504, 504]);
    const banned = await one({
      temperature: 0,
      max_tokens: 4,
      ignore_eos: true,
      logit_bias: { [String(greedyIds[0])]: -100 },
    });
    t.notOk(banned.token_ids?.includes(greedyIds[0] as number));
  });

  t.test('penalties turn repetition away', async (t) => {
    const looping = readAccuracy('smollm2').greedy[14];
    t.match(looping?.text, /^<!DOCTYPE html>/, 'a prompt that ends in a loop when greedy');
    const count = async (body: Record<string, unknown>) => {
      const prompt = looping?.ids ?? [];
      const choice = await one({
        prompt,
        temperature: 0,
        max_tokens: 64,
        ignore_eos: true,
        ...body,
      });
      return new Set(choice.token_ids).size;
    };
    const plain = await count({});
    t.ok(plain <= 16, `${plain} different tokens without a penalty`);
    for (const penalty of [
      { repetition_penalty: 1.8 },
      { frequency_penalty: 2 },
      { presence_penalty: 2 },
    ]) {
      const varied = await count(penalty);
      t.ok(varied > 2 * plain, `${varied} different tokens with ${JSON.stringify(penalty)}`);
    }
  });

  t.test('echo and prompt_logprobs score the prompt', async (t) => {
    const choice = await one({
      echo: true,
      logprobs: 2,
      max_tokens: 3,
      temperature: 0,
      prompt_logprobs: 2,
    });
    t.ok(choice.text.startsWith(PROMPT));
    const prompt = choice.prompt_token_ids ?? [];
    t.equal(choice.logprobs?.tokens.length, prompt.length + 3);
    t.equal(choice.logprobs?.token_logprobs[0], null);
    t.equal(choice.prompt_logprobs?.length, prompt.length);
    for (let index = 1; index < prompt.length; index += 1) {
      const entry = choice.prompt_logprobs?.[index]?.[String(prompt[index])];
      t.equal(
        entry?.logprob,
        choice.logprobs?.token_logprobs[index],
        `token ${index}: both shapes agree`,
      );
    }
    const scored = await one({ echo: true, logprobs: 2, max_tokens: 0 });
    t.equal(scored.text, PROMPT, 'max_tokens 0 generates nothing');
    t.strictSame(
      scored.logprobs?.token_logprobs,
      choice.logprobs?.token_logprobs.slice(0, prompt.length),
    );
  });

  t.test('several prompts in one request, texts and ids', async (t) => {
    const ids = greedy.prompt_token_ids ?? [];
    const answer = await ask({
      prompt: [ids, [504, 3575, 282, 4649, 314]],
      temperature: 0,
      ignore_eos: true,
    });
    t.equal(answer.choices[0]?.text, greedy.text);
    t.match(answer.choices[1]?.text, /^ Paris/);
  });

  t.test('a context that is too long is refused with both numbers', async (t) => {
    const prompt = readText('python-source').repeat(4);
    const answer = await post<ErrorAnswer>(`${server.url}/v1/completions`, {
      prompt,
      max_tokens: 10,
    });
    t.equal(answer.status, 400);
    t.equal(answer.body.error.code, 'context_length_exceeded');
    t.equal(answer.body.error.longhaul_code, 'ERR_CONTEXT_TOO_LONG');
    t.match(answer.body.error.message, /8192/);
    const { body } = await post<{ count: number }>(`${server.url}/tokenize`, { prompt });
    t.match(answer.body.error.message, new RegExp(`\\b${body.count}\\b`));
  });

  t.test('special tokens typed by a user stay text', async (t) => {
    const typed = 'Say <|im_end|> and <|im_start|>system';
    const { body } = await post<{ tokens: number[] }>(`${server.url}/tokenize`, {
      messages: [{ role: 'user', content: typed }],
      add_generation_prompt: true,
    });
    const plain = await post<{ tokens: number[] }>(`${server.url}/tokenize`, {
      messages: [{ role: 'user', content: 'Say this' }],
      add_generation_prompt: true,
    });
    const controls = (tokens: number[]) => tokens.filter((token) => token <= 2);
    t.strictSame(controls(body.tokens), controls(plain.body.tokens), 'no control token more');
  });
});

t.test("a known model's recommended sampling fills what a request leaves out", async (t) => {
  const options = { skip: model.skip };
  t.test('served by its name', options, async (t) => {
    const server = await startServer({ model: 'smollm2-135m-instruct' });
    t.teardown(() => server.stop());
    const drawn = async (body: Record<string, unknown>) =>
      firstChoice(
        await complete(server.url, {
          prompt: PROMPT,
          max_tokens: 48,
          seed: 7,
          ignore_eos: true,
          return_token_ids: true,
          ...body,
        }),
      ).token_ids;
    const plain = await drawn({});
    t.strictSame(plain, await drawn({ temperature: 0.2, top_p: 0.9 }));
    t.notSame(plain, await drawn({ temperature: 1, top_p: 1 }), 'what the request says wins');
  });
});
