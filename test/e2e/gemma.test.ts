/** What is particular to Gemma 3 270M base: BOS before every text, no chat template, a window of 512. */
import t from 'tap';
import { readAccuracy, readText } from '../support/golden-files.js';
import { startServer } from '../support/start-server.js';
import { testModel } from '../support/test-models.js';
import { complete, type ErrorAnswer, firstChoice, idleIntegrity, post } from './client.js';

const BOS = 2;
const model = await testModel('gemma3');

t.test('Gemma 3 base', { skip: model.skip }, async (t) => {
  const server = await startServer({ model: model.path });
  t.teardown(() => server.stop());

  t.test('chat is refused: the model has no template', async (t) => {
    const answer = await post<ErrorAnswer>(`${server.url}/v1/chat/completions`, {
      messages: [{ role: 'user', content: 'Hello' }],
    });
    t.equal(answer.status, 400);
    t.match(answer.body.error.message, /chat template/i);
    t.match(
      answer.body.error.message,
      /\/v1\/completions|--chat-template/,
      'and says what to do instead',
    );
  });

  t.test('text gets its BOS, ids are taken as they are', async (t) => {
    const golden = readAccuracy('gemma3').greedy[0];
    if (golden === undefined) throw new Error('the fixture has no prompts');
    t.equal(golden.ids[0], BOS);
    const body = { max_tokens: 16, temperature: 0, return_token_ids: true };
    const text = firstChoice(await complete(server.url, { ...body, prompt: golden.text }));
    t.strictSame(text.prompt_token_ids, golden.ids);
    const ids = firstChoice(await complete(server.url, { ...body, prompt: golden.ids }));
    t.strictSame(ids.prompt_token_ids, golden.ids, 'no second BOS');
    t.equal(ids.text, text.text);
    const bare = await complete(server.url, {
      ...body,
      prompt: golden.text,
      add_special_tokens: false,
    });
    t.strictSame(firstChoice(bare).prompt_token_ids, golden.ids.slice(1));
  });

  t.test('a prompt several windows long runs, and its blocks come back', async (t) => {
    const prompt = readText('python-source');
    const answer = await complete(server.url, {
      prompt,
      max_tokens: 24,
      ignore_eos: true,
      temperature: 0,
    });
    t.ok(answer.usage.prompt_tokens > 1500, `${answer.usage.prompt_tokens} prompt tokens`);
    t.equal(answer.usage.completion_tokens, 24);
    t.match(await idleIntegrity(server.url), { ok: true, owned: 0 });
  });
});
