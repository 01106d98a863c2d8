/**
 * How bench/compare.ts talks to an engine under test. Each runs in a process of its own, loads one
 * model, and measures rows when told to, so that engines can take turns without loading or filling
 * their caches anew. Requests are JSON lines on stdin; answers are lines on stdout that begin with
 * MARK, because native libraries print what they like there.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import type { Workload } from '../../src/bench/workload.js';

export const MARK = '@bench ';

/** The one argument of a child, as JSON. */
export interface PeerSetup {
  /** A GGUF file, or for vLLM a checkpoint's folder. */
  modelPath: string;
  threads: number;
  /** Most sequences, and the longest position, of the rows to come. */
  maxBatch: number;
  maxLength: number;
  seed: number;
  /** What the peer itself understands, such as flash attention or the K/V type. */
  settings: Record<string, string>;
}

export interface PeerHello {
  /** Of the engine, as it should stand in a report. */
  version: string;
  /** Instruction set or library variant. */
  isa: string;
  threads: number;
}

export type PeerRequest =
  | { command: 'measure'; workload: Workload }
  /** longhaul only: what the row would take at the machine's limits. */
  | { command: 'limit'; workload: Workload };

export type PeerAnswer =
  | { hello: PeerHello }
  | { seconds: number }
  | { limitSeconds: number | null }
  | { error: string };

/** The child's side: says hello, then answers requests in order until stdin ends. */
export async function servePeer(
  hello: PeerHello,
  answer: (request: PeerRequest) => Promise<PeerAnswer>,
): Promise<void> {
  const say = (message: PeerAnswer): void => {
    process.stdout.write(`\n${MARK}${JSON.stringify(message)}\n`);
  };
  say({ hello });
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim() === '') continue;
    try {
      say(await answer(JSON.parse(line) as PeerRequest));
    } catch (error) {
      say({ error: (error as Error).message });
    }
  }
}

const STDERR_KEPT = 4000;

/** The parent's side. */
export class PeerProcess {
  readonly hello: PeerHello;
  private readonly child: ChildProcess;
  private readonly answers: AsyncIterator<PeerAnswer>;

  private constructor(child: ChildProcess, answers: AsyncIterator<PeerAnswer>, hello: PeerHello) {
    this.child = child;
    this.answers = answers;
    this.hello = hello;
  }

  /** Throws an Error with the child's last words when it does not come up. */
  static async start(
    command: string,
    args: readonly string[],
    setup: PeerSetup,
    env: NodeJS.ProcessEnv = {},
  ): Promise<PeerProcess> {
    const child = spawn(command, [...args, JSON.stringify(setup)], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
    });
    child.stdin!.on('error', () => {}); // the child has gone: its answers end, which is reported
    const answers = answersOf(child);
    const first = await answers.next();
    const value = first.value as PeerAnswer | undefined;
    if (value && 'hello' in value) return new PeerProcess(child, answers, value.hello);
    child.kill();
    throw new Error(
      value && 'error' in value ? value.error : `${command}: unexpected first answer`,
    );
  }

  async measure(workload: Workload): Promise<number> {
    const answer = await this.ask({ command: 'measure', workload });
    if ('seconds' in answer) return answer.seconds;
    throw new Error('error' in answer ? answer.error : 'unexpected answer');
  }

  async limitSeconds(workload: Workload): Promise<number | null> {
    const answer = await this.ask({ command: 'limit', workload });
    if ('limitSeconds' in answer) return answer.limitSeconds;
    throw new Error('error' in answer ? answer.error : 'unexpected answer');
  }

  /** Resolves when the process has ended and its memory is free. */
  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.child.stdin!.end();
    const killer = setTimeout(() => this.child.kill('SIGKILL'), 10_000);
    await ended;
    clearTimeout(killer);
  }

  private async ask(request: PeerRequest): Promise<PeerAnswer> {
    this.child.stdin!.write(`${JSON.stringify(request)}\n`);
    return (await this.answers.next()).value as PeerAnswer;
  }
}

async function* answersOf(child: ChildProcess): AsyncGenerator<PeerAnswer> {
  let lastWords = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    lastWords = (lastWords + text).slice(-STDERR_KEPT);
  });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => resolve(error.message));
    child.once('close', (code, signal) => resolve(`ended with ${signal ?? code}`));
  });
  for await (const line of createInterface({ input: child.stdout! })) {
    if (line.startsWith(MARK)) yield JSON.parse(line.slice(MARK.length)) as PeerAnswer;
  }
  const error = `${child.spawnfile} ${await ended}\n${lastWords.trim()}`;
  for (;;) yield { error };
}
