import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { EngineError } from '../../../src/errors.js';
import { readSafetensors, readSafetensorsFolder } from '../../../src/models/safetensors.js';
import { writeBytes } from '../../support/write-gguf.js';
import { rawSafetensors, safetensorsBytes } from '../../support/write-safetensors.js';

function refusal(path: string): EngineError {
  try {
    readSafetensors([path]);
  } catch (error) {
    if (error instanceof EngineError) return error;
    throw error;
  }
  throw new Error('accepted');
}

t.test('offsets, shapes and types, exactly', async (t) => {
  const bytes = safetensorsBytes(
    {
      a: { dtype: 'F32', shape: [2, 3] },
      b: { dtype: 'BF16', shape: [5] },
      c: { dtype: 'F16', shape: [] },
      d: { dtype: 'F32', shape: [0, 4] },
    },
    { format: 'pt' },
  );
  const { tensors } = readSafetensors([writeBytes(t.testdir(), 'a.safetensors', bytes)]);
  const data = bytes.length - 36;
  t.same(
    [...tensors.values()],
    [
      { name: 'a', dtype: 'F32', shape: [2, 3], file: 0, offset: data, bytes: 24 },
      { name: 'b', dtype: 'BF16', shape: [5], file: 0, offset: data + 24, bytes: 10 },
      { name: 'c', dtype: 'F16', shape: [], file: 0, offset: data + 34, bytes: 2 },
      { name: 'd', dtype: 'F32', shape: [0, 4], file: 0, offset: data + 36, bytes: 0 },
    ],
  );
});

t.test('a sharded checkpoint', async (t) => {
  const folder = t.testdir();
  const one = 'model-00001-of-00002.safetensors';
  const two = 'model-00002-of-00002.safetensors';
  writeBytes(folder, one, safetensorsBytes({ a: { dtype: 'F32', shape: [2] } }));
  writeBytes(folder, two, safetensorsBytes({ b: { dtype: 'F32', shape: [3] } }));
  const index = (map: unknown): void =>
    writeFileSync(
      join(folder, 'model.safetensors.index.json'),
      JSON.stringify({ weight_map: map }),
    );
  index({ b: two, a: one });
  const files = readSafetensorsFolder(folder);
  t.same(files.paths, [join(folder, one), join(folder, two)]);
  t.same(
    [...files.tensors.values()].map(({ name, file }) => [name, file]),
    [
      ['a', 0],
      ['b', 1],
    ],
  );

  const refuse = (map: unknown, message: RegExp): void => {
    index(map);
    t.throws(() => readSafetensorsFolder(folder), { code: 'ERR_MODEL_FORMAT', message });
  };
  refuse({ a: one, b: one }, /tensor "b": expected a tensor of model-00001.*, found none/);
  refuse({ a: two, b: one }, /tensor "a".*found one in model-00001/);
  refuse({ a: '../elsewhere.safetensors' }, /weight_map of "a": expected a file name/);
  refuse({ a: '/etc/passwd' }, /weight_map of "a"/);
  refuse({ a: '..' }, /weight_map of "a"/);
  refuse({ a: 7 }, /weight_map of "a".*found 7/);
  refuse({}, /weight_map: expected tensors/);
  refuse([], /weight_map: expected an object/);
  index({ a: one, b: 'model-00003-of-00002.safetensors' });
  t.throws(() => readSafetensorsFolder(folder), { code: 'ERR_MODEL_UNAVAILABLE' });
  writeBytes(
    folder,
    two,
    safetensorsBytes({ a: { dtype: 'F32', shape: [3] }, b: { dtype: 'F32', shape: [3] } }),
  );
  refuse({ a: one, b: two }, /tensor "a".*the same name again/);
});

t.test('hostile headers are refused with tensor, expected and found', async (t) => {
  const folder = t.testdir();
  let number = 0;
  const check = (bytes: Uint8Array, message: RegExp): void => {
    const error = refusal(writeBytes(folder, `${number++}.safetensors`, bytes));
    t.equal(error.code, 'ERR_MODEL_FORMAT');
    t.match(error.message, message);
  };
  const entry = (value: unknown, dataBytes = 64): Buffer =>
    rawSafetensors(JSON.stringify({ t: value }), dataBytes);
  const good = { dtype: 'F32', shape: [4], data_offsets: [0, 16] };

  check(Buffer.alloc(0), /header length.*8 more bytes/);
  const length = (value: bigint): Buffer => {
    const bytes = entry(good);
    bytes.writeBigUInt64LE(value);
    return bytes;
  };
  check(length((1n << 64n) - 1n), /header length at offset 0.*18446744073709551615/);
  check(length(1n << 40n), /header length.*at most 100000000, found 1099511627776/);
  check(length(90_000_000n), /header.*90000000 more bytes/);
  check(length(5n), /header at offset 8: expected JSON/);
  check(rawSafetensors('[1]', 0), /header.*an object/);
  check(rawSafetensors('null', 0), /header.*an object/);
  check(entry(7), /entry of tensor "t".*an object, found 7/);
  check(entry({ ...good, dtype: 'F64' }), /dtype of tensor "t".*F32, F16, BF16, found "F64"/);
  check(entry({ ...good, dtype: 'toString' }), /dtype of tensor "t"/);
  check(entry({ ...good, shape: [-4] }), /shape of tensor "t"/);
  check(entry({ ...good, shape: [1.5] }), /shape of tensor "t"/);
  check(entry({ ...good, shape: '4' }), /shape of tensor "t"/);
  check(entry({ ...good, shape: [1, 1, 1, 1, 1, 1, 1, 1, 4] }), /shape of tensor "t"/);
  check(
    entry({ ...good, data_offsets: [16, 0] }),
    /data_offsets of tensor "t".*a range of 16 bytes/,
  );
  check(entry({ ...good, data_offsets: [0, 15] }), /a range of 16 bytes, found "0 to 15"/);
  check(entry({ ...good, data_offsets: [0] }), /two whole numbers/);
  check(
    entry({ ...good, data_offsets: [64, 80] }),
    /data_offsets of tensor "t".*an end within the file/,
  );
  check(entry({ ...good, shape: [2 ** 40, 2 ** 40], data_offsets: [0, 16] }), /a range of \d/);
  check(
    rawSafetensors(JSON.stringify({ a: good, b: { ...good, data_offsets: [12, 28] } }), 64),
    /tensor "b".*no overlap with tensor "a", which ends at/,
  );
  check(
    rawSafetensors(`{"__proto__": ${JSON.stringify({ ...good, dtype: 'Q4' })}}`, 64),
    /tensor "__proto__"/,
  );
});

t.test('every truncation is refused', async (t) => {
  const folder = t.testdir();
  mkdirSync(folder, { recursive: true });
  const whole = safetensorsBytes({ a: { dtype: 'F32', shape: [2, 3] } });
  const path = writeBytes(folder, 'a.safetensors', whole);
  readSafetensors([path]);
  for (let size = whole.length - 1; size >= 0; size--) {
    truncateSync(path, size);
    t.equal(refusal(path).code, 'ERR_MODEL_FORMAT', `${size} bytes`);
  }
});
