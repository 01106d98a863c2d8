import t from 'tap';
import { BLOCK_STATE, BlockPool } from '../../../src/kv/block-pool.js';

const allocateAll = (pool: BlockPool): number[] => {
  const ids: number[] = [];
  for (let id = pool.allocate(); id >= 0; id = pool.allocate()) ids.push(id);
  return ids;
};

t.test('hands out free blocks in order, then none', async (t) => {
  const pool = new BlockPool(3);
  t.strictSame(allocateAll(pool), [0, 1, 2]);
  t.equal(pool.allocate(), -1);
  t.strictSame(pool.blockCounts(), { free: 0, owned: 3, cached: 0, moving: 0 });
  pool.checkIntegrity();
  pool.release(1);
  pool.release(0);
  t.strictSame(allocateAll(pool), [0, 1], 'last released, first reused');
});

t.test('an empty pool', async (t) => {
  const pool = new BlockPool(0);
  t.equal(pool.allocate(), -1);
  pool.checkIntegrity();
  t.throws(() => new BlockPool(-1), /whole number/);
  t.throws(() => new BlockPool(1.5), /whole number/);
});

t.test('reference counts decide when a block is given back', async (t) => {
  const pool = new BlockPool(2);
  const id = pool.allocate();
  pool.retain(id);
  t.equal(pool.refCount(id), 2);
  pool.release(id);
  t.equal(pool.stateOf(id), BLOCK_STATE.owned);
  pool.release(id);
  t.equal(pool.stateOf(id), BLOCK_STATE.free);
  t.throws(() => pool.release(id), /state 0/, 'released once too often');
  t.throws(() => pool.retain(id), /state 0/, 'a free block has nothing to share');
  t.throws(() => pool.markContent(id), /state 0/);
  pool.checkIntegrity();
});

t.test('eviction: free first, then slid out, then least recently released', async (t) => {
  const pool = new BlockPool(6);
  const evicted: number[] = [];
  pool.onEvict = (id) => evicted.push(id);
  allocateAll(pool);
  for (const id of [0, 1, 2, 3]) pool.markContent(id);
  pool.release(2);
  pool.release(0);
  pool.release(3, true);
  pool.release(1);
  pool.release(5);
  t.strictSame(pool.blockCounts(), { free: 1, owned: 1, cached: 4, moving: 0 });
  t.equal(pool.numAvailable, 5);
  pool.checkIntegrity();
  t.strictSame(allocateAll(pool), [5, 3, 2, 0, 1]);
  t.strictSame(evicted, [3, 2, 0, 1]);
  t.equal(pool.hasContent(3), false, 'an evicted block has no content');
  pool.checkIntegrity();
});

t.test('a hit takes a block off the eviction order and puts it back at its end', async (t) => {
  const pool = new BlockPool(3);
  allocateAll(pool);
  for (const id of [0, 1, 2]) pool.markContent(id);
  for (const id of [0, 1, 2]) pool.release(id);
  pool.retain(0);
  t.strictSame(pool.blockCounts(), { free: 0, owned: 1, cached: 2, moving: 0 });
  pool.release(0);
  t.strictSame(allocateAll(pool), [1, 2, 0]);
});

t.test('checkIntegrity sees a broken list', async (t) => {
  const pool = new BlockPool(4);
  const inner = pool as unknown as { next: Int32Array; state: Uint8Array; refCounts: Int32Array };
  inner.state[2] = BLOCK_STATE.owned;
  t.throws(() => pool.checkIntegrity(), /block 2 on list 0 is in state 1/);
  inner.state[2] = BLOCK_STATE.free;
  inner.refCounts[1] = 1;
  t.throws(() => pool.checkIntegrity(), /block 1 in state 0: 1 holders/);
  inner.refCounts[1] = 0;
  pool.checkIntegrity();
  inner.next[0] = 2;
  t.throws(() => pool.checkIntegrity(), /block 2: broken back link/);
});
