import t from 'tap';
import type { BlockManager, SequenceBlocks } from '../../../src/kv/block-manager.js';
import { counting, makeManager, testRoot } from '../../support/make-sequence.js';

const table = (blocks: SequenceBlocks, group = 0): number[] =>
  Array.from(blocks.tables[group]!.subarray(0, blocks.numBlocks));

/** A sequence that has computed and registered all of `tokens`. */
function computed(manager: BlockManager, tokens: Int32Array, salt = ''): SequenceBlocks {
  const blocks = manager.createSequence(testRoot(salt));
  manager.append(blocks, tokens.length);
  manager.register(blocks, tokens, tokens.length);
  return blocks;
}

t.test('append: whole blocks, all groups, all or nothing', async (t) => {
  const manager = makeManager({ groupWindows: [0, 0] });
  const blocks = manager.createSequence(testRoot());
  t.equal(manager.blocksToCover(blocks, 5), 4);
  t.ok(manager.append(blocks, 5));
  t.strictSame(
    [table(blocks, 0), table(blocks, 1)],
    [
      [0, 2],
      [1, 3],
    ],
  );
  t.ok(manager.append(blocks, 8), 'still covered');
  t.equal(manager.pool.numOwned, 4);
  t.equal(manager.coverableTokens(blocks), 20, 'seven blocks left make three more of each');
  t.notOk(manager.append(blocks, 24));
  t.equal(manager.pool.numOwned, 4, 'a failed append takes nothing');
  t.ok(manager.append(blocks, 20));
  manager.checkIntegrity([blocks]);
  manager.release(blocks);
  t.strictSame(manager.pool.blockCounts(), { free: 11, owned: 0, cached: 0, moving: 0 });
  manager.checkIntegrity([]);
});

t.test('prefix hit: full blocks of the common prefix, shared by reference', async (t) => {
  const manager = makeManager();
  const first = computed(manager, counting(10));
  t.strictSame(table(first), [0, 1, 2]);
  const second = manager.createSequence(testRoot());
  const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8, 50, 51);
  t.strictSame(manager.matchPrefix(second, tokens, 9), { numBlocks: 2, numUnreferenced: 0 });
  manager.attachPrefix(second, tokens, 2);
  t.ok(manager.append(second, 10));
  t.strictSame(table(second), [0, 1, 3]);
  t.equal(manager.pool.refCount(0), 2);
  t.equal(second.numRegistered, 2);
  manager.checkIntegrity([first, second]);
  manager.release(first);
  t.strictSame(manager.pool.blockCounts(), { free: 8, owned: 3, cached: 0, moving: 0 });
  manager.release(second);
  t.strictSame(manager.pool.blockCounts(), { free: 9, owned: 0, cached: 2, moving: 0 });
});

t.test('the last token of a prompt is never taken from the cache', async (t) => {
  const manager = makeManager();
  manager.release(computed(manager, counting(8)));
  const blocks = manager.createSequence(testRoot());
  t.strictSame(manager.matchPrefix(blocks, counting(8), 7), { numBlocks: 1, numUnreferenced: 1 });
});

t.test('another salt finds nothing', async (t) => {
  const manager = makeManager();
  manager.release(computed(manager, counting(8), 'tenant a'));
  const blocks = manager.createSequence(testRoot('tenant b'));
  t.equal(manager.matchPrefix(blocks, counting(12), 11).numBlocks, 0);
});

t.test('the end of a prefix is evicted before its start', async (t) => {
  const manager = makeManager({ numBlocks: 4 });
  manager.release(computed(manager, counting(16)));
  const other = manager.createSequence(testRoot());
  manager.append(other, 8);
  t.strictSame(table(other), [3, 2]);
  const blocks = manager.createSequence(testRoot());
  t.equal(manager.matchPrefix(blocks, counting(17), 16).numBlocks, 2);
});

t.test('blocks that were not registered are free, not cached, after release', async (t) => {
  const manager = makeManager();
  const blocks = manager.createSequence(testRoot());
  manager.append(blocks, 12);
  manager.register(blocks, counting(12), 7);
  manager.release(blocks);
  t.strictSame(manager.pool.blockCounts(), { free: 10, owned: 0, cached: 1, moving: 0 });
});

t.test('a window gives back what no later token sees', async (t) => {
  const manager = makeManager({ numBlocks: 20, groupWindows: [0, 6] });
  const blocks = computed(manager, counting(16));
  t.strictSame(table(blocks, 1), [1, 3, 5, 7]);
  manager.slide(blocks, 8);
  t.strictSame(table(blocks, 1), [1, 3, 5, 7], 'position 8 sees 3 to 8');
  manager.slide(blocks, 9);
  t.strictSame(table(blocks, 1), [-1, 3, 5, 7], 'position 9 sees 4 to 9');
  manager.slide(blocks, 16);
  t.strictSame(table(blocks, 1), [-1, -1, 5, 7]);
  t.strictSame(table(blocks, 0), [0, 2, 4, 6], 'full attention keeps all');
  t.strictSame(manager.pool.blockCounts(), { free: 12, owned: 6, cached: 2, moving: 0 });
  manager.checkIntegrity([blocks]);
});

