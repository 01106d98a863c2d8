/**
 * Real text to hide facts in and to continue: a public-domain novel that lies beside this file's
 * source (texts/NOTICE.md), and the source code of this very checkout. A text of the user's own
 * (`--text`) takes the place of both.
 */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../bench/machine.js';
import { EngineError } from '../errors.js';
import type { EvalRandom } from './eval-random.js';

/** One sentence, with the white space that separates it from the next. */
export interface Sentence {
  text: string;
  separator: ' ' | '\n';
}

export class Corpus {
  readonly #prose: string;
  #code: string | null;
  #sentences: Sentence[] | null = null;
  #words: string[] | null = null;

  /** `code` null: read from the checkout when a task first asks for it. */
  constructor(prose: string, code: string | null = null) {
    this.#prose = prose;
    this.#code = code;
  }

  /** The texts that come with the program, or the user's file. Throws ERR_INVALID_REQUEST. */
  static load(path: string | null): Corpus {
    if (path === null) return new Corpus(readText(join(packageRoot(), ...PROSE)));
    const text = readText(path);
    return new Corpus(text, text);
  }

  /** Paragraphs, one a line. */
  get prose(): string {
    return this.#prose;
  }

  /** Source files one after the other, each after a line with its name. */
  get code(): string {
    this.#code ??= readCheckout(packageRoot());
    return this.#code;
  }

  /** Identifies the prose; the code is the commit's. */
  get sha256(): string {
    return createHash('sha256').update(this.#prose).digest('hex');
  }

  /** Whole sentences of the prose from a random one on, going round; at least `characters` long. */
  sentences(characters: number, random: EvalRandom): Sentence[] {
    this.#sentences ??= splitSentences(this.#prose);
    const all = this.#sentences;
    if (all.length === 0) throw new EngineError('ERR_INVALID_REQUEST', '--text: no sentence in it');
    const out: Sentence[] = [];
    let length = 0;
    for (let i = random.below(all.length); length < characters; i = (i + 1) % all.length) {
      const sentence = all[i]!;
      out.push(sentence);
      length += sentence.text.length + 1;
    }
    return out;
  }

  /** Different lower-case words of four to eight letters that the prose uses, in order of spelling. */
  words(): readonly string[] {
    this.#words ??= [
      ...new Set(this.#prose.match(/(?<![\p{L}’'-])[a-z]{4,8}(?![\p{L}’'-])/gu) ?? []),
    ].sort();
    return this.#words;
  }
}

const PROSE = ['src', 'eval', 'texts', 'moby-dick.txt'];
const CODE_FOLDERS = ['src', 'native', 'kernels', 'bench', 'test/unit'];
const CODE_FILES = /\.(ts|cc|h|cuh|cu)$/;

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new EngineError(
      'ERR_INVALID_REQUEST',
      `${path}: expected a readable text (${(error as Error).message})`,
    );
  }
}

function readCheckout(root: string): string {
  const files: string[] = [];
  for (const folder of CODE_FOLDERS) {
    try {
      for (const file of readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' })) {
        if (CODE_FILES.test(file)) files.push(`${folder}/${file}`);
      }
    } catch {
      // A folder that this checkout does not have.
    }
  }
  files.sort();
  return files.map((file) => `// ${file}\n${readText(join(root, file))}\n`).join('');
}

/** Sentences end with a full stop, question or exclamation mark; a line's end is a paragraph's. */
export function splitSentences(text: string): Sentence[] {
  const out: Sentence[] = [];
  for (const line of text.split(/\n+/)) {
    const parts = line.trim().split(/(?<=[.!?][”’"')]*)\s+(?=[“‘"'(A-Z])/u);
    for (const [i, part] of parts.entries()) {
      if (part === '') continue;
      out.push({ text: part, separator: i === parts.length - 1 ? '\n' : ' ' });
    }
  }
  return out;
}
