/**
 * Who waits for whom to compute a common prefix, so that n choices and bursts on one prompt
 * prefill once. Only waiting sequences wait, and only for running ones, which wait for nobody:
 * there is no cycle.
 */
import type { BlockManager } from '../kv/block-manager.js';
import type { Sequence } from './sequence.js';

/** A waiting sequence leaves its prefix to the sequence that is computing it. */
interface PrefixWait {
  leader: Sequence;
  nativeId: number;
  /** The leader registers this many blocks of the common prefix. */
  numBlocks: number;
}

export class PrefixWaits {
  private readonly manager: BlockManager;
  private readonly waits = new Map<Sequence, PrefixWait>();

  constructor(manager: BlockManager) {
    this.manager = manager;
  }

  /** True while the sequence has to wait; forgets the wait when it is over. */
  isWaiting(sequence: Sequence): boolean {
    const wait = this.waits.get(sequence);
    if (!wait) return false;
    const { leader, nativeId, numBlocks } = wait;
    const isLeading =
      leader.status === 'running' && !leader.isPaused && leader.nativeId === nativeId;
    if (isLeading && leader.blocks.numRegistered < numBlocks) return true;
    this.waits.delete(sequence);
    return false;
  }

  forget(sequence: Sequence): void {
    this.waits.delete(sequence);
  }

  /**
   * True when a running sequence is about to compute the first block this one lacks. Then it waits
   * until that sequence has passed what they have in common, or has left: a burst on one prompt
   * prefills once. Only running sequences are waited for and those wait for nobody. The sequence
   * would take over at most `maxTokens` tokens.
   */
  begin(
    sequence: Sequence,
    numMatched: number,
    maxTokens: number,
    running: readonly Sequence[],
  ): boolean {
    if (!this.manager.cache) return false;
    const { blockSize } = this.manager;
    const wanted = Math.floor(maxTokens / blockSize);
    if (numMatched >= wanted) return false;
    for (const leader of running) {
      if (leader.isPaused || leader.blocks.numRegistered > numMatched) continue;
      // A worse priority may be kept from running for long.
      if (leader.priority > sequence.priority) continue;
      const planned = Math.min(wanted, Math.floor(leader.numPromptTokens / blockSize));
      if (planned <= numMatched) continue;
      sequence.blocks.chain.extend(sequence.tokens, numMatched + 1);
      leader.blocks.chain.extend(leader.tokens, numMatched + 1);
      if (!sequence.blocks.chain.equals(leader.blocks.chain, numMatched)) continue;
      const numBlocks = Math.floor(commonLength(sequence, leader, planned * blockSize) / blockSize);
      this.waits.set(sequence, { leader, nativeId: leader.nativeId, numBlocks });
      return true;
    }
    return false;
  }
}

/** Length of the common prefix of two sequences' prompts, at most `limit`. */
function commonLength(a: Sequence, b: Sequence, limit: number): number {
  for (let i = 0; i < limit; i++) {
    if (a.tokens[i] !== b.tokens[i]) return i;
  }
  return limit;
}
