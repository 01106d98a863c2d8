/**
 * The block pool, written to be obviously right: one array of records and linear searches. Same
 * calls and answers as BlockPool.
 */
interface OracleBlock {
  id: number;
  refCount: number;
  content: boolean;
}

export class OracleBlockPool {
  onEvict: (blockId: number) => void = () => {};
  private readonly blocks: OracleBlock[];
  /** In the order in which allocate() takes from them. */
  private free: number[];
  private slidOut: number[] = [];
  private lru: number[] = [];

  constructor(numBlocks: number) {
    this.blocks = Array.from({ length: numBlocks }, (_, id) => ({
      id,
      refCount: 0,
      content: false,
    }));
    this.free = this.blocks.map((block) => block.id);
  }

  allocate(): number {
    const list = [this.free, this.slidOut, this.lru].find((ids) => ids.length > 0);
    if (!list) return -1;
    const id = list.shift()!;
    const block = this.blocks[id]!;
    if (block.content) this.onEvict(id);
    block.content = false;
    block.refCount = 1;
    return id;
  }

  retain(id: number): void {
    this.slidOut = this.slidOut.filter((other) => other !== id);
    this.lru = this.lru.filter((other) => other !== id);
    this.blocks[id]!.refCount++;
  }

  release(id: number, slidOut = false): void {
    const block = this.blocks[id]!;
    if (--block.refCount > 0) return;
    if (!block.content) this.free.unshift(id);
    else if (slidOut) this.slidOut.push(id);
    else this.lru.push(id);
  }

  markContent(id: number): void {
    this.blocks[id]!.content = true;
  }

  refCount(id: number): number {
    return this.blocks[id]!.refCount;
  }

  counts(): { free: number; owned: number; cached: number; moving: number } {
    const owned = this.blocks.filter((block) => block.refCount > 0).length;
    const cached = this.slidOut.length + this.lru.length;
    return { free: this.free.length, owned, cached, moving: 0 };
  }
}
