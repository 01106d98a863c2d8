import { truncateSync } from 'node:fs';
import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { readGguf } from '../../../src/models/gguf.js';
import { GGUF_TYPES } from '../../../src/models/gguf-format.js';
import { encodeGgufHeader, type GgufEntry, ggmlType } from '../../../src/models/gguf-writer.js';
import { StringTable } from '../../../src/models/string-table.js';
import { ggufBytes, writeBytes } from '../../support/write-gguf.js';

const T = GGUF_TYPES;

function refusal(path: string): EngineError {
  try {
    readGguf(path);
  } catch (error) {
    if (error instanceof EngineError) return error;
    throw error;
  }
  throw new Error('accepted');
}

t.test('every value type is read exactly', async (t) => {
  const metadata: GgufEntry[] = [
    ['u8', T.UINT8, 255],
    ['i8', T.INT8, -2],
    ['u16', T.UINT16, 65_535],
    ['i16', T.INT16, -300],
    ['u32', T.UINT32, 4_294_967_295],
    ['i32', T.INT32, -70_000],
    ['f32', T.FLOAT32, 0.5],
    ['bool', T.BOOL, true],
    ['text', T.STRING, 'caf\u00e9 \u{1f642}'],
    ['empty', T.STRING, ''],
    ['u64', T.UINT64, Number.MAX_SAFE_INTEGER],
    ['i64', T.INT64, -5],
    ['f64', T.FLOAT64, Math.PI],
    ['texts', T.STRING, ['', 'a', 'bc', '\u2581d']],
    ['no texts', T.STRING, StringTable.from([])],
    ['numbers', T.INT32, [1, -1, 7]],
    ['floats', T.FLOAT32, [0.25, -4]],
    ['flags', T.BOOL, [1, 0, 1]],
  ];
  const path = writeBytes(t.testdir(), 'a.gguf', ggufBytes(metadata, []));
  const { metadata: read, tensors, paths } = readGguf(path);
  t.same(paths, [path]);
  t.equal(tensors.size, 0);
  t.equal(read.get('u8'), 255);
  t.equal(read.get('i8'), -2);
  t.equal(read.get('u16'), 65_535);
  t.equal(read.get('i16'), -300);
  t.equal(read.get('u32'), 4_294_967_295);
  t.equal(read.get('i32'), -70_000);
  t.equal(read.get('f32'), 0.5);
  t.equal(read.get('bool'), true);
  t.equal(read.get('text'), 'caf\u00e9 \u{1f642}');
  t.equal(read.get('empty'), '');
  t.equal(read.get('u64'), Number.MAX_SAFE_INTEGER);
  t.equal(read.get('i64'), -5);
  t.equal(read.get('f64'), Math.PI);
  const texts = read.get('texts') as StringTable;
  t.same([texts.text(0), texts.text(1), texts.text(2), texts.text(3)], ['', 'a', 'bc', '\u2581d']);
  t.equal(texts.indexOf('bc'), 2);
  t.equal(texts.indexOf('b'), -1);
  t.equal((read.get('no texts') as StringTable).length, 0);
  t.same(read.get('numbers'), Int32Array.of(1, -1, 7));
  t.same(read.get('floats'), Float32Array.of(0.25, -4));
  t.same(read.get('flags'), Uint8Array.of(1, 0, 1));
  t.equal(read.size, metadata.length);
});

