/**
 * A `longhaul serve` of this build in a process of its own, for benchmarks that look at it from
 * outside: when it listens, what memory it holds and what its event loop costs.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { NativeEngineInfo } from '../src/binding/addon.js';

const START_TIMEOUT_MS = 300_000;
const STOP_TIMEOUT_MS = 20_000;

export interface ServeProcess {
  /** Without a trailing slash. */
  readonly url: string;
  readonly pid: number;
  /** performance.now() when the process was started. */
  readonly startedAt: number;
  /** From there until it said that it listens. */
  readonly listeningMs: number;
  readonly info: NativeEngineInfo;
  /** SIGTERM, and SIGKILL when that takes too long. */
  stop(): Promise<void>;
}

type LogLine = Record<string, unknown>;

/** `args` follow `serve --port 0`. Throws an Error with the server's output when it does not start. */
export async function startServe(args: readonly string[]): Promise<ServeProcess> {
  const startedAt = performance.now();
  const child = spawn(process.execPath, [mainScript(), 'serve', '--port', '0', ...args], {
    env: { ...process.env, LONGHAUL_LOG_LEVEL: 'info' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const { model, listening } = await untilListening(child);
  return {
    url: String(listening.url).replace(/\/$/, ''),
    pid: child.pid!,
    startedAt,
    listeningMs: performance.now() - startedAt,
    info: model as unknown as NativeEngineInfo,
    stop: () => stop(child),
  };
}

/** The compiled command: dist/bench → dist/src/cli/main.js. */
function mainScript(): string {
  return join(dirname(fileURLToPath(import.meta.url)), '..', 'src', 'cli', 'main.js');
}

function untilListening(child: ChildProcess): Promise<{ model: LogLine; listening: LogLine }> {
  return new Promise((resolve, reject) => {
    const output: string[] = [];
    let model: LogLine = {};
    const fail = (what: string): void => {
      clearTimeout(timer);
      child.kill('SIGKILL');
      reject(new Error(`the server ${what}; its output:\n${output.join('\n')}`));
    };
    const timer = setTimeout(() => fail('did not listen in time'), START_TIMEOUT_MS);
    child.once('error', (error) => fail(`could not be started: ${error.message}`));
    // 'close' comes when all output has been read, 'exit' may come before.
    child.once('close', (code) => fail(`ended before it listened (code ${code})`));
    createInterface({ input: child.stderr! }).on('line', (text) => output.push(text));
    createInterface({ input: child.stdout! }).on('line', (text) => {
      output.push(text);
      const line = parseLine(text);
      if (line.event === 'model') model = line;
      if (line.event !== 'listening') return;
      clearTimeout(timer);
      child.removeAllListeners('close');
      resolve({ model, listening: line });
    });
  });
}

function parseLine(text: string): LogLine {
  try {
    return JSON.parse(text) as LogLine;
  } catch {
    return {}; // A warning of Node's own.
  }
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS);
  await exited;
  clearTimeout(timer);
}

export interface ProcessMemory {
  /** Resident now, and the most it ever was. */
  rssBytes: number;
  peakBytes: number;
  /** Of the resident bytes: memory of its own, and pages of mapped files. */
  anonymousBytes: number;
  fileBytes: number;
}

/** Null where the system has no /proc. */
export function memoryOf(pid: number): ProcessMemory | null {
  const status = readProc(`/proc/${pid}/status`);
  if (status === null) return null;
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0) * 1024;
  return {
    rssBytes: kib('VmRSS'),
    peakBytes: kib('VmHWM'),
    anonymousBytes: kib('RssAnon'),
    fileBytes: kib('RssFile'),
  };
}

/**
 * Processor seconds the main thread (Node's event loop) has used so far; null where the system has
 * no /proc. Nanosecond counts of the scheduler, not clock ticks.
 */
export function mainThreadSeconds(pid: number): number | null {
  const stat = readProc(`/proc/${pid}/task/${pid}/schedstat`);
  return stat === null ? null : Number(stat.split(' ')[0]) / 1e9;
}

function readProc(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return null;
  }
}
