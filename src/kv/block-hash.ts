/**
 * Names of block contents: a chain of hashes, one a full block. The hash of block i covers its
 * token ids, the hash of block i − 1 and, through the root, everything else that changes K/V.
 *
 * SHA-256 cut to 128 bits rather than a fast mixing function: a request that could construct a
 * collision would make other requests read its blocks. At about 1 µs a block it is cheap beside
 * the block's prefill.
 */
import { hash } from 'node:crypto';

/** Int32 words of one hash. */
export const HASH_WORDS = 4;
const HASH_BYTES = HASH_WORDS * 4;

/** Everything besides the tokens that K/V depend on. */
export interface KvIdentity {
  /** Weights, RoPE, K/V element type and arithmetic path. */
  modelFingerprint: string;
  /** Separates tenants; '' is shared. */
  cacheSalt: string;
  /** −1 is none. */
  adapterId: number;
  /** Context, mode, sparsity and levels; '' is plain exact attention. */
  attentionFingerprint: string;
}

/** The parent of block 0. */
export function rootHash(identity: KvIdentity): Uint8Array {
  // JSON quotes the strings, so that no two identities spell the same bytes.
  const text = JSON.stringify([
    identity.modelFingerprint,
    identity.cacheSalt,
    identity.adapterId,
    identity.attentionFingerprint,
  ]);
  return hash('sha256', text, 'buffer').subarray(0, HASH_BYTES);
}

/** The hashes of one sequence's full blocks, computed as far as somebody asked. */
export class BlockHashChain {
  readonly blockSize: number;
  /** [numHashed, HASH_WORDS]; grows. */
  words: Int32Array = new Int32Array(0);
  numHashed = 0;
  private readonly root: Uint8Array;

  constructor(root: Uint8Array, blockSize: number) {
    this.root = root;
    this.blockSize = blockSize;
  }

  /** Hashes blocks [numHashed, numBlocks) of `tokens`, which must hold them whole. */
  extend(tokens: Int32Array, numBlocks: number): void {
    if (numBlocks <= this.numHashed) return;
    this.reserve(numBlocks);
    const size = this.blockSize;
    const bytes = scratchFor(HASH_BYTES + size * 4);
    const input = new Int32Array(bytes.buffer, bytes.byteOffset, HASH_WORDS + size);
    for (let block = this.numHashed; block < numBlocks; block++) {
      if (block === 0) bytes.set(this.root, 0);
      else input.set(this.words.subarray((block - 1) * HASH_WORDS, block * HASH_WORDS), 0);
      for (let i = 0; i < size; i++) input[HASH_WORDS + i] = tokens[block * size + i]!;
      const digest = hash('sha256', bytes, 'buffer');
      for (let word = 0; word < HASH_WORDS; word++) {
        this.words[block * HASH_WORDS + word] = digest.readInt32LE(word * 4);
      }
    }
    this.numHashed = numBlocks;
  }

  /** 53 bits of block `block`'s hash: what a Map of numbers can take as a key. */
  key(block: number): number {
    const first = this.words[block * HASH_WORDS]! >>> 0;
    const second = this.words[block * HASH_WORDS + 1]! >>> 11;
    return first * 0x200000 + second;
  }

  /** Whether both chains name the same content at `block`, which both have hashed. */
  equals(other: BlockHashChain, block: number): boolean {
    for (let i = block * HASH_WORDS; i < (block + 1) * HASH_WORDS; i++) {
      if (this.words[i] !== other.words[i]) return false;
    }
    return true;
  }

  private reserve(numBlocks: number): void {
    if (numBlocks * HASH_WORDS <= this.words.length) return;
    const grown = new Int32Array(Math.max(numBlocks, this.numHashed * 2, 16) * HASH_WORDS);
    grown.set(this.words.subarray(0, this.numHashed * HASH_WORDS));
    this.words = grown;
  }
}

/** One input buffer for all chains: hashing is synchronous. */
let scratch = new Uint8Array(0);
function scratchFor(numBytes: number): Uint8Array {
  if (scratch.length !== numBytes) scratch = new Uint8Array(numBytes);
  return scratch;
}
