/**
 * Block tables of sequences: allocate, append, slide, release, and prefix hits. One table a KV
 * group; all tables of a sequence have the same logical length, so entry i of every group holds
 * tokens [i * blockSize, (i + 1) * blockSize). A group with a window gives blocks back from the
 * front as the window slides past them; their entries stay, with id −1.
 *
 * Native code runs plans in order and a block's new owner writes in a later plan, so blocks may be
 * given back while a step that still uses them is in flight. What must not happen is that content
 * such a step was still to complete enters the prefix cache: only register() names blocks, and it
 * is called for steps that have finished.
 */
import { BlockHashChain } from './block-hash.js';
import type { BlockPool } from './block-pool.js';
import type { PrefixCache } from './prefix-cache.js';

export interface BlockManagerOptions {
  blockSize: number;
  /** One a KV group, in tokens; 0 is full attention. */
  groupWindows: readonly number[];
}

/** Block tables of one sequence. Written by BlockManager only, except for the `sent` marks. */
export class SequenceBlocks {
  /** [numGroups][numBlocks]; arrays have spare capacity. −1 where dropped. */
  readonly tables: Int32Array[];
  /** Logical blocks of every table. */
  numBlocks = 0;
  /** Leading entries of each group that the window has left behind. */
  readonly numDropped: Int32Array;
  /** Leading blocks whose content is complete and was offered to the prefix cache. */
  numRegistered = 0;
  readonly chain: BlockHashChain;
  /** What native code has been told: blocks appended, and prefix entries dropped, per group. */
  numSent = 0;
  readonly numDroppedSent: Int32Array;

  constructor(numGroups: number, root: Uint8Array, blockSize: number) {
    this.tables = Array.from({ length: numGroups }, () => new Int32Array(0));
    this.numDropped = new Int32Array(numGroups);
    this.numDroppedSent = new Int32Array(numGroups);
    this.chain = new BlockHashChain(root, blockSize);
  }
}

export interface PrefixMatch {
  /** Full blocks that can be taken over. */
  numBlocks: number;
  /** Of the physical blocks behind them, those that taking over removes from the available ones. */
  numUnreferenced: number;
}

export class BlockManager {
  readonly blockSize: number;
  readonly groupWindows: readonly number[];
  readonly pool: BlockPool;
  /** Null when prefix caching is off. */
  readonly cache: PrefixCache | null;
  private readonly hasFullGroup: boolean;

  constructor(pool: BlockPool, cache: PrefixCache | null, options: BlockManagerOptions) {
    this.pool = pool;
    this.cache = cache;
    this.blockSize = options.blockSize;
    this.groupWindows = options.groupWindows;
    this.hasFullGroup = options.groupWindows.includes(0);
  }

  get hasWindows(): boolean {
    return this.groupWindows.some((window) => window > 0);
  }

  get numGroups(): number {
    return this.groupWindows.length;
  }

  createSequence(root: Uint8Array): SequenceBlocks {
    return new SequenceBlocks(this.numGroups, root, this.blockSize);
  }

  /** Physical blocks that make the tables cover `numTokens` tokens. */
  blocksToCover(blocks: SequenceBlocks, numTokens: number): number {
    const logical = Math.ceil(numTokens / this.blockSize) - blocks.numBlocks;
    return Math.max(0, logical) * this.numGroups;
  }

  /** Tokens the tables could cover if every available block were appended. */
  coverableTokens(blocks: SequenceBlocks): number {
    const extra = Math.floor(this.pool.numAvailable / this.numGroups);
    return (blocks.numBlocks + extra) * this.blockSize;
  }

  /** Appends blocks to every group until `numTokens` tokens are covered; all or nothing. */
  append(blocks: SequenceBlocks, numTokens: number): boolean {
    if (this.blocksToCover(blocks, numTokens) > this.pool.numAvailable) return false;
    const target = Math.ceil(numTokens / this.blockSize);
    this.reserve(blocks, target);
    for (; blocks.numBlocks < target; blocks.numBlocks++) {
      for (const table of blocks.tables) table[blocks.numBlocks] = this.pool.allocate();
    }
    return true;
  }

  /**
   * Gives back blocks that no token at `position` or later can see. With a prefix cache, blocks
   * wait until their content is registered, so that a step in flight does not lose it.
   */
  slide(blocks: SequenceBlocks, position: number): void {
    for (let group = 0; group < this.numGroups; group++) {
      if (this.groupWindows[group] === 0) continue;
      let end = Math.min(this.firstVisibleBlock(group, position), blocks.numBlocks);
      if (this.cache) end = Math.min(end, blocks.numRegistered);
      const table = blocks.tables[group]!;
      for (let i = blocks.numDropped[group]!; i < end; i++) {
        this.pool.release(table[i]!, true);
        table[i] = -1;
        blocks.numDropped[group] = i + 1;
      }
    }
  }

