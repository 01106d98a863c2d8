/** How each server of the HTTP comparison is started, for each of its two loads. */
import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { packageRoot } from '../../src/bench/machine.js';
import { packageVersion } from '../../src/http/version.js';
import type { ServerSpec } from './server-process.js';

export interface ServerOptions {
  /** A GGUF file. */
  modelPath: string;
  threads: number;
  /** Sequences at once, and the longest of them in tokens. */
  parallel: number;
  maxLength: number;
  /** K/V types of longhaul's own entries. */
  kvDtypes: readonly string[];
  /** Of longhaul; null leaves its default. */
  itlTargetMs: number | null;
  /** Null leaves it out. */
  llamaServer: string | null;
  vllmPython: string | null;
  /** Where checkpoints for vLLM are written. */
  scratch: string;
}

const run = promisify(execFile);
const HOST = '127.0.0.1';

/** What was asked for, longhaul first. What cannot be prepared is told to `fail` and left out. */
export async function serverSpecs(
  options: ServerOptions,
  fail: (what: string, error: unknown) => void,
): Promise<ServerSpec[]> {
  const specs = options.kvDtypes.map((kv) => longhaul(options, kv));
  if (options.llamaServer) specs.push(llamaServer(options, options.llamaServer));
  if (options.vllmPython) {
    try {
      specs.push(await vllm(options, options.vllmPython));
    } catch (error) {
      fail('vLLM', error);
    }
  }
  return specs;
}

function longhaul(options: ServerOptions, kv: string): ServerSpec {
  const { modelPath, threads, itlTargetMs } = options;
  const main = join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'src', 'cli', 'main.js');
  const target = itlTargetMs === null ? [] : ['--itl-target-ms', `${itlTargetMs}`];
  return {
    peer: 'longhaul',
    config: ['K/V', kv, ...target].join(' '),
    command: process.execPath,
    args: (port) => [
      ...[main, 'serve', '--model', modelPath, '--host', HOST, '--port', `${port}`],
      ...['--threads', `${threads}`, '--kv-dtype', kv, '--log-level', 'error', ...target],
    ],
    readyPath: '/health/ready',
    version: async () => packageVersion(),
  };
}

/**
 * Each slot has a cache of its own with room for the longest request. No answer's cache is copied
 * aside for later prompts, which none of ours would use.
 */
function llamaServer(options: ServerOptions, path: string): ServerSpec {
  const { modelPath, threads, parallel, maxLength } = options;
  return {
    peer: 'llama-server',
    config: `--parallel ${parallel} -fa on, K/V f16`,
    command: path,
    args: (port) => [
      ...['-m', modelPath, '--host', HOST, '--port', `${port}`, '-t', `${threads}`],
      ...['-tb', `${threads}`, '-ngl', '0', '--parallel', `${parallel}`],
      ...['-c', `${parallel * maxLength}`, '--no-kv-unified', '--cache-ram', '0'],
      ...['-fa', 'on', '--cont-batching', '--no-webui', '--offline'],
    ],
    readyPath: '/health',
    version: async (url) =>
      ((await getJson(`${url}/props`)) as { build_info?: string }).build_info ?? 'unknown',
  };
}

async function vllm(options: ServerOptions, python: string): Promise<ServerSpec> {
  const { modelPath, threads, scratch } = options;
  const scripts = join(packageRoot(), 'bench', 'peers');
  const { stdout } = await run(
    python,
    ['-B', join(scripts, 'gguf_to_hf.py'), modelPath, join(scratch, 'checkpoints')],
    { maxBuffer: 2 ** 26 },
  );
  const folder = stdout.trim().split('\n').at(-1)!;
  return {
    peer: 'vLLM',
    config: 'bf16',
    command: python,
    args: (port) => [
      ...['-B', join(scripts, 'vllm_env.py'), `${threads}`, '4', '--model', folder],
      ...['--host', HOST, '--port', `${port}`, '--dtype', 'bfloat16'],
    ],
    readyPath: '/health',
    version: async (url) =>
      ((await getJson(`${url}/version`)) as { version?: string }).version ?? 'unknown',
  };
}

async function getJson(url: string): Promise<unknown> {
  return (await fetch(url)).json();
}
