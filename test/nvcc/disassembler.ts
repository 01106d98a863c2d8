/**
 * Finds cuobjdump (with nvdisasm beside it), which the toolkit's smaller packages leave out:
 * LONGHAUL_CUOBJDUMP, the PATH, beside nvcc, the cache folder; else it is fetched once as Python
 * wheels, which are read as the ZIP archives they are.
 */
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
} from 'node:fs';
import { basename, delimiter, dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { cacheFolder, withLock } from '../../src/models/cache.js';
import { pipDownload } from '../../src/models/pip.js';
import { entryChunks, readZip } from '../../src/models/zip.js';

/** Of CUDA 13; they read what older compilers made too. */
const WHEELS = ['nvidia-cuda-cuobjdump==13.5.37', 'nvidia-cuda-nvdisasm==13.5.37'];
const FETCH_TIMEOUT_MS = 120_000;

export interface Disassembler {
  /** SASS of one architecture of an object file. */
  sass(object: string, architecture: string): string;
}

/** Rejects with the reason when there is none. */
export async function findDisassembler(nvcc: string): Promise<Disassembler> {
  const given = process.env.LONGHAUL_CUOBJDUMP;
  const fetched = join(cacheFolder(), 'tools', WHEELS[0]!.replace('==', '-'));
  const folders = given ? [dirname(given)] : (process.env.PATH ?? '').split(delimiter);
  if (!given) folders.push(dirname(nvcc), fetched);
  const usable = (folder: string) =>
    existsSync(join(folder, given ? basename(given) : 'cuobjdump'));
  let folder = folders.find(usable);
  if (folder === undefined) {
    if (given) throw new Error(`LONGHAUL_CUOBJDUMP: there is no ${given}`);
    await fetchInto(fetched);
    folder = fetched;
  }
  const command = join(folder, given ? basename(given) : 'cuobjdump');
  const path = [folder, dirname(nvcc), process.env.PATH ?? ''].join(delimiter);
  return {
    sass(object, architecture) {
      const run = spawnSync(command, ['-sass', '-arch', architecture, object], {
        encoding: 'utf8',
        maxBuffer: 1 << 30,
        env: { ...process.env, PATH: path },
      });
      if (run.status !== 0) {
        const why = run.error?.message ?? run.stderr.trim();
        throw new Error(`${command} -sass ${object}: ${why || `exit ${run.status}`}`);
      }
      return run.stdout;
    },
  };
}

async function fetchInto(folder: string): Promise<void> {
  const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
  await withLock(folder, signal, async () => {
    if (existsSync(join(folder, 'cuobjdump'))) return;
    const work = `${folder}.work`;
    rmSync(work, { recursive: true, force: true });
    mkdirSync(work, { recursive: true });
    try {
      await pipDownload(WHEELS, work, {
        cache: cacheFolder(),
        env: process.env,
        signal,
        onProgress: () => {},
        onAnswer: () => {},
      });
      mkdirSync(folder, { recursive: true });
      const wheels = readdirSync(work).filter((name) => name.endsWith('.whl'));
      // cuobjdump last: its presence says that the folder is complete.
      for (const tool of ['nvdisasm', 'cuobjdump'])
        await extract(work, wheels, tool, folder, signal);
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  });
}

async function extract(
  work: string,
  wheels: readonly string[],
  tool: string,
  folder: string,
  signal: AbortSignal,
): Promise<void> {
  for (const wheel of wheels) {
    const path = join(work, wheel);
    const entry = readZip(path).find((item) => item.name.endsWith(`/bin/${tool}`));
    if (entry === undefined) continue;
    const partial = join(work, tool);
    await pipeline(entryChunks(path, entry, signal), createWriteStream(partial));
    chmodSync(partial, 0o755);
    renameSync(partial, join(folder, tool));
    return;
  }
  throw new Error(`${WHEELS.join(', ')}: no ${tool} in ${wheels.join(', ')}`);
}