  /**
   * The longest prefix of at most `maxTokens` tokens that is cached whole: every block of the
   * full-attention groups, and of each window group the blocks the next token can see.
   */
  matchPrefix(blocks: SequenceBlocks, tokens: Int32Array, maxTokens: number): PrefixMatch {
    if (!this.cache) return { numBlocks: 0, numUnreferenced: 0 };
    const limit = Math.floor(maxTokens / this.blockSize);
    let numBlocks = this.hasFullGroup ? this.matchFullGroups(blocks, tokens, limit) : limit;
    blocks.chain.extend(tokens, numBlocks);
    numBlocks = this.matchWindows(blocks, tokens, numBlocks);
    let numUnreferenced = 0;
    for (let group = 0; group < this.numGroups; group++) {
      for (let i = this.firstNeeded(group, numBlocks); i < numBlocks; i++) {
        const id = this.cache.find(group, blocks.chain, i, tokens);
        if (this.pool.refCount(id) === 0) numUnreferenced++;
      }
    }
    return { numBlocks, numUnreferenced };
  }

  /** Takes over the first `numBlocks` cached blocks; matchPrefix said they are there. */
  attachPrefix(blocks: SequenceBlocks, tokens: Int32Array, numBlocks: number): void {
    if (blocks.numBlocks !== 0) throw new Error('attachPrefix: the sequence has blocks already');
    if (numBlocks === 0) return;
    this.reserve(blocks, numBlocks);
    for (let group = 0; group < this.numGroups; group++) {
      const table = blocks.tables[group]!;
      const first = this.firstNeeded(group, numBlocks);
      table.fill(-1, 0, first);
      for (let i = first; i < numBlocks; i++) {
        const id = this.cache!.find(group, blocks.chain, i, tokens);
        if (id < 0) throw new Error(`attachPrefix: block ${i} of group ${group} is not cached`);
        this.pool.retain(id);
        table[i] = id;
      }
      blocks.numDropped[group] = first;
    }
    blocks.numBlocks = numBlocks;
    blocks.numRegistered = numBlocks;
  }

  /** Tokens [0, numComputed) have K/V, by steps that finished: names the newly full blocks. */
  register(blocks: SequenceBlocks, tokens: Int32Array, numComputed: number): void {
    const end = Math.floor(numComputed / this.blockSize);
    if (end <= blocks.numRegistered) return;
    if (this.cache) {
      blocks.chain.extend(tokens, end);
      for (let i = blocks.numRegistered; i < end; i++) {
        for (let group = 0; group < this.numGroups; group++) {
          if (i < blocks.numDropped[group]!) continue;
          this.cache.insert(group, blocks.chain, i, tokens, blocks.tables[group]![i]!);
        }
      }
    }
    blocks.numRegistered = end;
  }

  /** Gives every block back, the last ones first: the end of a prefix is evicted before its start. */
  release(blocks: SequenceBlocks): void {
    for (let i = blocks.numBlocks - 1; i >= 0; i--) {
      for (let group = 0; group < this.numGroups; group++) {
        if (i >= blocks.numDropped[group]!) this.pool.release(blocks.tables[group]![i]!);
      }
    }
    blocks.numBlocks = 0;
    blocks.numRegistered = 0;
    blocks.numDropped.fill(0);
    blocks.numSent = 0;
    blocks.numDroppedSent.fill(0);
  }

  /**
   * Physical blocks a sequence of `numTokens` tokens holds at most, when steps add at most
   * `chunkTokens`: a window group holds its window and the chunk, whatever the length.
   */
  blocksForLength(numTokens: number, chunkTokens = 1): number {
    const logical = Math.ceil(numTokens / this.blockSize);
    let sum = 0;
    for (const window of this.groupWindows) {
      sum += window === 0 ? logical : Math.min(logical, this.windowBlocks(window, chunkTokens));
    }
    return sum;
  }

  /** Blocks still to be allocated until `numTokens` tokens are computed; see blocksForLength. */
  blocksUntil(blocks: SequenceBlocks, numTokens: number, chunkTokens: number): number {
    const logical = Math.max(0, Math.ceil(numTokens / this.blockSize) - blocks.numBlocks);
    let sum = 0;
    for (let group = 0; group < this.numGroups; group++) {
      const window = this.groupWindows[group]!;
      const live = blocks.numBlocks - blocks.numDropped[group]!;
      const most = window === 0 ? logical : this.windowBlocks(window, chunkTokens) - live;
      sum += Math.max(0, Math.min(logical, most));
    }
    return sum;
  }