t.test('tensors: absolute offsets, sizes of every type, another alignment', async (t) => {
  const bytes = ggufBytes(
    [['general.alignment', T.UINT32, 64]],
    [
      { name: 'a', dtype: 'F32', dims: [3] },
      { name: 'b', dtype: 'Q4_K', dims: [512, 2] },
      { name: 'c', dtype: 'BF16', dims: [2, 3, 4, 5] },
      { name: 'd', dtype: 'Q6_K', dims: [256] },
      { name: 'e', dtype: 'Q5_1', dims: [64, 3] },
    ],
    64,
  );
  const { tensors } = readGguf(writeBytes(t.testdir(), 'a.gguf', bytes));
  const data = bytes.length - (64 + 576 + 256 + 256 + 192);
  t.equal(data % 64, 0);
  t.same(
    [...tensors.values()].map((tensor) => [
      tensor.name,
      tensor.dtype,
      tensor.offset - data,
      tensor.bytes,
    ]),
    [
      ['a', 'F32', 0, 12],
      ['b', 'Q4_K', 64, 576],
      ['c', 'BF16', 640, 240],
      ['d', 'Q6_K', 896, 210],
      ['e', 'Q5_1', 1152, 144],
    ],
  );
});

t.test('a large string table needs no object per string', async (t) => {
  const texts = Array.from({ length: 100_000 }, (_, i) => `token ${i}`);
  const path = writeBytes(t.testdir(), 'a.gguf', ggufBytes([['texts', T.STRING, texts]], []));
  const table = readGguf(path).metadata.get('texts') as StringTable;
  t.equal(table.length, 100_000);
  t.equal(table.text(0), 'token 0');
  t.equal(table.text(99_999), 'token 99999');
  t.equal(table.bytes.length, Buffer.byteLength(texts.join('')));
});

