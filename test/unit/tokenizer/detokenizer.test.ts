import fc from 'fast-check';
import t from 'tap';
import { decodeTokens, StreamDetokenizer } from '../../../src/tokenizer/detokenizer.js';

/** Token i stands for the bytes given; token 0 is special and hidden unless asked for. */
function tokens(...bytes: Array<number[] | string>) {
  return {
    tokenBytes(id: number, withSpecial: boolean): Uint8Array {
      if (id === 0) return new Uint8Array(Buffer.from(withSpecial ? '<s>' : ''));
      return new Uint8Array(Buffer.from((bytes[id - 1] ?? '') as string));
    },
  };
}

const KEEP = { skipSpecialTokens: true, stripLeadingSpace: false };

t.test('holds back bytes until their character is whole', async (t) => {
  const stream = new StreamDetokenizer(tokens([0xf0, 0x9f], [0x98], [0x80, 0x21]), KEEP);
  t.equal(stream.push(1), '');
  t.equal(stream.push(2), '');
  t.equal(stream.push(3), '😀!');
  t.equal(stream.flush(), '');
});

t.test('bytes that never become a character are replaced', async (t) => {
  const source = tokens([0xe2, 0x82], 'a', [0xff]);
  const stream = new StreamDetokenizer(source, KEEP);
  t.equal(stream.push(1), '');
  t.equal(stream.push(2), '\ufffda');
  t.equal(stream.push(3), '\ufffd');
  t.equal(stream.push(1), '');
  t.equal(stream.flush(), '\ufffd');
});

t.test('special tokens, byte order marks and leading spaces', async (t) => {
  const source = tokens(' a', ' ', '\ufeff', '');
  const decode = (ids: number[], changes = {}) =>
    decodeTokens(source, ids, { ...KEEP, ...changes });
  t.equal(decode([0, 1, 1]), ' a a');
  t.equal(decode([0, 1], { skipSpecialTokens: false }), '<s> a');
  t.equal(decode([0, 4, 1, 1], { stripLeadingSpace: true }), 'a a');
  t.equal(decode([2, 2], { stripLeadingSpace: true }), ' ', 'one space only');
  t.equal(decode([0, 1], { stripLeadingSpace: true, skipSpecialTokens: false }), '<s> a');
  t.equal(decode([3, 3]), '\ufeff\ufeff');
  t.equal(decode([]), '');
  const stream = new StreamDetokenizer(source, { ...KEEP, stripLeadingSpace: true });
  t.same(
    [0, 4, 1, 1].map((id) => stream.push(id)),
    ['', '', 'a', ' a'],
  );
});

t.test('a stream equals the whole, however its bytes are cut into tokens', async () => {
  const piece = fc.oneof(
    fc.uint8Array({ minLength: 1, maxLength: 4 }),
    fc.string({ unit: 'grapheme', maxLength: 3 }).map((text) => new Uint8Array(Buffer.from(text))),
  );
  fc.assert(
    fc.property(
      fc.array(piece, { maxLength: 12 }),
      fc.infiniteStream(fc.nat(3)),
      (pieces, cuts) => {
        const all = Buffer.concat(pieces);
        const cut: number[][] = [];
        for (let i = 0; i < all.length; ) {
          const length = Math.min(all.length - i, 1 + (cuts.next().value as number));
          cut.push([...all.subarray(i, i + length)]);
          i += length;
        }
        const ids = cut.map((_, i) => i + 1);
        const text = decodeTokens(tokens(...cut), ids, KEEP);
        return text === new TextDecoder('utf-8', { ignoreBOM: true }).decode(all);
      },
    ),
    { numRuns: 3000 },
  );
});
