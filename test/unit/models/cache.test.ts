import { existsSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import t from 'tap';
import {
  cacheFolder,
  finishFile,
  modelPath,
  sha256File,
  storageError,
  withLock,
} from '../../../src/models/cache.js';

const signal = new AbortController().signal;

t.test('where the cache is', async (t) => {
  t.equal(cacheFolder({ LONGHAUL_CACHE_DIR: '/x' }), '/x');
  t.equal(cacheFolder({ XDG_CACHE_HOME: '/y' }), '/y/longhaul');
  t.match(cacheFolder({}), /\.cache\/longhaul$/);
});

t.test('names from users cannot leave the cache', async (t) => {
  t.equal(modelPath('/c', 'hf', 'org', 'repo'), '/c/models/hf/org/repo');
  t.equal(modelPath('/c', '..', '../../etc', '.', ''), '/c/models/_../.._.._etc/_./_');
  t.equal(modelPath('/c', 'refs/pr/1', 'a b\0c'), '/c/models/refs_pr_1/a_b_c');
});

t.test('one holder at a time; the lock is gone afterwards', async (t) => {
  const target = join(t.testdir(), 'sub', 'm.gguf');
  let inside = 0;
  let most = 0;
  const order: number[] = [];
  await Promise.all(
    [0, 1, 2, 3].map((i) =>
      withLock(target, signal, async () => {
        inside += 1;
        most = Math.max(most, inside);
        await sleep(20);
        order.push(i);
        inside -= 1;
      }),
    ),
  );
  t.equal(most, 1);
  t.same([...order].sort(), [0, 1, 2, 3]);
  t.same(readdirSync(join(target, '..')), []);
  await t.rejects(
    withLock(target, signal, async () => Promise.reject(new Error('inside'))),
    /inside/,
  );
  t.notOk(existsSync(`${target}.lock`), 'released after a failure');
});

t.test('locks of the dead are taken over, those of the living are not', async (t) => {
  const target = join(t.testdir(), 'm.gguf');
  const lock = `${target}.lock`;
  const write = (pid: number, host: string): void =>
    writeFileSync(lock, JSON.stringify({ pid, host, id: 'x' }));
  write(2 ** 22 + 7, hostname()); // above Linux' largest pid
  t.equal(await withLock(target, signal, async () => 'dead process'), 'dead process');

  write(1, 'another-host');
  const old = new Date(Date.now() - 60_000);
  utimesSync(lock, old, old);
  t.equal(
    await withLock(target, signal, async () => 'untouched for a minute'),
    'untouched for a minute',
  );

  write(process.pid, hostname());
  const waiting = new AbortController();
  const attempt = withLock(target, waiting.signal, async () => 'stolen');
  setTimeout(() => waiting.abort(), 300);
  await t.rejects(attempt, { name: 'AbortError' });
  t.equal(JSON.parse(readFileSync(lock, 'utf8')).pid, process.pid, 'still the first holder’s');
});

t.test('a file gets its name only when it is right', async (t) => {
  const folder = t.testdir();
  const partial = join(folder, 'm.partial');
  const target = join(folder, 'm');
  const sha256 = 'b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9';
  const write = (): void => writeFileSync(partial, 'hello world');
  write();
  t.equal(await sha256File(partial), sha256);
  await t.rejects(finishFile(partial, target, { bytes: 12 }), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /expected 12 bytes, received 11/,
  });
  t.notOk(existsSync(partial), 'a wrong file is not resumed');
  write();
  await t.rejects(
    finishFile(partial, target, { sha256: '0'.repeat(64) }),
    /expected sha256 0{64}, received b94d27/,
  );
  t.same(readdirSync(folder), []);
  write();
  await finishFile(partial, target, { sha256: sha256.toUpperCase(), bytes: 11 });
  t.same(readdirSync(folder), ['m']);
});

t.test('storage failures say what to do', async (t) => {
  const full = storageError('/c/m', Object.assign(new Error('x'), { code: 'ENOSPC' }));
  t.same(
    [full.code, full.message],
    [
      'ERR_MODEL_UNAVAILABLE',
      '/c/m: the disk is full; free some space or set LONGHAUL_CACHE_DIR to another disk',
    ],
  );
  t.match(
    storageError('/c', Object.assign(new Error('x'), { code: 'EACCES' })).message,
    'permission denied',
  );
  t.equal(storageError('/c', full), full);
  t.equal(storageError('/c', new Error('odd')).message, '/c: odd');
});
