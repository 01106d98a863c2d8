/**
 * How fast text becomes tokens and tokens become text, on one thread.
 *
 *   node dist/bench/tokenizer.js --model PATH [--text FILE] [--runs 5] [--json]
 *
 * Without --text the text is this package's own source: unlike a repeated paragraph, it has about
 * as many different words as its length suggests, and what a tokenizer remembers helps it no more
 * than it would a user.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { packageRoot } from '../src/bench/machine.js';
import { median } from '../src/bench/statistics.js';
import { shortNumber, textTable } from '../src/bench/table.js';
import { loadAddon, type NativeTokenizer } from '../src/binding/addon.js';
import { loadModel, loadSynthetic } from '../src/models/load-model.js';
import { decodeTokens, StreamDetokenizer } from '../src/tokenizer/detokenizer.js';

export interface TokenizerRow {
  work: 'encode' | 'encode, short pieces' | 'decode' | 'decode, streamed';
  tokens: number;
  tokensPerSecond: number;
}

/** A request's usual length in characters, for the row of short pieces. */
const PIECE_CHARACTERS = 2000;

/** Throws an Error when the text does not survive the way there and back. */
export function benchTokenizer(
  tokenizer: NativeTokenizer,
  text: string,
  { runs, stripLeadingSpace }: { runs: number; stripLeadingSpace: boolean },
): TokenizerRow[] {
  const options = { skipSpecialTokens: true, stripLeadingSpace };
  const pieces: string[] = [];
  for (let at = 0; at < text.length; at += PIECE_CHARACTERS) {
    pieces.push(text.slice(at, at + PIECE_CHARACTERS));
  }
  const ids = tokenizer.encode(text, false, '');
  if (decodeTokens(tokenizer, ids, options) !== text) throw new Error('the text came back changed');
  const encodePieces = (): number =>
    pieces.reduce((sum, piece) => sum + tokenizer.encode(piece, false, '').length, 0);
  const decodeStream = (): number => {
    const stream = new StreamDetokenizer(tokenizer, options);
    for (const id of ids) stream.push(id);
    return ids.length;
  };
  const row = (work: TokenizerRow['work'], run: () => number): TokenizerRow => {
    const tokens = run();
    const seconds = Array.from({ length: runs }, () => {
      const begin = performance.now();
      run();
      return (performance.now() - begin) / 1000;
    });
    return { work, tokens, tokensPerSecond: tokens / median(seconds) };
  };
  return [
    row('encode', () => tokenizer.encode(text, false, '').length),
    row('encode, short pieces', encodePieces),
    row('decode', () => {
      decodeTokens(tokenizer, ids, options);
      return ids.length;
    }),
    row('decode, streamed', decodeStream),
  ];
}

/** Source files of this package, one after another. */
export function packageText(): string {
  const texts: string[] = [];
  for (const folder of ['native', 'src', 'docs']) {
    const root = join(packageRoot(), folder);
    for (const file of readdirSync(root, { recursive: true, encoding: 'utf8' }).sort()) {
      if (/\.(cc|h|ts|md)$/.test(file)) texts.push(readFileSync(join(root, file), 'utf8'));
    }
  }
  // SentencePiece's own mark for a space would come back as one.
  return texts.join('\n').replaceAll('\u2581', ' ');
}

function main(): void {
  const { values } = parseArgs({
    options: {
      model: { type: 'string' },
      synthetic: { type: 'string', default: 'smollm2' },
      text: { type: 'string' },
      runs: { type: 'string', default: '5' },
      json: { type: 'boolean', default: false },
    },
  });
  const { model } = values;
  const { tokenizer } = model === undefined ? loadSynthetic(values.synthetic) : loadModel(model);
  const text = values.text === undefined ? packageText() : readFileSync(values.text, 'utf8');
  const native = loadAddon().createTokenizer(tokenizer.spec);
  const rows = benchTokenizer(native, text, {
    runs: Number(values.runs),
    stripLeadingSpace: tokenizer.spec.spacePrefix !== 'none',
  });
  if (values.json) {
    console.log(JSON.stringify({ rows }));
    return;
  }
  const cells = rows.map(({ work, tokens, tokensPerSecond }) => [
    work,
    tokens.toLocaleString('en-US'),
    shortNumber(tokensPerSecond / 1e6),
  ]);
  console.log(textTable([['work', 'tokens', 'million a second'], ...cells]));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) main();
