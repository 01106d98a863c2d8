import fc from 'fast-check';
import t from 'tap';
import { UserTextGuard } from '../../../src/tokenizer/user-text-guard.js';

const guard = new UserTextGuard(['<|end|>', '<s>', '[INST]', '<|end_of_text|>', '𝒜𝒷', 'x']);
const guarded = (text: string): string => guard.guardText(text, '\ufdd0').replaceAll('\ufdd0', '·');

t.test('a mark goes inside every occurrence', async (t) => {
  t.equal(guarded('a <s> b [INST]c'), 'a <·s> b [·INST]c');
  t.equal(guarded('<|end|><|end|>'), '<·|end|><·|end|>');
  t.equal(guarded('<s<s>s>'), '<s<·s>s>');
  t.equal(guarded('plain < text > [x]'), 'plain < text > [x]');
  t.equal(guarded('𝒜𝒷'), '𝒜·𝒷', 'not inside a surrogate pair');
  t.equal(guarded(''), '');
});

t.test('an end that the template could complete is closed off', async (t) => {
  t.equal(guarded('see <'), 'see <·');
  t.equal(guarded('<|end'), '<|end·');
  t.equal(guarded('a[IN'), 'a[IN·');
  t.equal(guarded('a[INx'), 'a[INx');
  t.equal(guarded('a[IN \n'), 'a[IN· \n', 'templates trim');
  t.equal(guarded('<s> '), '<·s> ');
  t.equal(guarded('<s>'), '<·s>');
});

t.test('walks values of any shape and leaves others alone', async (t) => {
  const value = { role: 'user', '<s>': ['<s>', { n: 1, b: true, z: null }], text: 'ok' };
  t.same(guard.guard(value, '\ufdd0'), {
    role: 'user',
    '<\ufdd0s>': ['<\ufdd0s>', { n: 1, b: true, z: null }],
    text: 'ok',
  });
  let deep: unknown = 'x';
  for (let i = 0; i < 200; i++) deep = [deep];
  t.throws(() => guard.guard(deep, '\ufdd0'), { code: 'ERR_INVALID_REQUEST' });
});

t.test('the mark is one the conversation does not use', async (t) => {
  t.equal(guard.chooseMark({ a: ['plain'] }), '\ufdd0');
  t.equal(guard.chooseMark({ a: ['\ufdd0'], '\ufdd1': 1 }, '\ufdd2\ufdd4'), '\ufdd3');
  let all = '';
  for (let code = 0xfdd0; code <= 0xfdef; code++) all += String.fromCharCode(code);
  t.equal(guard.chooseMark(all), '\ue000');
  for (let code = 0xe000; code <= 0xf8ff; code++) all += String.fromCharCode(code);
  t.throws(() => guard.chooseMark(all), { code: 'ERR_INVALID_REQUEST' });
});

t.test(
  'no guarded text has an unbroken special token, and marks are all that changed',
  async () => {
    const specials = ['<|end|>', '<s>', '<s>>', '<<s', '[a]'];
    const own = new UserTextGuard(specials);
    const text = fc
      .array(fc.constantFrom(...specials, '<', '|', 's', '>', 'end', '[', 'a', ']', ' '))
      .map((parts) => parts.join(''));
    fc.assert(
      fc.property(text, text, (first, second) => {
        const guarded = own.guardText(first, '\ufdd0') + own.guardText(second, '\ufdd0');
        const clean = guarded.replaceAll('\ufdd0', '') === first + second;
        return clean && specials.every((special) => !guarded.includes(special));
      }),
      { numRuns: 3000 },
    );
  },
);
