/**
 * Readable names of kernels: `attention_decode_kernel<DecodeConfig<128, kBF16>>` out of a mangled
 * symbol. Demangling is c++filt's; enum numbers are turned back into their names by the kernels'
 * own headers.
 */
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** "WeightFormat" → ["kF16", "kBF16", …]: enums of the form `enum class X : T { kA, kB }`. */
export type EnumNames = Map<string, string[]>;

const ENUM = /enum class (\w+)\s*(?::\s*[\w:]+)?\s*\{([^}]*)\}/g;

export function parseEnums(source: string, into: EnumNames = new Map()): EnumNames {
  for (const [, name, body] of source.matchAll(ENUM)) {
    const names = body!
      .replace(/\/\/.*$/gm, '')
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '');
    // Numbers given by hand would have to be followed; none of the kernels' enums has any.
    if (names.every((item) => /^\w+$/.test(item))) into.set(name!, names);
  }
  return into;
}

export function readEnums(folder: string): EnumNames {
  const names: EnumNames = new Map();
  for (const file of readdirSync(folder)) {
    if (/\.(h|cuh)$/.test(file)) parseEnums(readFileSync(join(folder, file), 'utf8'), names);
  }
  return names;
}

/** `void longhaul::device::k<(longhaul::device::E)2, 8>(P)` → `k<kC, 8>`. */
export function shortName(demangled: string, enums: EnumNames): string {
  return argumentsCut(demangled.replace(/^void /, ''))
    .replace(/longhaul::device::|\(anonymous namespace\)::/g, '')
    .replace(/\(([\w ]+)\)(\d+)/g, (text, name: string, number: string) => {
      return (
        enums.get(name)?.[Number(number)] ??
        (/^(unsigned )?(int|long|bool)$/.test(name) ? number : text)
      );
    });
}

/** Without the parameter list: the last balanced pair of parentheses, outside of any template list. */
function argumentsCut(name: string): string {
  if (!name.endsWith(')')) return name;
  let depth = 0;
  for (let at = name.length - 1; at >= 0; at--) {
    if (name[at] === ')') depth++;
    else if (name[at] === '(' && --depth === 0) return name.slice(0, at);
  }
  return name;
}

/** Short names by symbol. Symbols stay as they are where there is no c++filt. */
export function readableNames(symbols: readonly string[], enums: EnumNames): Map<string, string> {
  const run = spawnSync('c++filt', [], { input: `${symbols.join('\n')}\n`, encoding: 'utf8' });
  const lines = run.status === 0 ? run.stdout.split('\n') : symbols;
  return new Map(symbols.map((symbol, i) => [symbol, shortName(lines[i] ?? symbol, enums)]));
}
