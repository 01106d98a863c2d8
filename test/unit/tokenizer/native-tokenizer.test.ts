/** The addon's surface: arguments, break marks, sharing between threads. */
import { Worker } from 'node:worker_threads';
import t from 'tap';
import { loadAddon, type NativeTokenizerSpec } from '../../../src/binding/addon.js';
import { byteTokens, CONTROL, makeSpec, NORMAL, spellBytes, USER_DEFINED } from './tiny-specs.js';

const addon = loadAddon();

function tinySpec(changes: Partial<NativeTokenizerSpec> = {}): NativeTokenizerSpec {
  const tokens = byteTokens([
    { text: 'he', type: NORMAL },
    { text: '<end>', type: CONTROL },
    { text: spellBytes('é'), type: NORMAL },
    { text: '<tag>', type: USER_DEFINED },
  ]);
  const accent = [...spellBytes('é')];
  return makeSpec('bpe', tokens, ['h e', accent.join(' ')], changes);
}
const [HE, END, ACCENT, TAG] = [256, 257, 258, 259];

t.test('encode and tokenBytes', async (t) => {
  const tokenizer = addon.createTokenizer(tinySpec());
  t.equal(tokenizer.vocabSize, 260);
  t.ok(tokenizer.encode('he', false, '') instanceof Int32Array);
  t.same([...tokenizer.encode('hehé<end><tag>', true, '')], [HE, 104, ACCENT, END, TAG]);
  t.same([...tokenizer.encode('<tag>', false, '')], [TAG]);
  t.same([...tokenizer.encode('', true, '')], []);
  t.equal(Buffer.from(tokenizer.tokenBytes(ACCENT, false)).toString(), 'é');
  t.equal(tokenizer.tokenBytes(END, false).length, 0);
  t.equal(Buffer.from(tokenizer.tokenBytes(END, true)).toString(), '<end>');
  t.equal(tokenizer.tokenBytes(-1, true).length + tokenizer.tokenBytes(260, true).length, 0);
});

t.test('break marks keep special tokens apart and never reach the ids', async (t) => {
  const tokenizer = addon.createTokenizer(tinySpec());
  const spelled = [...Buffer.from('<end>')];
  for (const mark of ['\ufdd0', '|', '\u{f0000}']) {
    for (let at = 1; at < 5; at++) {
      const text = `<end>${'<end>'.slice(0, at)}${mark}${'<end>'.slice(at)}<end>`;
      t.same([...tokenizer.encode(text, true, mark)], [END, ...spelled, END], `${mark} at ${at}`);
    }
    t.same([...tokenizer.encode(`${mark}<end>${mark}`, true, mark)], [END], 'around is not inside');
    t.same([...tokenizer.encode(`h${mark}e`, true, mark)], [HE], 'plain text merges across');
  }
});

t.test('lone surrogates become U+FFFD', async (t) => {
  const tokenizer = addon.createTokenizer(tinySpec());
  const replacement = [...Buffer.from('\ufffd')];
  t.same([...tokenizer.encode('\ud800', false, '')], replacement);
  t.same([...tokenizer.encode('a\udc00\ud83d', false, '')], [97, ...replacement, ...replacement]);
  t.same([...tokenizer.encode('\ud83d\ude00', false, '')], [...Buffer.from('😀')]);
});

t.test('wrong arguments are refused with a typed error', async (t) => {
  const tokenizer = addon.createTokenizer(tinySpec());
  const encode = tokenizer.encode as (...args: unknown[]) => unknown;
  const tokenBytes = tokenizer.tokenBytes as (...args: unknown[]) => unknown;
  const wrong = { code: 'ERR_INVALID_REQUEST', name: 'EngineError' };
  t.throws(() => encode(1, true, ''), wrong);
  t.throws(() => encode('a', 'yes', ''), wrong);
  t.throws(() => encode('a', true, 'ab'), wrong);
  t.throws(() => encode('a', true, '\ud800'), wrong);
  t.throws(() => encode('a', true), wrong);
  t.throws(() => tokenBytes('a', true), wrong);
  t.throws(() => tokenBytes(1), wrong);
  const create = addon.createTokenizer as (...args: unknown[]) => unknown;
  t.throws(() => create(), wrong);
  t.throws(() => create({ ...tinySpec(), tokenBytes: 'abc' }), { ...wrong, message: /tokenBytes/ });
  t.throws(() => create({ ...tinySpec(), tokenOffsets: new Int32Array(3) }), {
    ...wrong,
    message: /tokenOffsets/,
  });
  t.throws(() => create({ ...tinySpec(), ignoreMerges: 1 }), { ...wrong, message: /ignoreMerges/ });
  t.throws(() => addon.openTokenizer(999_999), wrong);
  const format = { code: 'ERR_MODEL_FORMAT' };
  t.throws(() => create(tinySpec({ tokenOffsets: new Uint32Array([0, 9, 3]) })), format);
  t.throws(() => create(tinySpec({ tokenTypes: new Uint8Array(260) })), format);
  t.throws(() => create(tinySpec({ unknownTokenId: 260 })), format);
  t.throws(() => create(tinySpec({ preTokenizer: 'bert' })), {
    code: 'ERR_UNSUPPORTED',
    message: /bert/,
  });
});

t.test('a worker thread opens the same tokenizer', async (t) => {
  const tokenizer = addon.createTokenizer(tinySpec());
  const source = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(workerData.addon).then(({ loadAddon }) => {
      const tokenizer = loadAddon().openTokenizer(workerData.id);
      parentPort.postMessage(tokenizer.encode('he<end>', true, ''));
    });`;
  const worker = new Worker(source, {
    eval: true,
    workerData: {
      id: tokenizer.id,
      addon: new URL('../../../src/binding/addon.js', import.meta.url).href,
    },
  });
  const ids = await new Promise<Int32Array>((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  t.same([...ids], [HE, END]);
  await worker.terminate();
  t.same([...tokenizer.encode('he', false, '')], [HE], 'and ours lives on');
});
