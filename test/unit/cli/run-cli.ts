/** Runs the built command line as a child process. */
import { spawn, spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const MAIN = join(
  dirname(fileURLToPath(import.meta.url)),
  '..',
  '..',
  '..',
  'src',
  'cli',
  'main.js',
);

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

function cleanEnv(extra: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  const env = Object.entries(process.env).filter(([name]) => !/^(LONGHAUL_|HF_)/.test(name));
  return { ...Object.fromEntries(env), NO_COLOR: '1', ...extra };
}

/** To its end, this process waiting: nothing here can answer it meanwhile. */
export function run(args: string[], env: NodeJS.ProcessEnv = {}): Outcome {
  const result = spawnSync(process.execPath, [MAIN, ...args], {
    encoding: 'utf8',
    env: cleanEnv(env),
    timeout: 60_000,
  });
  return { code: result.status, stdout: result.stdout, stderr: result.stderr };
}

export interface Running {
  stdout: () => string;
  /** Resolves with the first line that holds `part`. */
  line: (part: string) => Promise<string>;
  write: (text: string) => void;
  endInput: () => void;
  kill: (signal: NodeJS.Signals) => void;
  ended: Promise<Outcome>;
}

/** In the background; killed at the end of the test file. */
export function start(args: string[], env: NodeJS.ProcessEnv = {}): Running {
  const child = spawn(process.execPath, [MAIN, ...args], { env: cleanEnv(env), stdio: 'pipe' });
  const outcome: Outcome = { code: null, stdout: '', stderr: '' };
  const waiting: Array<() => void> = [];
  child.stdout.on('data', (chunk) => {
    outcome.stdout += chunk;
    for (const check of waiting) check();
  });
  child.stderr.on('data', (chunk) => {
    outcome.stderr += chunk;
  });
  const ended = new Promise<Outcome>((resolve) => {
    child.on('close', (code) => resolve({ ...outcome, code }));
  });
  t.teardown(() => child.kill('SIGKILL'));
  return {
    stdout: () => outcome.stdout,
    line: (part) =>
      new Promise((resolve, reject) => {
        const check = (): void => {
          const found = outcome.stdout.split('\n').find((line) => line.includes(part));
          if (found !== undefined) resolve(found);
        };
        waiting.push(check);
        check();
        void ended.then(({ stderr }) => reject(new Error(`ended without ${part}: ${stderr}`)));
      }),
    write: (text) => child.stdin.write(text),
    endInput: () => child.stdin.end(),
    kill: (signal) => child.kill(signal),
    ended,
  };
}
