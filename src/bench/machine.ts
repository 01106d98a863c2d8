/** Where and of what code a benchmark ran: what makes two reports comparable. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadAddon } from '../binding/addon.js';

export interface Machine {
  cpu: string;
  num_cpus: number;
  memory_bytes: number;
  kernel: string;
  node: string;
}

export function describeMachine(): Machine {
  return {
    cpu: loadAddon().cpuInfo().model,
    num_cpus: cpus().length,
    memory_bytes: totalmem(),
    kernel: `${process.platform} ${release()}`,
    node: process.version,
  };
}

/** The folder of package.json above this file. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    if (parent === folder) throw new Error('package.json not found above the benchmark');
    folder = parent;
  }
  return folder;
}

/** Short hash, with "-dirty" when tracked files differ from it; null outside a git checkout. */
export function currentCommit(root: string): string | null {
  const git = (...args: string[]): string =>
    execFileSync('git', ['-C', root, ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  try {
    const hash = git('rev-parse', '--short=12', 'HEAD');
    return git('status', '--porcelain', '--untracked-files=no') === '' ? hash : `${hash}-dirty`;
  } catch {
    return null;
  }
}
