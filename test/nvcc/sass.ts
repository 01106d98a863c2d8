/** What `cuobjdump -sass` prints: the machine instructions of each kernel, counted by mnemonic. */

/** Mnemonic with its modifiers, "LDG.E.128.CONSTANT", to how often it occurs. */
export type Instructions = Map<string, number>;

const TARGET = /^\s*(?:code for|\.target)\s+(sm_\w+)/;
const FUNCTION = /^\s*Function : (\S+)/;
// An address, perhaps a predicate (@P0, @!UP1), a mnemonic.
const INSTRUCTION =
  /^\s*\/\*[0-9a-f]{4,}\*\/\s+(?:@!?U?P[0-9T]\s+)?([A-Z][A-Z0-9_]*(?:\.[A-Za-z0-9_]+)*)/;

/** Instructions of each function: keys are `functionKey(symbol, architecture)`. */
export function parseSass(text: string): Map<string, Instructions> {
  const functions = new Map<string, Instructions>();
  let architecture = '';
  let current: Instructions | null = null;
  for (const line of text.split('\n')) {
    const instruction = INSTRUCTION.exec(line);
    if (instruction) {
      const name = instruction[1]!;
      current?.set(name, (current.get(name) ?? 0) + 1);
      continue;
    }
    const target = TARGET.exec(line);
    if (target) {
      architecture = target[1]!;
      continue;
    }
    const name = FUNCTION.exec(line);
    if (name) {
      current = new Map();
      functions.set(functionKey(name[1]!, architecture), current);
    }
  }
  return functions;
}

export function functionKey(symbol: string, architecture: string): string {
  return `${architecture} ${symbol}`;
}

export function countMatching(instructions: Instructions, pattern: RegExp): number {
  let count = 0;
  for (const [name, times] of instructions) if (pattern.test(name)) count += times;
  return count;
}

export function countAll(instructions: Instructions): number {
  let count = 0;
  for (const times of instructions.values()) count += times;
  return count;
}