t.test('hostile files are refused with place, expected and found', async (t) => {
  const folder = t.testdir();
  let number = 0;
  const check = (name: string, bytes: Uint8Array, ...parts: Array<string | RegExp>): void => {
    const error = refusal(writeBytes(folder, `${number++}.gguf`, bytes));
    t.equal(error.code, 'ERR_MODEL_FORMAT', name);
    for (const part of parts) t.match(error.message, part, `${name}: ${part}`);
  };
  const u64 = (bytes: Buffer, offset: number, value: bigint): Buffer => {
    bytes.writeBigUInt64LE(value, offset);
    return bytes;
  };
  const u32 = (bytes: Buffer, offset: number, value: number): Buffer => {
    bytes.writeUInt32LE(value, offset);
    return bytes;
  };
  const plain = (): Buffer =>
    ggufBytes([['key', T.STRING, 'value']], [{ name: 't', dtype: 'F32', dims: [8] }]);

  check('empty', Buffer.alloc(0), 'magic', 'expected 4 more bytes, found 0');
  check('magic', u32(plain(), 0, 0x12345678), 'magic at offset 0', '0x12345678');
  check('version 1', u32(plain(), 4, 1), 'version at offset 4', 'found 1');
  check('big-endian', u32(plain(), 4, 0x0300_0000), 'big-endian');
  check('tensor count', u64(plain(), 8, 1n << 40n), 'tensor count', /until the end of the file/);
  check(
    'tensor count 2^64-1',
    u64(plain(), 8, (1n << 64n) - 1n),
    'tensor count',
    '18446744073709551615',
  );
  check('metadata count', u64(plain(), 16, 1_000_000n), 'metadata count 1000000');
  check(
    'key length 2^63',
    u64(plain(), 24, 1n << 63n),
    'length of metadata key 0 at offset 24',
    '9223372036854775808',
  );
  check('key length 0', u64(plain(), 24, 0n), 'length of metadata key 0', 'found 0');
  check(
    'key length over the file',
    u64(plain(), 24, 60_000n),
    'metadata key 0',
    '60000 more bytes',
  );
  check(
    'value type',
    u32(plain(), 35, 13),
    'type of metadata "key" at offset 35',
    'expected 0 to 12, found 13',
  );
  check('string length 2^63', u64(plain(), 39, 1n << 63n), 'metadata "key"', '9223372036854775808');
  check(
    'string length over the file',
    u64(plain(), 39, 1n << 33n),
    'metadata "key"',
    '8589934592 more bytes',
  );

  const array = (): Buffer => ggufBytes([['a', T.STRING, ['x', 'y']]], []);
  // key length 8, key 1, type 4: the element type is at 37, the count at 41, the first length at 49.
  check('array element type', u32(array(), 37, 99), 'elements of metadata "a"', 'found 99');
  check('array count', u64(array(), 41, 1n << 32n), 'metadata "a" (4294967296 elements)');
  check(
    'array of 2^61 strings',
    u64(array(), 41, 1n << 61n),
    'metadata "a"',
    '2305843009213693952',
  );
  check('array string length', u64(array(), 49, 1n << 62n), 'metadata "a"', '4611686018427387904');

  check(
    'duplicate key',
    ggufBytes(
      [
        ['k', T.UINT8, 1],
        ['k', T.UINT8, 2],
      ],
      [],
    ),
    'metadata "k"',
    'the same key again',
  );
  for (const alignment of [0, 7, 24, 131_072]) {
    const bytes = encodeGgufHeader([['general.alignment', T.UINT32, alignment]], []);
    check(`alignment ${alignment}`, bytes, 'general.alignment', `found ${alignment}`);
  }

  const tensor = (
    changes: Partial<{ name: string; type: number; dims: number[]; offset: number }>,
  ): Buffer =>
    Buffer.concat([
      encodeGgufHeader([], [{ name: 't', type: 0, dims: [8], offset: 0, ...changes }]),
      Buffer.alloc(32),
    ]);
  check('no dimensions', tensor({ dims: [] }), 'dimensions of tensor "t"', 'found 0');
  check(
    'five dimensions',
    tensor({ dims: [1, 1, 1, 1, 1] }),
    'dimensions of tensor "t"',
    'found 5',
  );
  check('dimension 0', tensor({ dims: [0] }), 'dimension 0 of tensor "t"', 'found 0');
  check(
    'dimension 2^40',
    tensor({ dims: [2 ** 40] }),
    'dimension 0 of tensor "t"',
    '1099511627776',
  );
  check(
    'size overflow',
    tensor({ dims: [2 ** 30, 2 ** 30, 2 ** 30, 2 ** 30] }),
    'size of tensor "t"',
    'F32',
  );
  check('unknown type', tensor({ type: 77 }), 'type of tensor "t"', 'unknown type 77');
  check(
    'unsupported type by name',
    tensor({ type: 16 }),
    'type of tensor "t"',
    'found IQ2_XXS',
    'Q6_K',
  );
  check('removed type', tensor({ type: 4 }), 'unknown type 4');
  check(
    'part of a block',
    tensor({ type: ggmlType('Q8_0'), dims: [33] }),
    'a multiple of 32 for Q8_0',
    'found 33',
  );
  check('unaligned', tensor({ offset: 4 }), 'offset of tensor "t"', 'a multiple of 32, found 4');
  check('past the end', tensor({ offset: 32 }), 'offset of tensor "t"', '32 bytes inside');
  check('offset 2^60', tensor({ offset: 2 ** 60 }), 'offset of tensor "t"');
  check(
    'name of 2000 bytes',
    tensor({ name: 'n'.repeat(2000) }),
    'length of tensor 0',
    'found 2000',
  );

  const two = (second: number): Buffer =>
    Buffer.concat([
      encodeGgufHeader(
        [],
        [
          { name: 'a', type: 0, dims: [16], offset: 0 },
          { name: 'b', type: 0, dims: [8], offset: second },
        ],
      ),
      Buffer.alloc(96),
    ]);
  check('overlap', two(32), 'tensor "b"', 'no overlap with tensor "a"');
  check('same place', two(0), 'no overlap');
  t.equal(readGguf(writeBytes(folder, 'fine.gguf', two(64))).tensors.size, 2);
  const twice = encodeGgufHeader(
    [],
    [
      { name: 'a', type: 0, dims: [8], offset: 0 },
      { name: 'a', type: 0, dims: [8], offset: 32 },
    ],
  );
  check(
    'duplicate tensor',
    Buffer.concat([twice, Buffer.alloc(64)]),
    'tensor "a"',
    'the same name again',
  );
});

