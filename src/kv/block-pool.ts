/**
 * The bookkeeping of every KV block: its state, who holds it, and in which order blocks are given
 * out. Knows ids only; what a block contains is the prefix cache's business.
 *
 *   free ──allocate──▶ owned ──release, content known──▶ cached ──retain──▶ owned
 *    ▲                   │                                 │
 *    └──release──────────┘      allocate evicts ◀──────────┘
 *
 * Invariants: a block is owned exactly while its reference count is above zero; every other block
 * is on exactly one of three lists. allocate() takes from them in this order, so the lists are the
 * eviction order as well:
 *   1. free      nothing worth keeping; last released is first reused (its lines may be warm)
 *   2. slid out  cached blocks that a sliding window left behind; oldest first
 *   3. lru       all other cached blocks; least recently released first
 */

/** `moving` (a copy between tiers in flight) is on no list and cannot be evicted. */
export const BLOCK_STATE = { free: 0, owned: 1, cached: 2, moving: 3 } as const;

export interface BlockCounts {
  free: number;
  owned: number;
  cached: number;
  moving: number;
}

const LIST_FREE = 0;
const LIST_SLID_OUT = 1;
const LIST_LRU = 2;
const NUM_LISTS = 3;
const NO_LIST = 255;

export class BlockPool {
  readonly numBlocks: number;
  /** Told before a cached block is given out again: its content is about to be lost. */
  onEvict: (blockId: number) => void = () => {};

  private readonly state: Uint8Array;
  private readonly refCounts: Int32Array;
  /** 1 while the prefix cache knows the block's content. */
  private readonly content: Uint8Array;
  private readonly listOf: Uint8Array;
  /** Doubly linked circular lists; entry numBlocks + list is that list's sentinel. */
  private readonly next: Int32Array;
  private readonly previous: Int32Array;
  private readonly counts: BlockCounts;

  constructor(numBlocks: number) {
    if (!Number.isInteger(numBlocks) || numBlocks < 0) {
      throw new RangeError(`numBlocks must be a whole number, received ${numBlocks}`);
    }
    this.numBlocks = numBlocks;
    this.state = new Uint8Array(numBlocks);
    this.refCounts = new Int32Array(numBlocks);
    this.content = new Uint8Array(numBlocks);
    this.listOf = new Uint8Array(numBlocks).fill(NO_LIST);
    this.next = new Int32Array(numBlocks + NUM_LISTS);
    this.previous = new Int32Array(numBlocks + NUM_LISTS);
    for (let list = 0; list < NUM_LISTS; list++) {
      this.next[numBlocks + list] = numBlocks + list;
      this.previous[numBlocks + list] = numBlocks + list;
    }
    for (let id = 0; id < numBlocks; id++) this.linkLast(LIST_FREE, id);
    this.counts = { free: numBlocks, owned: 0, cached: 0, moving: 0 };
  }

  /** Blocks allocate() can still give out: free and evictable ones. */
  get numAvailable(): number {
    return this.counts.free + this.counts.cached;
  }

  get numOwned(): number {
    return this.counts.owned;
  }

  /** A copy, safe to keep. */
  blockCounts(): BlockCounts {
    return { ...this.counts };
  }

  /** One of BLOCK_STATE. */
  stateOf(blockId: number): number {
    return this.state[blockId]!;
  }

  refCount(blockId: number): number {
    return this.refCounts[blockId]!;
  }

  hasContent(blockId: number): boolean {
    return this.content[blockId] === 1;
  }

  /** Takes a block with one reference; −1 when none is free or evictable. */
  allocate(): number {
    for (let list = 0; list < NUM_LISTS; list++) {
      const id = this.next[this.numBlocks + list]!;
      if (id >= this.numBlocks) continue;
      if (this.state[id] === BLOCK_STATE.cached) {
        this.onEvict(id);
        this.content[id] = 0;
        this.counts.cached--;
      } else {
        this.counts.free--;
      }
      this.unlink(id);
      this.own(id);
      return id;
    }
    return -1;
  }

  /** One more holder of an owned or cached block. */
  retain(blockId: number): void {
    if (this.state[blockId] === BLOCK_STATE.owned) {
      this.refCounts[blockId]!++;
      return;
    }
    if (this.state[blockId] !== BLOCK_STATE.cached) {
      throw new Error(`retain: block ${blockId} is in state ${this.state[blockId]}`);
    }
    this.unlink(blockId);
    this.counts.cached--;
    this.own(blockId);
  }

