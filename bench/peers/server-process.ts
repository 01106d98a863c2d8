/**
 * A server under test in a process group of its own, so that what it starts ends with it. It takes a
 * free port, and counts as started once its health route answers 200.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createServer } from 'node:net';

export interface ServerSpec {
  /** The engine, as it stands in the report. */
  peer: string;
  /** Its settings, as they stand in the report. */
  config: string;
  command: string;
  args: (port: number) => string[];
  /** Answers 200 when requests are served, and something else or nothing before. */
  readyPath: string;
  /** Of the engine, asked when it runs. */
  version: (url: string) => Promise<string>;
}

/** A large checkpoint is converted, loaded and compiled in this time. */
const START_TIMEOUT_MS = 600_000;
const POLL_MS = 200;
const ANSWER_TIMEOUT_MS = 5_000;
/** After SIGTERM; then SIGKILL. */
const STOP_TIMEOUT_MS = 15_000;
const WORDS_KEPT = 4_000;

export class ServerProcess {
  readonly url: string;
  readonly spec: ServerSpec;
  private readonly child: ChildProcess;
  private readonly ended: Promise<void>;
  private lastWords = '';

  private constructor(spec: ServerSpec, port: number) {
    this.spec = spec;
    this.url = `http://127.0.0.1:${port}`;
    this.child = spawn(spec.command, spec.args(port), {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // leads a process group
    });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.lastWords = (this.lastWords + text).slice(-WORDS_KEPT);
      });
    }
    this.ended = new Promise((resolve) => {
      this.child.once('error', (error) => {
        this.lastWords += error.message;
        resolve();
      });
      this.child.once('exit', () => resolve());
    });
    const kill = (): void => this.signal('SIGKILL');
    process.once('exit', kill);
    void this.ended.then(() => process.removeListener('exit', kill));
  }

  /** Throws an Error with the server's last words when it ends, or is not ready in time. */
  static async start(spec: ServerSpec, timeoutMs = START_TIMEOUT_MS): Promise<ServerProcess> {
    const server = new ServerProcess(spec, await freePort());
    try {
      await server.ready(timeoutMs);
      return server;
    } catch (error) {
      await server.stop();
      throw error;
    }
  }

  /** Resolves when the process has ended and its memory is free. */
  async stop(): Promise<void> {
    this.signal('SIGTERM');
    const killer = setTimeout(() => this.signal('SIGKILL'), STOP_TIMEOUT_MS);
    await this.ended;
    clearTimeout(killer);
    this.signal('SIGKILL'); // what it left behind in its group
  }

  private async ready(timeoutMs: number): Promise<void> {
    const deadline = performance.now() + timeoutMs;
    let running = true;
    void this.ended.then(() => {
      running = false;
    });
    while (!(await answersOk(this.url + this.spec.readyPath))) {
      const late = performance.now() > deadline;
      if (!running || late) {
        const what = running ? `not ready after ${timeoutMs} ms` : 'ended while starting';
        throw new Error(`${this.spec.command}: ${what}\n${this.lastWords.trim()}`);
      }
      await Promise.race([this.ended, new Promise((resolve) => setTimeout(resolve, POLL_MS))]);
    }
  }

  private signal(name: NodeJS.Signals): void {
    if (this.child.pid === undefined) return;
    try {
      process.kill(-this.child.pid, name);
    } catch {
      // The group is gone.
    }
  }
}

async function answersOk(url: string): Promise<boolean> {
  try {
    const answer = await fetch(url, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    await answer.arrayBuffer();
    return answer.status === 200;
  } catch {
    return false;
  }
}

/** Free at the moment of asking; the server's own start fails if it was taken since. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
}
