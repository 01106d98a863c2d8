import { truncateSync } from 'node:fs';
import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { entryChunks, readEntryText, readZip } from '../../../src/models/zip.js';
import { writeBytes } from '../../support/write-gguf.js';
import { type TestZipEntry, zipBytes } from '../../support/write-zip.js';

const signal = new AbortController().signal;
const big = Buffer.alloc(3_000_000, 'longhaul ');

async function content(path: string, name: string): Promise<Buffer> {
  const entry = readZip(path).find((candidate) => candidate.name === name)!;
  const chunks: Buffer[] = [];
  for await (const chunk of entryChunks(path, entry, signal)) chunks.push(chunk);
  return Buffer.concat(chunks);
}

t.test('stored and deflated entries, with and without ZIP64', async (t) => {
  const folder = t.testdir();
  for (const zip64 of [false, true]) {
    const entries: TestZipEntry[] = [
      { name: 'a/stored.txt', data: Buffer.from('hello') },
      { name: 'a/deflated.bin', data: big, deflate: true },
      { name: 'empty', data: Buffer.alloc(0) },
    ];
    const path = writeBytes(folder, `${zip64}.zip`, zipBytes(entries, { zip64 }));
    t.same(
      readZip(path).map(({ name, method, bytes }) => [name, method, bytes]),
      [
        ['a/stored.txt', 0, 5],
        ['a/deflated.bin', 8, big.length],
        ['empty', 0, 0],
      ],
    );
    t.equal((await content(path, 'a/stored.txt')).toString(), 'hello');
    t.ok((await content(path, 'a/deflated.bin')).equals(big));
    t.equal((await content(path, 'empty')).length, 0);
    t.equal(await readEntryText(path, readZip(path)[0]!, signal), 'hello');
  }
});

t.test('a comment after the directory is allowed', async (t) => {
  const bytes = Buffer.concat([
    zipBytes([{ name: 'a', data: Buffer.from('x') }]),
    Buffer.from('comment'),
  ]);
  t.equal((await content(writeBytes(t.testdir(), 'a.zip', bytes), 'a')).toString(), 'x');
});

t.test('damaged content is refused while it is read', async (t) => {
  const folder = t.testdir();
  const data = Buffer.from('hello hello hello');
  const refuse = async (entry: Partial<TestZipEntry>, message: RegExp): Promise<void> => {
    const path = writeBytes(folder, 'a.zip', zipBytes([{ name: 'a', data, ...entry }]));
    await t.rejects(content(path, 'a'), { code: 'ERR_MODEL_FORMAT', message });
  };
  await refuse({ crc: 1 }, /entry a: expected CRC-32 1/);
  await refuse({ crc: 1, deflate: true }, /CRC-32/);
  await refuse({ bytes: 5, deflate: true }, /expected 5 bytes, found more/);
  await refuse({ bytes: 100 }, /expected 100 bytes, found 17/);
  await refuse({ method: 8 }, /deflated data/);
  await refuse({ method: 12 }, /stored or deflated data, found method 12/);
});

t.test('every truncation of an archive is refused', async (t) => {
  const bytes = zipBytes([{ name: 'a', data: Buffer.from('hello'), deflate: true }], {
    zip64: true,
  });
  const path = writeBytes(t.testdir(), 'a.zip', bytes);
  for (let size = bytes.length - 1; size >= 0; size -= 3) {
    truncateSync(path, size);
    t.throws(() => readZip(path), EngineError, `${size} bytes`);
  }
});

t.test('an aborted read stops', async (t) => {
  const path = writeBytes(t.testdir(), 'a.zip', zipBytes([{ name: 'a', data: big }]));
  const controller = new AbortController();
  const entry = readZip(path)[0]!;
  await t.rejects(
    async () => {
      for await (const _ of entryChunks(path, entry, controller.signal)) controller.abort();
    },
    { name: 'AbortError' },
  );
});