t.test('with a prefix cache a window waits for blocks that are not registered', async (t) => {
  const manager = makeManager({ groupWindows: [4] });
  const blocks = manager.createSequence(testRoot());
  manager.append(blocks, 12);
  manager.slide(blocks, 12);
  t.equal(blocks.numDropped[0], 0, 'a step in flight is still completing them');
  manager.register(blocks, counting(12), 12);
  manager.slide(blocks, 12);
  t.equal(blocks.numDropped[0], 2);

  const plain = makeManager({ groupWindows: [4], cache: false });
  const uncached = plain.createSequence(testRoot());
  plain.append(uncached, 12);
  plain.slide(uncached, 12);
  t.equal(uncached.numDropped[0], 2);
});

t.test('a hit needs the last window of every window group', async (t) => {
  const manager = makeManager({ numBlocks: 12, groupWindows: [0, 6] });
  const first = computed(manager, counting(16));
  manager.slide(first, 16);
  manager.release(first);
  const blocks = manager.createSequence(testRoot());
  const tokens = counting(20);
  t.strictSame(manager.matchPrefix(blocks, tokens, 19), { numBlocks: 4, numUnreferenced: 6 });
  manager.attachPrefix(blocks, tokens, 4);
  t.strictSame(
    [table(blocks, 0), table(blocks, 1)],
    [
      [0, 2, 4, 6],
      [-1, -1, 5, 7],
    ],
  );
  t.strictSame(blocks.numDropped, Int32Array.of(0, 2));
  manager.checkIntegrity([blocks]);
  // Four free blocks go first, then the slid-out ones, oldest first: block 1, which was entry 0.
  const other = manager.createSequence(testRoot());
  manager.append(other, 8);
  t.strictSame(
    [table(other, 0), table(other, 1)],
    [
      [8, 10],
      [9, 11],
    ],
  );
  manager.release(blocks);
  const more = manager.createSequence(testRoot());
  manager.append(more, 4);
  t.strictSame([table(more, 0), table(more, 1)], [[1], [3]]);
  // A shorter prefix needs window blocks that are gone; 4 blocks need 2 and 3, which are there.
  const again = manager.createSequence(testRoot());
  t.equal(manager.matchPrefix(again, tokens, 15).numBlocks, 0);
  t.equal(manager.matchPrefix(again, tokens, 19).numBlocks, 4);
});

t.test('sizes: what a sequence of a length holds', async (t) => {
  const manager = makeManager({ numBlocks: 11, groupWindows: [0, 6] });
  // A window of 6 touches at most three blocks of four tokens.
  t.equal(manager.blocksForLength(40), 10 + 3);
  t.equal(manager.blocksForLength(5), 4);
  t.equal(manager.blocksForLength(40, 9), 10 + 5);
  t.equal(manager.maxSequenceTokens, 32, '8 blocks of full attention and 3 of the window');
  t.equal(makeManager({ groupWindows: [0] }).maxSequenceTokens, 44);
  t.equal(makeManager({ groupWindows: [6] }).maxSequenceTokens, Number.MAX_SAFE_INTEGER);
  t.equal(makeManager({ groupWindows: [0, 0, 0] }).maxSequenceTokens, 12);
  const blocks = manager.createSequence(testRoot());
  manager.append(blocks, 8);
  t.equal(manager.blocksUntil(blocks, 40, 1), 8 + 1);
  t.equal(manager.blocksUntil(blocks, 8, 1), 0);
});

t.test('a million tokens: no recursion, tables grow', async (t) => {
  const numTokens = 1 << 20;
  const manager = makeManager({ numBlocks: 70_000, blockSize: 32, groupWindows: [0, 512] });
  const tokens = new Int32Array(numTokens);
  const blocks = manager.createSequence(testRoot());
  for (let end = 65_536; end <= numTokens; end += 65_536) {
    manager.slide(blocks, end - 65_536);
    t.ok(manager.append(blocks, end));
    manager.register(blocks, tokens, end);
  }
  manager.slide(blocks, numTokens);
  manager.release(blocks);
  const again = manager.createSequence(testRoot());
  t.equal(manager.matchPrefix(again, tokens, numTokens - 1).numBlocks, 32_767);
  manager.checkIntegrity([]);
});

t.test('checkIntegrity recounts references', async (t) => {
  const manager = makeManager();
  const blocks = computed(manager, counting(8));
  t.throws(() => manager.checkIntegrity([]), /block 0: tables hold it 0 times, pool 1/);
  blocks.tables[0]![1] = 0;
  t.throws(() => manager.checkIntegrity([blocks]), /block 0: tables hold it 2 times, pool 1/);
});
