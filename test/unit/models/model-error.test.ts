/** Values of hostile files are shown in messages without calling anything of theirs. */
import t from 'tap';
import { shown } from '../../../src/models/model-error.js';

t.test('untrusted values', async (t) => {
  for (const [value, text] of [
    ['a "b"', '"a \\"b\\""'],
    [7, '7'],
    [-0, '-0'],
    [7n, '7n'],
    [null, 'null'],
    [undefined, 'undefined'],
    [true, 'true'],
    [[1, 2], '[ 1, 2 ]'],
    [{ toString: '' }, "{ toString: '' }"],
    [[{ toString: 1, valueOf: 2, toJSON: 3 }], '[ { toString: 1, valueOf: 2, toJSON: 3 } ]'],
    [JSON.parse('{"__proto__": 1}'), "{ ['__proto__']: 1 }"],
  ] as const) {
    t.equal(shown(value), text);
  }
  t.equal(shown('x'.repeat(500)).length, 120);
  t.equal(shown(Array(1e5).fill({ a: [[[[1]]]] })).length, 120);
  let deep: unknown = [];
  for (let i = 0; i < 1e5; i++) deep = [deep];
  t.equal(shown(deep), '[ [ [Array] ] ]');
});
