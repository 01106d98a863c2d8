/**
 * One file over HTTP(S), resumed where it broke off. A resumed transfer carries If-Range with the
 * validator of the first one, so that a file replaced on the server is fetched anew instead of
 * being glued to old bytes.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EngineError } from '../errors.js';
import { fileSize, finishFile, makeFolder, modelPath, storageError, withLock } from './cache.js';
import { unavailable } from './model-error.js';
import { pullFetch } from './proxy.js';
import type { ExpectedFile, PullContext } from './pull-types.js';

const ATTEMPTS = 5;
const RETRY_FIRST_MS = 500;

/** Fetches `url` into the cache, or returns the copy that is there. */
export async function pullUrl(
  url: string,
  expected: ExpectedFile,
  context: PullContext,
): Promise<string> {
  const parsed = new URL(url);
  const name = basename(decodeURIComponent(parsed.pathname)) || 'model.gguf';
  const key = createHash('sha256').update(url).digest('hex').slice(0, 16);
  const target = modelPath(context.cache, 'url', key, name);
  await pullFile(url, target, {}, expected, context);
  return target;
}

/** Fetches `url` to `target` unless it exists. */
export async function pullFile(
  url: string,
  target: string,
  headers: Record<string, string>,
  expected: ExpectedFile,
  context: PullContext,
): Promise<void> {
  makeFolder(modelPath(context.cache));
  await withLock(target, context.signal, async () => {
    if (fileSize(target) !== null) return;
    const partial = `${target}.partial`;
    const total = await transfer(url, partial, headers, context, expected.bytes);
    const bytes = expected.bytes ?? total ?? undefined;
    await finishFile(partial, target, { sha256: expected.sha256, bytes }, context.signal);
    rmSync(`${partial}.validator`, { force: true });
  });
}

/** Retries with growing pauses while progress is possible. Returns the size the server named. */
async function transfer(
  url: string,
  partial: string,
  headers: Record<string, string>,
  context: PullContext,
  expectedBytes: number | undefined,
): Promise<number | null> {
  for (let attempt = 1; ; attempt++) {
    const before = fileSize(partial) ?? 0;
    try {
      return await transferOnce(url, partial, headers, context, expectedBytes);
    } catch (error) {
      if (context.signal.aborted || error instanceof EngineError) throw error;
      // An attempt that moved data starts the count anew: a flaky line still gets there.
      if ((fileSize(partial) ?? 0) > before) attempt = 1;
      if (attempt >= ATTEMPTS) throw unavailable(`${url}: ${causeOf(error)}`, error);
      await sleep(RETRY_FIRST_MS * 2 ** (attempt - 1), undefined, { signal: context.signal });
    }
  }
}

async function transferOnce(
  url: string,
  partial: string,
  headers: Record<string, string>,
  context: PullContext,
  expectedBytes: number | undefined,
): Promise<number | null> {
  const have = fileSize(partial) ?? 0;
  const validator = readValidator(partial);
  const resume = have > 0 && validator !== null;
  const range = resume ? { range: `bytes=${have}-`, 'if-range': validator } : {};
  const get = await pullFetch(context.env);
  const response = await get(url, { headers: { ...headers, ...range }, signal: context.signal });
  if (response.status === 416) {
    // Nothing after `have`: either complete, which the check decides, or not the same file.
    await response.body?.cancel();
    if (totalOf(response) === have) return have;
    rmSync(partial, { force: true });
    return transferOnce(url, partial, headers, context, expectedBytes);
  }
  if (!response.ok || !response.body) await refuse(url, response);
  const start = response.status === 206 ? startOf(response) : 0;
  if (start !== 0 && start !== have) throw new Error(`asked for byte ${have}, received ${start}`);
  const total = totalOf(response) ?? expectedBytes ?? null;
  context.onAnswer();
  writeValidator(partial, response);
  await writeBody(response, partial, start, total, context);
  return total;
}

async function refuse(url: string, response: Response): Promise<never> {
  await response.body?.cancel();
  const message = `${url}: HTTP ${response.status} ${response.statusText}`;
  // Busy and failing servers are asked again; "no such file" and "forbidden" are answers.
  if (response.status >= 500 || response.status === 429) throw new Error(message);
  throw unavailable(message);
}

async function writeBody(
  response: Response,
  partial: string,
  start: number,
  total: number | null,
  context: PullContext,
): Promise<void> {
  const label = basename(partial).replace(/\.partial$/, '');
  let fd: number;
  try {
    fd = openSync(partial, start === 0 ? 'w' : 'r+');
  } catch (error) {
    throw storageError(partial, error);
  }
  let done = start;
  try {
    for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) {
      writeAt(fd, partial, chunk, done);
      done += chunk.length;
      context.onProgress({ label, done, total });
    }
  } finally {
    closeSync(fd);
  }
  if (total !== null && done < total)
    throw new Error(`connection closed after ${done} of ${total} bytes`);
}

function writeAt(fd: number, path: string, chunk: Uint8Array, position: number): void {
  try {
    for (let done = 0; done < chunk.length; ) {
      done += writeSync(fd, chunk, done, chunk.length - done, position + done);
    }
  } catch (error) {
    throw storageError(path, error);
  }
}

function startOf(response: Response): number {
  const match = /^bytes (\d+)-/.exec(response.headers.get('content-range') ?? '');
  return match ? Number(match[1]) : 0;
}

function totalOf(response: Response): number | null {
  const match = /\/(\d+)$/.exec(response.headers.get('content-range') ?? '');
  if (match) return Number(match[1]);
  const length = response.headers.get('content-length');
  const plain = response.status === 200 && !response.headers.has('content-encoding');
  return plain && length !== null ? Number(length) : null;
}

/** Strong validators only: a weak one does not promise equal bytes. */
function writeValidator(partial: string, response: Response): void {
  const etag = response.headers.get('etag');
  const strong =
    etag !== null && !etag.startsWith('W/') ? etag : response.headers.get('last-modified');
  try {
    if (strong === null) rmSync(`${partial}.validator`, { force: true });
    else writeFileSync(`${partial}.validator`, strong);
  } catch (error) {
    throw storageError(partial, error);
  }
}

function readValidator(partial: string): string | null {
  try {
    return readFileSync(`${partial}.validator`, 'utf8');
  } catch {
    return null;
  }
}

/** fetch hides the reason in `cause`, that of a refused tunnel in the cause's. */
export function causeOf(error: unknown): string {
  const cause = (error as { cause?: unknown } | null)?.cause;
  if (cause instanceof Error && cause.message) return causeOf(cause);
  return error instanceof Error ? error.message : String(error);
}
