/**
 * Where the space goes that SentencePiece-style tokenizers put in front: random vocabularies read
 * from a tokenizer.json, against @huggingface/tokenizers on texts with spaces at both ends, runs of
 * spaces and special tokens. LONGHAUL_FUZZ_SEED=N reruns one seed.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import t from 'tap';
import { loadAddon } from '../../src/binding/addon.js';
import { hfTokenizer } from '../../src/models/hf-tokenizer.js';
import {
  ADDED,
  PREFIX_RULES,
  type PrefixRules,
  randomSpmJson,
} from '../support/random-spm-json.js';
import { seededRandom } from '../unit/tokenizer/tiny-specs.js';

const SEEDS = process.env.LONGHAUL_FUZZ_SEED
  ? [Number(process.env.LONGHAUL_FUZZ_SEED)]
  : [1, 2, 3, 4, 5, 6];
const PARTS = [' ', '  ', '▁', '\n', 'ab', 'b', 'ca', ' a', 'é', '日', '<s>', '</s>', ADDED];

function pick<T>(list: readonly T[], random: () => number): T {
  return list[Math.floor(random() * list.length)]!;
}

function makeText(random: () => number): string {
  return Array.from({ length: 1 + Math.floor(random() * 8) }, () => pick(PARTS, random)).join('');
}

function makeWords(random: () => number): string[] {
  return Array.from({ length: 40 }, () => {
    const length = 2 + Math.floor(random() * 12);
    return Array.from({ length }, () => pick([...'abcé▁▁日\n'], random)).join('');
  });
}

for (const rules of Object.keys(PREFIX_RULES) as PrefixRules[]) {
  t.test(`space prefix "${rules}" equals @huggingface/tokenizers`, async (t) => {
    const folder = t.testdir();
    let compared = 0;
    for (const seed of SEEDS) {
      const random = seededRandom(seed * 613);
      const json = randomSpmJson(rules, makeWords(random), random);
      writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(json));
      const ours = loadAddon().createTokenizer(hfTokenizer(folder).spec);
      const reference = new Tokenizer(json as ConstructorParameters<typeof Tokenizer>[0], {});
      for (let i = 0; i < 400; i++) {
        const text = makeText(random);
        const expected = reference.encode(text, { add_special_tokens: false }).ids;
        const found = [...ours.encode(text, true, '')];
        compared += found.length;
        if (JSON.stringify(found) === JSON.stringify(expected)) continue;
        t.same(found, expected, `seed ${seed}: ${JSON.stringify(text)}`);
        return;
      }
    }
    t.ok(compared > 1000, `${compared} ids compared`);
  });
}
