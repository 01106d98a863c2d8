/**
 * The model cache folder: where things lie in it, and how a file gets in. A file appears under its
 * final name complete and checked, or not at all: it is written beside as NAME.partial, which a
 * later pull may resume, and renamed. One lock file a target keeps concurrent pulls, of this or
 * another process, from writing the same partial.
 */
import { createHash, randomUUID } from 'node:crypto';
import {
  closeSync,
  createReadStream,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeSync,
} from 'node:fs';
import { homedir, hostname } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EngineError } from '../errors.js';
import { unavailable } from './model-error.js';

/** LONGHAUL_CACHE_DIR, or ~/.cache/longhaul (XDG_CACHE_HOME honored). */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  if (env.LONGHAUL_CACHE_DIR) return env.LONGHAUL_CACHE_DIR;
  const base = env.XDG_CACHE_HOME || join(homedir(), '.cache');
  return join(base, 'longhaul');
}

/** A path inside <cache>/models, from parts that come from users: each becomes one safe name. */
export function modelPath(cache: string, ...parts: string[]): string {
  const safe = parts.map((part) => {
    const name = part.replace(/[^A-Za-z0-9._+-]/g, '_');
    return name === '.' || name === '..' || name === '' ? `_${name}` : name;
  });
  return join(cache, 'models', ...safe);
}

const LOCK_TOUCH_MS = 5_000;
const LOCK_STALE_MS = 30_000;
const LOCK_POLL_MS = 100;

/**
 * Runs `work` while holding `<target>.lock`. Waits for another holder; takes a lock over whose
 * process is gone (same host) or which nobody touched for 30 s. Rejects when `signal` aborts.
 */
export async function withLock<T>(
  target: string,
  signal: AbortSignal,
  work: () => Promise<T>,
): Promise<T> {
  const lock = `${target}.lock`;
  makeFolder(dirname(target));
  const token = JSON.stringify({ pid: process.pid, host: hostname(), id: randomUUID() });
  while (!tryLock(lock, token)) {
    if (isStale(lock)) removeStale(lock);
    else await sleep(LOCK_POLL_MS, undefined, { signal });
  }
  const touch = setInterval(() => touchLock(lock), LOCK_TOUCH_MS);
  touch.unref();
  try {
    return await work();
  } finally {
    clearInterval(touch);
    if (readText(lock) === token) rmSync(lock, { force: true });
  }
}

function tryLock(lock: string, token: string): boolean {
  let fd: number;
  try {
    fd = openSync(lock, 'wx');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw storageError(lock, error);
  }
  writeSync(fd, token);
  closeSync(fd);
  return true;
}

function touchLock(lock: string): void {
  try {
    const now = new Date();
    utimesSync(lock, now, now);
  } catch {
    // Taken over after a long stop of this process: the rename at the end is still atomic.
  }
}

function isStale(lock: string): boolean {
  let ageMs: number;
  try {
    ageMs = Date.now() - statSync(lock).mtimeMs;
  } catch {
    return false; // gone: the next try decides
  }
  if (ageMs > LOCK_STALE_MS) return true;
  try {
    const holder = JSON.parse(readText(lock)) as { pid?: unknown; host?: unknown };
    if (holder.host !== hostname() || typeof holder.pid !== 'number') return false;
    process.kill(holder.pid, 0);
    return false;
  } catch (error) {
    // No such process. Unreadable content is a lock being written, which its age decides.
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Only one of several waiters wins the rename; a lock that was renewed meanwhile is put back. */
function removeStale(lock: string): void {
  const before = readText(lock);
  const aside = `${lock}.stale-${randomUUID()}`;
  try {
    renameSync(lock, aside);
    if (readText(aside) !== before) linkSync(aside, lock);
  } catch {
    // Another waiter was faster.
  } finally {
    rmSync(aside, { force: true });
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    throw storageError(path, error);
  }
}

export function fileSize(path: string): number | null {
  try {
    const status = statSync(path);
    return status.isFile() ? status.size : null;
  } catch {
    return null;
  }
}

/** sha256 of a file, hexadecimal, in constant memory. */
export async function sha256File(path: string, signal?: AbortSignal): Promise<string> {
  const hash = createHash('sha256');
  const options = { highWaterMark: 1 << 20, ...(signal ? { signal } : {}) };
  for await (const chunk of createReadStream(path, options)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/**
 * Checks `partial` and moves it to `target`. A file that fails its check is deleted: resuming it
 * could never succeed. Throws ERR_MODEL_UNAVAILABLE naming expected and found.
 */
export async function finishFile(
  partial: string,
  target: string,
  expected: { sha256?: string | undefined; bytes?: number | undefined },
  signal?: AbortSignal,
): Promise<void> {
  const bytes = fileSize(partial) ?? 0;
  if (expected.bytes !== undefined && bytes !== expected.bytes) {
    rmSync(partial, { force: true });
    throw unavailable(`${target}: expected ${expected.bytes} bytes, received ${bytes}`);
  }
  if (expected.sha256 !== undefined) {
    const found = await sha256File(partial, signal);
    if (found !== expected.sha256.toLowerCase()) {
      rmSync(partial, { force: true });
      throw unavailable(`${target}: expected sha256 ${expected.sha256}, received ${found}`);
    }
  }
  renameSync(partial, target);
}

/** Storage failures in words: the disk is full, the folder is not ours. */
export function storageError(path: string, error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const code = (error as NodeJS.ErrnoException | null)?.code;
  const reasons: Record<string, string> = {
    ENOSPC: 'the disk is full; free some space or set LONGHAUL_CACHE_DIR to another disk',
    EDQUOT: 'the disk quota is used up; set LONGHAUL_CACHE_DIR to another place',
    EACCES: 'permission denied; set LONGHAUL_CACHE_DIR to a folder you may write to',
    EROFS: 'the file system is read-only; set LONGHAUL_CACHE_DIR to one you may write to',
  };
  const reason =
    (code && reasons[code]) ?? (error instanceof Error ? error.message : String(error));
  return unavailable(`${path}: ${reason}`, error);
}
