/**
 * Installs node-llama-cpp into a scratch folder, never into this package. Only the CPU build of this
 * platform is fetched, and no install script runs.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

export interface LlamaPackage {
  /** File URL of the package's entry. */
  entry: string;
  /** "node-llama-cpp 3.22.1, llama.cpp b1234". */
  version: string;
}

const NAME = 'node-llama-cpp';
const BUILDS: Record<string, string> = {
  'linux x64': 'linux-x64',
  'linux arm64': 'linux-arm64',
  'darwin arm64': 'mac-arm64-metal',
  'darwin x64': 'mac-x64',
};

/** Fetches the package unless the folder holds it. Throws an Error with npm's words. */
export function installLlamaPackage(scratch: string, wanted: string): LlamaPackage {
  const folder = join(scratch, `${NAME}-${wanted}`);
  const home = join(folder, 'node_modules', NAME);
  if (!existsSync(join(home, 'package.json'))) install(folder, wanted);
  const { version } = JSON.parse(readFileSync(join(home, 'package.json'), 'utf8')) as {
    version: string;
  };
  const release = join(home, 'llama', 'binariesGithubRelease.json');
  const llamaCpp = existsSync(release)
    ? (JSON.parse(readFileSync(release, 'utf8')) as { release: string }).release
    : 'unknown';
  return {
    entry: pathToFileURL(join(home, 'dist', 'index.js')).href,
    version: `${NAME} ${version}, llama.cpp ${llamaCpp}`,
  };
}

function install(folder: string, wanted: string): void {
  const build = BUILDS[`${process.platform} ${process.arch}`];
  if (!build) throw new Error(`${NAME}: no build for ${process.platform} ${process.arch}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'package.json'), '{ "private": true }\n');
  const npm = (...args: string[]): void => {
    try {
      execFileSync(
        'npm',
        ['install', '--prefix', folder, '--ignore-scripts', '--no-audit', '--no-fund', ...args],
        {
          stdio: ['ignore', 'pipe', 'pipe'],
          encoding: 'utf8',
        },
      );
    } catch (error) {
      const { stderr, message } = error as { stderr?: string; message: string };
      throw new Error(`npm install ${args.join(' ')}: ${stderr?.trim() || message}`);
    }
  };
  // Its builds are optional dependencies, CUDA's of half a gigabyte among them: leave them out and
  // name the one that fits, at the package's own version.
  npm('--omit=optional', `${NAME}@${wanted}`);
  const { version } = JSON.parse(
    readFileSync(join(folder, 'node_modules', NAME, 'package.json'), 'utf8'),
  ) as { version: string };
  npm('--omit=optional', `@${NAME}/${build}@${version}`);
}
