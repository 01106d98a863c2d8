import t from 'tap';
import { BlockHashChain, rootHash } from '../../../src/kv/block-hash.js';
import { BlockPool } from '../../../src/kv/block-pool.js';
import { PrefixCache } from '../../../src/kv/prefix-cache.js';
import { counting, testRoot } from '../../support/make-sequence.js';

const chainOf = (tokens: Int32Array, salt = ''): BlockHashChain => {
  const chain = new BlockHashChain(testRoot(salt), 4);
  chain.extend(tokens, Math.floor(tokens.length / 4));
  return chain;
};

t.test('hashes chain: a block is named by everything before it', async (t) => {
  const a = chainOf(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  const b = chainOf(Int32Array.of(1, 2, 3, 9, 5, 6, 7, 8));
  const again = chainOf(Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  t.ok(a.equals(again, 0) && a.equals(again, 1));
  t.notOk(a.equals(b, 0));
  t.notOk(a.equals(b, 1), 'same tokens after another prefix are another block');
  t.equal(a.key(1), again.key(1));
  t.ok(Number.isSafeInteger(a.key(0)) && a.key(0) >= 0);
});

t.test('hashing bit by bit gives what hashing at once gives', async (t) => {
  const tokens = counting(400);
  const whole = chainOf(tokens);
  const stepwise = new BlockHashChain(testRoot(), 4);
  for (let i = 1; i <= 100; i++) stepwise.extend(tokens, i);
  t.strictSame(stepwise.words.subarray(0, 400), whole.words.subarray(0, 400));
});

t.test('everything that changes K/V changes the root', async (t) => {
  const identity = {
    modelFingerprint: 'm',
    cacheSalt: '',
    adapterId: -1,
    attentionFingerprint: '',
  };
  const roots = [
    identity,
    { ...identity, modelFingerprint: 'n' },
    { ...identity, cacheSalt: 's' },
    { ...identity, adapterId: 0 },
    { ...identity, attentionFingerprint: 'x' },
    { ...identity, modelFingerprint: 'm","s' },
  ].map((other) => Buffer.from(rootHash(other)).toString('hex'));
  t.equal(new Set(roots).size, roots.length);
  t.equal(roots[0]!.length, 32, '128 bits');
});

t.test('finds blocks by content, per group', async (t) => {
  const pool = new BlockPool(4);
  const cache = new PrefixCache(pool, 4, 2);
  const tokens = counting(8);
  const chain = chainOf(tokens);
  const id = pool.allocate();
  t.equal(cache.find(0, chain, 0, tokens), -1);
  t.equal(cache.insert(0, chain, 0, tokens, id), true);
  t.equal(cache.find(0, chain, 0, tokens), id);
  t.equal(cache.find(1, chain, 0, tokens), -1, 'groups hold different layers');
  t.equal(cache.find(0, chain, 1, tokens), -1);
  const other = pool.allocate();
  t.equal(cache.insert(0, chain, 0, tokens, other), false, 'the first block keeps the name');
  t.throws(() => cache.insert(1, chain, 0, tokens, id), /already/);
  t.equal(cache.numEntries, 1);
  cache.checkIntegrity();
});

t.test('a hit compares the tokens, not only the hash', async (t) => {
  const pool = new BlockPool(2);
  const cache = new PrefixCache(pool, 4, 1);
  const tokens = Int32Array.of(1, 2, 3, 4);
  const chain = chainOf(tokens);
  cache.insert(0, chain, 0, tokens, pool.allocate());
  // A forged collision: the same hash for other tokens.
  t.equal(cache.find(0, chain, 0, Int32Array.of(1, 2, 3, 5)), -1);
  // The map's 53-bit key alone does not make a hit either.
  const colliding = chainOf(tokens);
  colliding.words[3]! ^= 1;
  t.equal(colliding.key(0), chain.key(0));
  t.equal(cache.find(0, colliding, 0, tokens), -1);
});

t.test('an evicted block is forgotten', async (t) => {
  const pool = new BlockPool(1);
  const cache = new PrefixCache(pool, 4, 1);
  const tokens = counting(4);
  const chain = chainOf(tokens);
  const id = pool.allocate();
  cache.insert(0, chain, 0, tokens, id);
  pool.release(id);
  t.equal(cache.find(0, chain, 0, tokens), id, 'released, still there');
  t.equal(pool.allocate(), id);
  t.equal(cache.find(0, chain, 0, tokens), -1);
  t.equal(cache.numEntries, 0);
  cache.checkIntegrity();
});

t.test('checkIntegrity sees a cache that disagrees with the pool', async (t) => {
  const pool = new BlockPool(2);
  const cache = new PrefixCache(pool, 4, 1);
  pool.allocate();
  pool.markContent(0);
  t.throws(() => cache.checkIntegrity(), /block 0: cache group -1, pool true/);
});
