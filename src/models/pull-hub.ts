/**
 * Models of the Hugging Face hub, through @huggingface/hub: one file, a split GGUF, or a checkpoint
 * folder. HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honored; transfers resume.
 */

import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import type { ListFileEntry } from '@huggingface/hub';
import { EngineError } from '../errors.js';
import { fileSize, finishFile, makeFolder, modelPath, storageError, withLock } from './cache.js';
import { unavailable } from './model-error.js';
import { pullFetch } from './proxy.js';
import type { ExpectedFile, PullContext } from './pull-types.js';
import { causeOf } from './pull-url.js';

export interface HubSource {
  repo: string;
  revision: string;
  /** Path in the repository; null lets the repository decide: its only .gguf, or its checkpoint. */
  file: string | null;
}

const CHECKPOINT_FILES =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|chat_template|model\.safetensors\.index)\.json$|^chat_template\.jinja$|^model(-\d{5}-of-\d{5})?\.safetensors$/;
const SPLIT_PART = /-(\d{5})-of-(\d{5})\.gguf$/;

/** Returns the local file or folder. Throws ERR_MODEL_UNAVAILABLE. */
export async function pullHub(
  source: HubSource,
  expected: ExpectedFile,
  context: PullContext,
): Promise<string> {
  const folder = hubFolder(source, context.cache);
  const cached = cachedCopy(source, folder);
  if (cached !== null) return cached;
  if (isOffline(context.env)) {
    throw unavailable(`hf:${source.repo}: not in the cache, and HF_HUB_OFFLINE is set`);
  }
  try {
    const files = choose(await list(source, context), source);
    context.onAnswer();
    for (const file of files) await pullOne(source, file, folder, expected, context);
    const names = files.map((file) => file.path);
    if (source.file === null) writeFileSync(join(folder, SELECTION), JSON.stringify(names));
    return modelOf(
      folder,
      names.map((name) => localPath(folder, name)),
    );
  } catch (error) {
    if (context.signal.aborted || error instanceof EngineError) throw error;
    throw unavailable(`hf:${source.repo}: ${causeOf(error)}`, error);
  }
}

export function isOffline(env: NodeJS.ProcessEnv): boolean {
  return /^(1|true|yes|on)$/i.test(env.HF_HUB_OFFLINE ?? '');
}

function hubFolder(source: HubSource, cache: string): string {
  return modelPath(cache, 'hf', ...source.repo.split('/'), source.revision);
}

function localPath(folder: string, path: string): string {
  return join(folder, ...path.split('/').map((part) => part.replace(/[^A-Za-z0-9._+-]/g, '_')));
}

/** Says which files a source that names none stood for, once they are all here. */
const SELECTION = 'selection.json';

/** What an earlier pull of the same source left, complete. */
function cachedCopy(source: HubSource, folder: string): string | null {
  if (source.file !== null) {
    const path = localPath(folder, source.file);
    return partNames(path).every((part) => fileSize(part) !== null) ? path : null;
  }
  try {
    const selection: unknown = JSON.parse(readFileSync(join(folder, SELECTION), 'utf8'));
    if (!Array.isArray(selection) || selection.length === 0) return null;
    const paths = selection.map((path) => localPath(folder, String(path)));
    return paths.every((path) => fileSize(path) !== null) ? modelOf(folder, paths) : null;
  } catch {
    return null;
  }
}

/** A .gguf file (the first part of a split one), or the folder of a checkpoint. */
function modelOf(folder: string, paths: readonly string[]): string {
  return paths[0]!.endsWith('.gguf') ? paths[0]! : folder;
}

