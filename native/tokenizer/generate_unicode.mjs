// Writes unicode_ranges.inc: the character classes pre-tokenizers ask for, as sorted ranges.
// Run: node native/tokenizer/generate_unicode.mjs   (needs no package; uses V8's Unicode data)
import { writeFileSync } from 'node:fs';

// Order and values mirror CharClass in unicode.h; the first match decides, the classes are disjoint.
const CLASSES = [
  [1, /^[\p{Lu}\p{Lt}]$/u],
  [2, /^\p{Ll}$/u],
  [3, /^[\p{Lm}\p{Lo}]$/u],
  [4, /^\p{M}$/u],
  [5, /^\p{N}$/u],
  [6, /^\p{White_Space}$/u],
];

function classOf(codePoint) {
  if (codePoint >= 0xd800 && codePoint <= 0xdfff) return 0;
  const text = String.fromCodePoint(codePoint);
  for (const [value, pattern] of CLASSES) if (pattern.test(text)) return value;
  return 0;
}

const ranges = [];
let last = -1;
for (let codePoint = 0; codePoint <= 0x10ffff; ++codePoint) {
  const value = classOf(codePoint);
  if (value === last) continue;
  ranges.push(codePoint * 8 + value);
  last = value;
}

const lines = [
  `// Made by generate_unicode.mjs from Unicode ${process.versions.unicode}; do not edit.`,
  '// Each entry is first_code_point * 8 + class, ascending; a range ends where the next begins.',
];
for (let i = 0; i < ranges.length; i += 11) {
  lines.push(`${ranges.slice(i, i + 11).join(', ')},`);
}
writeFileSync(new URL('./unicode_ranges.inc', import.meta.url), `${lines.join('\n')}\n`);
console.log(`${ranges.length} ranges`);
