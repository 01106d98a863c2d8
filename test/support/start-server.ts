/**
 * Starts the real server as a process of its own (`longhaul serve --port 0`), waits until it says
 * it listens, keeps what it logs, and ends it. A server that dies early fails with its output.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const START_TIMEOUT_MS = 60_000;
const STOP_TIMEOUT_MS = 20_000;

export interface StartOptions {
  /** A path or a name that `--model` takes; null for servers on `--synthetic`. */
  model: string | null;
  args?: readonly string[];
  env?: Readonly<Record<string, string>>;
}

export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

export interface RunningServer {
  /** Without a trailing slash. */
  readonly url: string;
  readonly pid: number;
  /** performance.now() when the process was started. */
  readonly startedAt: number;
  /** Parsed log lines, and `{ text }` for lines that are not JSON. */
  readonly logs: ReadonlyArray<Record<string, unknown>>;
  readonly exited: Promise<Exit>;
  kill(signal: NodeJS.Signals): void;
  /** SIGTERM, then SIGKILL when that takes too long. Idempotent. */
  stop(): Promise<Exit>;
}

/** The compiled command next to this compiled file: dist/test/support → dist/src/cli/main.js. */
function findMain(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const main = join(here, '..', '..', 'src', 'cli', 'main.js');
  if (!existsSync(main)) throw new Error(`${main} does not exist: run "npm run build:ts" first`);
  return main;
}

export async function startServer(options: StartOptions): Promise<RunningServer> {
  const args = [findMain(), 'serve', '--port', '0', '--debug-routes'];
  if (options.model !== null) args.push('--model', options.model);
  const startedAt = performance.now();
  const child = spawn(process.execPath, [...args, ...(options.args ?? [])], {
    env: { ...process.env, LONGHAUL_LOG_LEVEL: 'info', ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const logs: Array<Record<string, unknown>> = [];
  const exited = new Promise<Exit>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  const url = await waitForUrl(child, logs, exited);
  return {
    url,
    pid: child.pid as number,
    startedAt,
    logs,
    exited,
    kill: (signal) => void child.kill(signal),
    stop: () => stop(child, exited),
  };
}

function waitForUrl(
  child: ChildProcess,
  logs: Array<Record<string, unknown>>,
  exited: Promise<Exit>,
): Promise<string> {
  return new Promise((resolve, reject) => {
    const fail = (what: string) => {
      child.kill('SIGKILL');
      const lines = logs.map((line) => JSON.stringify(line)).join('\n');
      reject(new Error(`The server ${what}. Its output:\n${lines}`));
    };
    const timer = setTimeout(
      () => fail(`did not listen within ${START_TIMEOUT_MS} ms`),
      START_TIMEOUT_MS,
    );
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream as NodeJS.ReadableStream }).on('line', (text) => {
        const line = parseLine(text);
        logs.push(line);
        if (line.event !== 'listening' || typeof line.url !== 'string') return;
        clearTimeout(timer);
        resolve(line.url.replace(/\/$/, ''));
      });
    }
    exited.then(
      ({ code, signal }) => {
        clearTimeout(timer);
        fail(`ended before it listened (code ${code}, signal ${signal})`);
      },
      (error: unknown) => {
        clearTimeout(timer);
        fail(`could not be started: ${String(error)}`);
      },
    );
  });
}

function parseLine(text: string): Record<string, unknown> {
  try {
    const line: unknown = JSON.parse(text);
    if (typeof line === 'object' && line !== null) return line as Record<string, unknown>;
  } catch {
    // Not a log line: kept as it is, for the failure message.
  }
  return { text };
}

async function stop(child: ChildProcess, exited: Promise<Exit>): Promise<Exit> {
  if (child.exitCode === null && child.signalCode === null) child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  try {
    return await exited;
  } finally {
    clearTimeout(timer);
  }
}
