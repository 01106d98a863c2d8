/**
 * Finds blocks by content. Holds, for each KV group, a map from chained hash to block id, and
 * beside each block its full hash and its tokens, which a hit compares. Owns no block: reference
 * counts and eviction order are the pool's, which tells this cache what it evicts.
 *
 * Invariant: the map of group g names block b exactly while groupOf[b] = g, and then the pool
 * knows b as a block with content.
 */
import { type BlockHashChain, HASH_WORDS } from './block-hash.js';
import type { BlockPool } from './block-pool.js';

const NO_GROUP = -1;

export class PrefixCache {
  private readonly pool: BlockPool;
  private readonly blockSize: number;
  private readonly maps: Array<Map<number, number>>;
  /** Indexed by block id. */
  private readonly groupOf: Int32Array;
  private readonly keys: Float64Array;
  private readonly hashes: Int32Array; // [numBlocks, HASH_WORDS]
  private readonly tokens: Int32Array; // [numBlocks, blockSize]

  constructor(pool: BlockPool, blockSize: number, numGroups: number) {
    this.pool = pool;
    this.blockSize = blockSize;
    this.maps = Array.from({ length: numGroups }, () => new Map<number, number>());
    this.groupOf = new Int32Array(pool.numBlocks).fill(NO_GROUP);
    this.keys = new Float64Array(pool.numBlocks);
    this.hashes = new Int32Array(pool.numBlocks * HASH_WORDS);
    this.tokens = new Int32Array(pool.numBlocks * blockSize);
    pool.onEvict = (blockId) => this.forget(blockId);
  }

  get numEntries(): number {
    return this.maps.reduce((sum, map) => sum + map.size, 0);
  }

  /** The block that holds block `index` of `tokens` in this group, or −1. Takes no reference. */
  find(group: number, chain: BlockHashChain, index: number, tokens: Int32Array): number {
    const blockId = this.maps[group]!.get(chain.key(index));
    if (blockId === undefined) return -1;
    return this.matches(blockId, chain, index, tokens) ? blockId : -1;
  }

  /**
   * Makes an owned, completely computed block findable. False when the content is known already
   * (two sequences computed it side by side): the first block keeps the name.
   */
  insert(
    group: number,
    chain: BlockHashChain,
    index: number,
    tokens: Int32Array,
    blockId: number,
  ): boolean {
    if (this.groupOf[blockId] !== NO_GROUP) {
      throw new Error(`block ${blockId} is in the prefix cache already`);
    }
    const map = this.maps[group]!;
    const key = chain.key(index);
    if (map.has(key)) return false;
    map.set(key, blockId);
    this.groupOf[blockId] = group;
    this.keys[blockId] = key;
    for (let i = 0; i < HASH_WORDS; i++) {
      this.hashes[blockId * HASH_WORDS + i] = chain.words[index * HASH_WORDS + i]!;
    }
    const from = index * this.blockSize;
    this.tokens.set(tokens.subarray(from, from + this.blockSize), blockId * this.blockSize);
    this.pool.markContent(blockId);
    return true;
  }

  /** Throws an Error that says what is wrong. */
  checkIntegrity(): void {
    let named = 0;
    for (let id = 0; id < this.pool.numBlocks; id++) {
      const group = this.groupOf[id]!;
      if ((group !== NO_GROUP) !== this.pool.hasContent(id)) {
        throw new Error(`block ${id}: cache group ${group}, pool ${this.pool.hasContent(id)}`);
      }
      if (group === NO_GROUP) continue;
      named++;
      if (this.maps[group]!.get(this.keys[id]!) !== id) {
        throw new Error(`block ${id}: group ${group} does not find it by its hash`);
      }
    }
    if (named !== this.numEntries) {
      throw new Error(`prefix cache: ${this.numEntries} entries for ${named} blocks`);
    }
  }

  private forget(blockId: number): void {
    const group = this.groupOf[blockId]!;
    if (group === NO_GROUP) throw new Error(`evicted block ${blockId} is not in the prefix cache`);
    this.maps[group]!.delete(this.keys[blockId]!);
    this.groupOf[blockId] = NO_GROUP;
  }

  private matches(
    blockId: number,
    chain: BlockHashChain,
    index: number,
    tokens: Int32Array,
  ): boolean {
    const hash = blockId * HASH_WORDS;
    for (let i = 0; i < HASH_WORDS; i++) {
      if (this.hashes[hash + i] !== chain.words[index * HASH_WORDS + i]) return false;
    }
    const stored = blockId * this.blockSize;
    const wanted = index * this.blockSize;
    for (let i = 0; i < this.blockSize; i++) {
      if (this.tokens[stored + i] !== tokens[wanted + i]) return false;
    }
    return true;
  }
}
