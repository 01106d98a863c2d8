/**
 * How long a server takes from the start of its process to its first token, and what memory it
 * holds: one process a run, on a file the page cache holds after the first.
 *
 *   node dist/bench/startup.js --model PATH [--runs 5] [--threads N] [--kv-memory SIZE] [--json]
 *
 * Everything after `--` goes to `serve` as it is. `--synthetic SHAPE` serves random weights,
 * `--write-synthetic SHAPE` first writes such a model to PATH.
 */
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { type Spread, spread } from '../src/bench/statistics.js';
import { textTable } from '../src/bench/table.js';
import { formatSize } from '../src/config.js';
import { writeSyntheticGguf } from '../src/models/gguf-writer.js';
import { parseShape } from '../src/models/synthetic.js';
import { memoryOf, type ProcessMemory, startServe } from './serve-process.js';

export interface StartupOptions {
  /** Of `serve`: what names the model, and whatever else. */
  args: readonly string[];
  runs: number;
}

export interface StartupReport {
  weightBytes: number;
  poolBytes: number;
  listeningMs: Spread;
  firstTokenMs: Spread;
  /** Of the last run, after its first token; null where the system does not say. */
  memory: ProcessMemory | null;
}

/** Throws an Error when a server does not start or gives no token. */
export async function measureStartup(options: StartupOptions): Promise<StartupReport> {
  const listening: number[] = [];
  const firstToken: number[] = [];
  let last: Pick<StartupReport, 'weightBytes' | 'poolBytes' | 'memory'> | null = null;
  for (let run = 0; run < options.runs; run++) {
    const server = await startServe(options.args);
    try {
      await oneToken(server.url);
      firstToken.push(performance.now() - server.startedAt);
      listening.push(server.listeningMs);
      const { weightBytes, numBlocks, blockBytes } = server.info;
      const poolBytes = numBlocks * blockBytes;
      last = { weightBytes, poolBytes, memory: memoryOf(server.pid) };
    } finally {
      await server.stop();
    }
  }
  if (last === null) throw new Error('no runs');
  return { ...last, listeningMs: spread(listening), firstTokenMs: spread(firstToken) };
}

async function oneToken(url: string): Promise<void> {
  const response = await fetch(`${url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ prompt: 'Hello', max_tokens: 1, temperature: 0, ignore_eos: true }),
  });
  const text = await response.text();
  if (response.status !== 200) throw new Error(`the server answered ${response.status}: ${text}`);
}

function describe(report: StartupReport): string {
  const seconds = ({ median, min, max }: Spread): string[] =>
    [median, min, max].map((ms) => `${(ms / 1000).toFixed(2)} s`);
  const { memory, weightBytes, poolBytes } = report;
  const times = textTable([
    ['', 'median', 'min', 'max'],
    ['listening', ...seconds(report.listeningMs)],
    ['first token', ...seconds(report.firstTokenMs)],
  ]);
  const sizes = `weights ${formatSize(weightBytes)}, K/V pool ${formatSize(poolBytes)}`;
  if (memory === null) return `${times}\n${sizes}`;
  const over = memory.peakBytes - weightBytes;
  return (
    `${times}\n${sizes}; resident ${formatSize(memory.rssBytes)} ` +
    `(own ${formatSize(memory.anonymousBytes)}, files ${formatSize(memory.fileBytes)}), ` +
    `peak ${formatSize(memory.peakBytes)} = weights + ${formatSize(Math.max(0, over))}`
  );
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      synthetic: { type: 'string' },
      'write-synthetic': { type: 'string' },
      runs: { type: 'string', default: '5' },
      threads: { type: 'string' },
      'kv-memory': { type: 'string' },
      json: { type: 'boolean', default: false },
    },
  });
  const shape = values['write-synthetic'];
  if (shape !== undefined) {
    if (values.model === undefined) throw new Error('--write-synthetic wants --model PATH');
    writeSyntheticGguf(parseShape(shape), values.model, 1);
  }
  const args = [...positionals];
  for (const name of ['model', 'synthetic', 'threads', 'kv-memory'] as const) {
    const value = values[name];
    if (value !== undefined) args.push(`--${name}`, value);
  }
  const report = await measureStartup({ args, runs: Number(values.runs) });
  console.log(values.json ? JSON.stringify(report) : describe(report));
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