function partNames(path: string): string[] {
  const match = SPLIT_PART.exec(path);
  if (!match) return [path];
  const stem = path.slice(0, match.index);
  return Array.from(
    { length: Number(match[2]) },
    (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${match[2]}.gguf`,
  );
}

/** The hub client's parameters that say where and as whom. */
function access(source: HubSource, context: PullContext) {
  const token = context.env.HF_TOKEN;
  const endpoint = context.env.HF_ENDPOINT;
  return {
    repo: { type: 'model' as const, name: source.repo },
    revision: source.revision,
    ...(token ? { accessToken: token } : {}),
    ...(endpoint ? { hubUrl: endpoint.replace(/\/$/, '') } : {}),
    fetch: (async (input: string | URL, init?: RequestInit) => {
      const get = await pullFetch(context.env);
      return get(input, { ...init, signal: context.signal });
    }) as typeof fetch,
  };
}

async function list(source: HubSource, context: PullContext): Promise<ListFileEntry[]> {
  const { listFiles } = await import('@huggingface/hub');
  const entries: ListFileEntry[] = [];
  for await (const entry of listFiles({ ...access(source, context), recursive: true })) {
    if (entry.type === 'file') entries.push(entry);
  }
  return entries;
}

function choose(entries: ListFileEntry[], source: HubSource): ListFileEntry[] {
  const named = (path: string): ListFileEntry => {
    const entry = entries.find((candidate) => candidate.path === path);
    if (entry) return entry;
    throw unavailable(`hf:${source.repo}: no file ${path} at revision ${source.revision}`);
  };
  if (source.file !== null) return partNames(source.file).map(named);
  const ggufs = entries.filter((entry) => entry.path.endsWith('.gguf')).map((entry) => entry.path);
  const firsts = ggufs.filter((path) => (SPLIT_PART.exec(path)?.[1] ?? '00001') === '00001');
  if (firsts.length === 1) return partNames(firsts[0]!).map(named);
  if (firsts.length > 1) {
    throw unavailable(
      `hf:${source.repo} holds ${firsts.length} models; name one as hf:${source.repo}:FILE, of ${firsts.slice(0, 12).join(', ')}`,
    );
  }
  const files = entries.filter((entry) => CHECKPOINT_FILES.test(entry.path));
  const whole =
    files.some((file) => file.path.endsWith('.safetensors')) &&
    files.some((file) => file.path === 'config.json');
  if (!whole)
    throw unavailable(`hf:${source.repo}: neither a .gguf file nor config.json with safetensors`);
  return files;
}

async function pullOne(
  source: HubSource,
  file: ListFileEntry,
  folder: string,
  expected: ExpectedFile,
  context: PullContext,
): Promise<void> {
  const target = localPath(folder, file.path);
  makeFolder(dirname(target));
  await withLock(target, context.signal, async () => {
    if (fileSize(target) !== null) return;
    const partial = `${target}.partial`;
    await transfer(source, file, partial, context);
    const sha256 = expected.sha256 ?? file.lfs?.oid;
    await finishFile(
      partial,
      target,
      { sha256, bytes: file.lfs?.size ?? file.size },
      context.signal,
    );
  });
}

/** Appends what is missing; content addressing makes a resumed file checkable as a whole. */
async function transfer(
  source: HubSource,
  file: ListFileEntry,
  partial: string,
  context: PullContext,
): Promise<void> {
  const { downloadFile } = await import('@huggingface/hub');
  const total = file.lfs?.size ?? file.size;
  let done = fileSize(partial) ?? 0;
  // Without a content hash old bytes cannot be told from new ones: start over.
  if (!file.lfs || done > total) done = 0;
  if (done === total && total > 0) return;
  const blob = await downloadFile({ ...access(source, context), path: file.path });
  if (!blob) throw unavailable(`hf:${source.repo}: no file ${file.path}`);
  const body = done > 0 ? blob.slice(done) : blob;
  let fd: number;
  try {
    fd = openSync(partial, done > 0 ? 'a' : 'w');
  } catch (error) {
    throw storageError(partial, error);
  }
  try {
    for await (const chunk of body.stream() as unknown as AsyncIterable<Uint8Array>) {
      writeChunk(fd, partial, chunk);
      done += chunk.length;
      context.onProgress({ label: basename(file.path), done, total });
      context.signal.throwIfAborted();
    }
  } finally {
    closeSync(fd);
  }
}

function writeChunk(fd: number, path: string, chunk: Uint8Array): void {
  try {
    for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
  } catch (error) {
    throw storageError(path, error);
  }
}