  /**
   * One holder less. The last one makes the block cached when its content is known, else free.
   * `slidOut`: a window moved past it, so it is evicted before the blocks a prefix hit would need.
   */
  release(blockId: number, slidOut = false): void {
    if (this.state[blockId] !== BLOCK_STATE.owned) {
      throw new Error(`release: block ${blockId} is in state ${this.state[blockId]}`);
    }
    if (--this.refCounts[blockId]! > 0) return;
    this.counts.owned--;
    if (this.content[blockId] === 1) {
      this.state[blockId] = BLOCK_STATE.cached;
      this.counts.cached++;
      this.linkLast(slidOut ? LIST_SLID_OUT : LIST_LRU, blockId);
    } else {
      this.state[blockId] = BLOCK_STATE.free;
      this.counts.free++;
      this.linkFirst(LIST_FREE, blockId);
    }
  }

  /** The prefix cache now knows this owned block by its content. */
  markContent(blockId: number): void {
    if (this.state[blockId] !== BLOCK_STATE.owned) {
      throw new Error(`markContent: block ${blockId} is in state ${this.state[blockId]}`);
    }
    this.content[blockId] = 1;
  }

  /** Throws an Error that says what is wrong; walks every list. */
  checkIntegrity(): void {
    const seen = new Uint8Array(this.numBlocks);
    for (let list = 0; list < NUM_LISTS; list++) {
      const sentinel = this.numBlocks + list;
      let before = sentinel;
      for (let id = this.next[sentinel]!; id !== sentinel; id = this.next[id]!) {
        if (id < 0 || id >= this.numBlocks) throw new Error(`list ${list} holds id ${id}`);
        if (seen[id]) throw new Error(`block ${id} is listed twice`);
        seen[id] = 1;
        if (this.listOf[id] !== list) throw new Error(`block ${id} is on list ${list} unknowingly`);
        if (this.previous[id] !== before) throw new Error(`block ${id}: broken back link`);
        const expected = list === LIST_FREE ? BLOCK_STATE.free : BLOCK_STATE.cached;
        if (this.state[id] !== expected) {
          throw new Error(`block ${id} on list ${list} is in state ${this.state[id]}`);
        }
        before = id;
      }
      if (this.previous[sentinel] !== before) throw new Error(`list ${list}: broken tail`);
    }
    const counts: BlockCounts = { free: 0, owned: 0, cached: 0, moving: 0 };
    for (let id = 0; id < this.numBlocks; id++) this.checkBlock(id, seen[id] === 1, counts);
    for (const state of ['free', 'owned', 'cached', 'moving'] as const) {
      if (counts[state] !== this.counts[state]) {
        throw new Error(`${state}: counted ${counts[state]}, kept ${this.counts[state]}`);
      }
    }
  }

  private checkBlock(id: number, listed: boolean, counts: BlockCounts): void {
    const state = this.state[id];
    const references = this.refCounts[id]!;
    if (state === BLOCK_STATE.owned) {
      counts.owned++;
      if (listed || references < 1) throw new Error(`owned block ${id}: ${references} holders`);
      if (this.listOf[id] !== NO_LIST) throw new Error(`owned block ${id} believes it is listed`);
      return;
    }
    if (!listed) throw new Error(`block ${id} in state ${state} is on no list`);
    if (references !== 0) throw new Error(`block ${id} in state ${state}: ${references} holders`);
    const hasContent = this.content[id] === 1;
    if (hasContent !== (state === BLOCK_STATE.cached)) {
      throw new Error(`block ${id} in state ${state}: content ${hasContent}`);
    }
    if (state === BLOCK_STATE.cached) counts.cached++;
    else counts.free++;
  }

  private own(id: number): void {
    this.state[id] = BLOCK_STATE.owned;
    this.refCounts[id] = 1;
    this.counts.owned++;
  }

  private linkFirst(list: number, id: number): void {
    this.link(list, id, this.numBlocks + list, this.next[this.numBlocks + list]!);
  }

  private linkLast(list: number, id: number): void {
    this.link(list, id, this.previous[this.numBlocks + list]!, this.numBlocks + list);
  }

  private link(list: number, id: number, before: number, after: number): void {
    this.previous[id] = before;
    this.next[id] = after;
    this.next[before] = id;
    this.previous[after] = id;
    this.listOf[id] = list;
  }

  private unlink(id: number): void {
    const before = this.previous[id]!;
    const after = this.next[id]!;
    this.next[before] = after;
    this.previous[after] = before;
    this.listOf[id] = NO_LIST;
  }
}
