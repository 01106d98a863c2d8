/**
 * Finds stop strings in a text that arrives in pieces (Aho-Corasick over UTF-16 units, so a piece
 * costs its length however many stops there are). The stop that is complete first wins; of several
 * complete at the same place, the longest, because it began first. The outcome does not depend on
 * how the text was cut into pieces.
 */

interface Node {
  next: Map<number, Node>;
  /** The node of the longest proper suffix that is a prefix of some stop. */
  fail: Node | null;
  depth: number;
  /** The longest stop that ends here. */
  stop: string | null;
}

export interface StopMatcher {
  /**
   * The text that may go out now, and the stop found, if any. What could still be the beginning of
   * a stop is held back. After a stop was found, more text gives '' and that same stop.
   */
  push(text: string): { text: string; matched: string | null };
  /** What was held back; '' after a stop. */
  flush(): string;
}

/** Empty stops are left out. `includeStop`: the stop itself is part of the text given out. */
export function createStopMatcher(stops: readonly string[], includeStop: boolean): StopMatcher {
  const root = buildAutomaton(stops);
  let node = root;
  let held = '';
  let matched: string | null = null;
  return {
    push(text) {
      if (matched !== null) return { text: '', matched };
      for (let i = 0; i < text.length; i++) {
        node = step(root, node, text.charCodeAt(i));
        if (node.stop === null) continue;
        matched = node.stop;
        const found = held + text.slice(0, i + 1);
        held = '';
        return { text: includeStop ? found : found.slice(0, -matched.length), matched };
      }
      const all = held + text;
      held = all.slice(all.length - node.depth);
      return { text: all.slice(0, all.length - node.depth), matched };
    },
    flush() {
      const rest = held;
      held = '';
      node = root;
      return rest;
    },
  };
}

function buildAutomaton(stops: readonly string[]): Node {
  const root: Node = { next: new Map(), fail: null, depth: 0, stop: null };
  for (const stop of stops) {
    if (stop === '') continue;
    let node = root;
    for (let i = 0; i < stop.length; i++) {
      const unit = stop.charCodeAt(i);
      let next = node.next.get(unit);
      if (!next) {
        next = { next: new Map(), fail: root, depth: node.depth + 1, stop: null };
        node.next.set(unit, next);
      }
      node = next;
    }
    node.stop = stop;
  }
  // Breadth first: a node's fail target is shallower and therefore ready.
  const queue = [...root.next.values()];
  for (const node of queue) {
    for (const [unit, child] of node.next) {
      child.fail = step(root, node.fail ?? root, unit);
      child.stop ??= child.fail.stop;
      queue.push(child);
    }
  }
  return root;
}

function step(root: Node, from: Node, unit: number): Node {
  for (let node: Node | null = from; node !== null; node = node.fail) {
    const next = node.next.get(unit);
    if (next) return next;
  }
  return root;
}