  /** The longest sequence the whole pool can hold. */
  get maxSequenceTokens(): number {
    let low = 0;
    let high = this.pool.numBlocks + 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (this.blocksForLength(middle * this.blockSize) <= this.pool.numBlocks) low = middle;
      else high = middle;
    }
    // Windows alone do not grow with length: then no length is too long.
    if (!this.hasFullGroup && low === this.pool.numBlocks) return Number.MAX_SAFE_INTEGER;
    return low * this.blockSize;
  }

  /** Recounts every reference of `live` (all sequences that hold blocks) against the pool. */
  checkIntegrity(live: Iterable<SequenceBlocks>): void {
    this.pool.checkIntegrity();
    this.cache?.checkIntegrity();
    const references = new Int32Array(this.pool.numBlocks);
    for (const blocks of live) this.countReferences(blocks, references);
    for (let id = 0; id < references.length; id++) {
      if (references[id] !== this.pool.refCount(id)) {
        throw new Error(
          `block ${id}: tables hold it ${references[id]} times, pool ${this.pool.refCount(id)}`,
        );
      }
    }
  }

  private countReferences(blocks: SequenceBlocks, references: Int32Array): void {
    for (let group = 0; group < this.numGroups; group++) {
      const dropped = blocks.numDropped[group]!;
      if (dropped > blocks.numBlocks || (dropped > 0 && this.groupWindows[group] === 0)) {
        throw new Error(`group ${group}: ${dropped} of ${blocks.numBlocks} blocks dropped`);
      }
      for (let i = 0; i < blocks.numBlocks; i++) {
        const id = blocks.tables[group]![i]!;
        if (i < dropped ? id !== -1 : id < 0 || id >= this.pool.numBlocks) {
          throw new Error(`group ${group}: entry ${i} is ${id} with ${dropped} dropped`);
        }
        if (id >= 0) references[id]!++;
      }
    }
  }

  /** First block a token at `position` sees in this group. */
  private firstVisibleBlock(group: number, position: number): number {
    const window = this.groupWindows[group]!;
    if (window === 0) return 0;
    return Math.floor(Math.max(0, position - window + 1) / this.blockSize);
  }

  private firstNeeded(group: number, numBlocks: number): number {
    return Math.min(numBlocks, this.firstVisibleBlock(group, numBlocks * this.blockSize));
  }

  private matchFullGroups(blocks: SequenceBlocks, tokens: Int32Array, limit: number): number {
    for (let i = 0; i < limit; i++) {
      blocks.chain.extend(tokens, i + 1);
      for (let group = 0; group < this.numGroups; group++) {
        if (this.groupWindows[group] !== 0) continue;
        if (this.cache!.find(group, blocks.chain, i, tokens) < 0) return i;
      }
    }
    return limit;
  }

  /** Largest count of at most `numBlocks` whose last window is cached in every window group. */
  private matchWindows(blocks: SequenceBlocks, tokens: Int32Array, numBlocks: number): number {
    let count = numBlocks;
    for (let missing = this.lastMissing(blocks, tokens, count); missing >= 0; ) {
      // Windows reach further back the smaller the count: every count above `missing` needs it.
      count = missing;
      missing = this.lastMissing(blocks, tokens, count);
    }
    return count;
  }

  /** The last block that a hit of `numBlocks` needs in some window group and lacks; −1 if none. */
  private lastMissing(blocks: SequenceBlocks, tokens: Int32Array, numBlocks: number): number {
    for (let group = 0; group < this.numGroups; group++) {
      if (this.groupWindows[group] === 0) continue;
      for (let i = numBlocks - 1; i >= this.firstNeeded(group, numBlocks); i--) {
        if (this.cache!.find(group, blocks.chain, i, tokens) < 0) return i;
      }
    }
    return -1;
  }

  /** Blocks that `window` tokens and a chunk can touch at the worst alignment. */
  private windowBlocks(window: number, chunkTokens: number): number {
    return Math.ceil((window + chunkTokens - 2) / this.blockSize) + 1;
  }

  private reserve(blocks: SequenceBlocks, numBlocks: number): void {
    if (numBlocks <= blocks.tables[0]!.length) return;
    const capacity = Math.max(numBlocks, blocks.numBlocks * 2, 8);
    for (let group = 0; group < this.numGroups; group++) {
      const grown = new Int32Array(capacity);
      grown.set(blocks.tables[group]!.subarray(0, blocks.numBlocks));
      blocks.tables[group] = grown;
    }
  }
}
