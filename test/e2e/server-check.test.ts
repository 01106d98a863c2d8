/** What runs the server on a GPU machine (kernels/server_check.sh), here over the emulated device. */
import t from 'tap';
import { type ChatAnswer, checkServer, compareAnswers } from '../../bench/server-check.js';
import { loadAddon } from '../../src/binding/addon.js';

const SHAPE = 'hidden=128,intermediate=192,heads=2,kv_heads=1,head_dim=64,layers=2,vocab=512';
const ARGS = ['--synthetic', SHAPE, '--max-num-batched-tokens', '96', '--max-model-len', '512'];

const emulated = loadAddon().probeBackend('cuda-emulated');
const skip = emulated.usable ? false : emulated.reason;

t.test('both backends answer alike; the load sees the checked one', { skip }, async (t) => {
  const seen: string[] = [];
  const check = await checkServer({ backend: 'cuda-emulated', args: ARGS }, async (url) => {
    seen.push(url);
    t.equal((await fetch(`${url}/health/ready`)).status, 200);
  });
  t.equal(seen.length, 1);
  t.same(check.problems, []);
  t.match(check.device, /^cuda-emulated, emulated/);
  t.equal(check.answer.tokens.length, 24);
  t.ok(check.distance < 0.05, `${check.distance}`);
});

t.test('answers that differ are problems', async (t) => {
  const tokens = Array.from({ length: 24 }, (_, i) => String(i));
  const first = new Map([
    ['a', -0.5],
    ['b', -1.5],
    ['c', -3],
    ['d', -4],
    ['e', -5],
  ]);
  const answer: ChatAnswer = { text: '', finishReason: 'length', tokens, first };
  const same = { agreeing: 24, distance: 0, probabilityDistance: 0, problems: [] };
  t.same(compareAnswers(answer, answer), same);

  const later = { ...answer, tokens: [...tokens.slice(0, 20), 'x', ...tokens.slice(21)] };
  t.same(compareAnswers(later, answer), { ...same, agreeing: 20 }, 'a near tie');

  const moved = (token: string, logprob: number) =>
    compareAnswers({ ...answer, first: new Map([...first, [token, logprob]]) }, answer).problems;
  t.match(moved('a', -0.7), [/^probabilities .* 0\.110 apart/], 'a likely token, by a little');
  t.match(moved('e', -5.7), [/^log-probabilities .* 0\.700 apart/], 'a rare one, by much');
  t.same(moved('e', -5.3), []);
  t.match(moved('a', Number.NaN), [/NaN apart/, /NaN apart/]);
  const others = { ...answer, first: new Map([['x', -1]]) };
  t.match(compareAnswers(others, answer).problems, [/only 0 are the CPU's/]);
  const cut = { ...answer, tokens: tokens.slice(0, 3) };
  t.match(compareAnswers(cut, answer).problems, [/3 tokens, expected 24/]);
});
