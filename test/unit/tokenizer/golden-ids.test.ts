/** Ids of real models' tokenizers against reference implementations: test/golden/tokenizer. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { loadAddon } from '../../../src/binding/addon.js';
import { loadModel } from '../../../src/models/load-model.js';
import { createTextService } from '../../../src/tokenizer/text-service.js';
import { goldenFolder } from '../../support/golden-files.js';
import { testModel } from '../../support/test-models.js';

const folder = join(goldenFolder(), 'tokenizer');

function readJson<T>(name: string): T {
  return JSON.parse(readFileSync(join(folder, name), 'utf8')) as T;
}

/** Ids as plain text, and where they differ, with special tokens recognized. */
type Expected = [text: number[], special?: number[]];

const corpus = readJson<string[]>('corpus.json');

for (const name of ['smollm2', 'gemma3'] as const) {
  const model = await testModel(name);

  t.test(`${name}: ids equal the reference's on the corpus`, { skip: model.skip }, async (t) => {
    const expected = readJson<Expected[]>(`expected-${name}.json`);
    t.equal(expected.length, corpus.length);
    const { tokenizer: description } = loadModel(model.path);
    const tokenizer = loadAddon().createTokenizer(description.spec);
    const service = createTextService(description, { inlineLengthMax: Number.POSITIVE_INFINITY });
    t.teardown(() => service.close());
    let wrong = 0;
    for (const [i, text] of corpus.entries()) {
      const [plain, special = plain] = expected[i]!;
      const found = [
        [...tokenizer.encode(text, false, '')],
        [...tokenizer.encode(text, true, '')],
        [...(await service.encode(text, { addSpecialTokens: false }))],
      ];
      const right = [plain, special, plain];
      if (JSON.stringify(found) === JSON.stringify(right)) continue;
      wrong += 1;
      t.same(found, right, JSON.stringify(text));
    }
    t.equal(wrong, 0, `${corpus.length} texts`);
  });

  t.test(`${name}: texts survive a round trip`, { skip: model.skip }, async (t) => {
    const { tokenizer: description } = loadModel(model.path);
    const service = createTextService(description);
    t.teardown(() => service.close());
    for (const text of corpus) {
      // Lone surrogates are no text, and SentencePiece takes a typed U+2581 for a space.
      let sent = text.replace(
        /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g,
        '\ufffd',
      );
      if (description.spec.kind === 'spm') sent = sent.replaceAll('▁', ' ');
      const ids = await service.encode(text, { addSpecialTokens: true });
      const back = service.decode(ids, { skipSpecialTokens: true });
      if (back !== sent) t.equal(back, sent);
      const stream = service.createDetokenizer({ skipSpecialTokens: true });
      let streamed = '';
      for (const id of ids) streamed += stream.push(id);
      if (streamed + stream.flush() !== sent) t.equal(streamed, sent, 'streamed');
    }
  });
}