t.test('every truncation of a header is refused, none crashes', async (t) => {
  const whole = ggufBytes(
    [
      ['key', T.STRING, 'value'],
      ['list', T.STRING, ['a', 'bb']],
      ['numbers', T.UINT64, [1, 2]],
    ],
    [{ name: 't', dtype: 'F32', dims: [8] }],
  );
  const path = writeBytes(t.testdir(), 'a.gguf', whole);
  readGguf(path);
  for (let size = whole.length - 1; size >= 0; size--) {
    truncateSync(path, size);
    t.equal(refusal(path).code, 'ERR_MODEL_FORMAT', `${size} bytes`);
  }
});

t.test('nested arrays are read to a depth and refused beyond it', async (t) => {
  const nested = (depth: number): Buffer => {
    const entry = (type: number, count: number): Buffer => {
      const bytes = Buffer.alloc(12);
      bytes.writeUInt32LE(type, 0);
      bytes.writeBigUInt64LE(BigInt(count), 4);
      return bytes;
    };
    const header = encodeGgufHeader([['n', T.UINT32, [1]]], []).subarray(0, 24 + 8 + 1 + 4);
    const chain = Array.from({ length: depth }, () => entry(T.ARRAY, 1));
    return Buffer.concat([
      header,
      ...chain,
      entry(T.UINT8, 2),
      Buffer.from([7, 9]),
      Buffer.alloc(64),
    ]);
  };
  const folder = t.testdir();
  t.same(readGguf(writeBytes(folder, 'a.gguf', nested(1))).metadata.get('n'), [
    Uint8Array.of(7, 9),
  ]);
  t.match(refusal(writeBytes(folder, 'b.gguf', nested(40))).message, 'nested at most 4 deep');
});

t.test('split files: any part opens all, in order', async (t) => {
  const folder = t.testdir();
  const part = (number: number, names: string[], extra: GgufEntry[] = []): Buffer =>
    ggufBytes(
      [
        ['split.no', T.UINT16, number],
        ['split.count', T.UINT16, 2],
        ['split.tensors.count', T.INT32, 3],
        ...extra,
      ],
      names.map((name) => ({ name, dtype: 'F32' as const, dims: [8] })),
    );
  const first = writeBytes(
    folder,
    'm-00001-of-00002.gguf',
    part(0, ['a'], [['general.name', T.STRING, 'whole']]),
  );
  t.match(refusal(first).message, 'm-00002-of-00002.gguf');
  const second = writeBytes(folder, 'm-00002-of-00002.gguf', part(1, ['b', 'c']));
  for (const path of [first, second]) {
    const gguf = readGguf(path);
    t.same(gguf.paths, [first, second]);
    t.equal(gguf.metadata.get('general.name'), 'whole');
    t.same(
      [...gguf.tensors.values()].map(({ name, file }) => [name, file]),
      [
        ['a', 0],
        ['b', 1],
        ['c', 1],
      ],
    );
  }
  writeBytes(folder, 'm-00002-of-00002.gguf', part(0, ['b', 'c']));
  t.match(refusal(first).message, /split\.no: expected 1, found 0/);
  writeBytes(folder, 'm-00002-of-00002.gguf', part(1, ['a', 'c']));
  t.match(refusal(first).message, 'the same name again');
  writeBytes(folder, 'm-00002-of-00002.gguf', part(1, ['b']));
  t.match(
    refusal(first).message,
    /split\.tensors\.count: expected 3 tensors in all parts, found 2/,
  );
  t.match(refusal(writeBytes(folder, 'renamed.gguf', part(0, ['a']))).message, 'split.count');
});

t.test('what is not a file is refused', async (t) => {
  const folder = t.testdir();
  t.throws(() => readGguf(`${folder}/none.gguf`), { code: 'ERR_MODEL_UNAVAILABLE' });
  t.throws(() => readGguf(folder), { code: 'ERR_MODEL_FORMAT' });
});
