/**
 * What Node costs beside the engine while it serves: processor time of the main thread for each
 * engine step, in a real server with streaming clients. It covers everything JavaScript does and
 * what the event loop does under it: planning, the plan's encoding, reading the result, committing,
 * detokenizing, the events and their sockets, metrics.
 *
 *   node dist/bench/node-share.js --model PATH [--streams 16] [--prompt 512] [--generate 256]
 *                                 [--threads N] [--path /v1/completions] [--json]
 *
 * Two figures, from the time when all streams decode until the first one ends: milliseconds of the
 * main thread a step, and their share of a step's duration. Clients read from this process and do
 * not parse. Processor time rather than a profile: it needs no symbols and disturbs nothing.
 */
import http from 'node:http';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { mainThreadSeconds, startServe } from './serve-process.js';

export interface NodeShareOptions {
  /** Of `serve`. */
  args: readonly string[];
  streams: number;
  promptTokens: number;
  generateTokens: number;
  path: '/v1/completions' | '/v1/chat/completions';
}

export interface NodeShareReport {
  streams: number;
  /** Steps inside the measured window. */
  steps: number;
  stepMs: number;
  /** Of the main thread, a step. */
  nodeMs: number;
  /** nodeMs / stepMs. */
  share: number;
}

/** Null where the system does not tell a thread's time. Throws an Error when a request fails. */
export async function measureNodeShare(options: NodeShareOptions): Promise<NodeShareReport | null> {
  const server = await startServe([...options.args, '--log-level', 'info']);
  const agent = new http.Agent({ maxSockets: Infinity });
  try {
    if (mainThreadSeconds(server.pid) === null) return null;
    // The first round compiles the code.
    await runStreams(server.url, agent, options, () => {});
    let window: { begin: Sample; end: Sample } | null = null;
    let begin: Promise<Sample> | null = null;
    let end: Promise<Sample> | null = null;
    await runStreams(server.url, agent, options, (event) => {
      if (event === 'all decode') begin = sample(server.url, server.pid, agent);
      else end ??= sample(server.url, server.pid, agent);
    });
    if (begin !== null && end !== null) window = { begin: await begin, end: await end };
    if (window === null || window.end.steps - window.begin.steps < 1) {
      throw new Error('the streams never decoded together: give them more tokens to generate');
    }
    const steps = window.end.steps - window.begin.steps;
    const stepMs = ((window.end.wallSeconds - window.begin.wallSeconds) / steps) * 1000;
    const nodeMs = ((window.end.nodeSeconds - window.begin.nodeSeconds) / steps) * 1000;
    return { streams: options.streams, steps, stepMs, nodeMs, share: nodeMs / stepMs };
  } finally {
    agent.destroy();
    await server.stop();
  }
}

interface Sample {
  steps: number;
  nodeSeconds: number;
  wallSeconds: number;
}

async function sample(url: string, pid: number, agent: http.Agent): Promise<Sample> {
  const text = await new Promise<string>((resolve, reject) => {
    http
      .get(`${url}/metrics`, { agent }, (response) => {
        let body = '';
        response.setEncoding('utf8');
        response.on('data', (part: string) => {
          body += part;
        });
        response.on('end', () => resolve(body));
      })
      .on('error', reject);
  });
  const steps = /^longhaul_step_total (\d+)/m.exec(text)?.[1];
  const nodeSeconds = mainThreadSeconds(pid);
  if (steps === undefined || nodeSeconds === null) throw new Error('the server tells no steps');
  return { steps: Number(steps), nodeSeconds, wallSeconds: performance.now() / 1000 };
}

/** Runs all streams to their ends; tells when the last one begins and when each one ends. */
async function runStreams(
  url: string,
  agent: http.Agent,
  options: NodeShareOptions,
  tell: (event: 'all decode' | 'one ends') => void,
): Promise<void> {
  let decoding = 0;
  await Promise.all(
    Array.from({ length: options.streams }, (_, index) =>
      oneStream(`${url}${options.path}`, agent, requestBody(options, index), () => {
        decoding += 1;
        if (decoding === options.streams) tell('all decode');
      }).then(() => tell('one ends')),
    ),
  );
}

function requestBody(options: NodeShareOptions, index: number): string {
  const { promptTokens, generateTokens, path } = options;
  const common = { max_tokens: generateTokens, stream: true, ignore_eos: true, temperature: 0 };
  if (path === '/v1/completions') {
    const prompt = Array.from(
      { length: promptTokens },
      (_, i) => 260 + ((i * 7 + index * 31) % 240),
    );
    return JSON.stringify({ ...common, prompt });
  }
  const content = `${index} ${'word '.repeat(Math.max(1, promptTokens - 20))}`;
  return JSON.stringify({ ...common, messages: [{ role: 'user', content }] });
}

function oneStream(
  url: string,
  agent: http.Agent,
  body: string,
  onFirstToken: () => void,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-type': 'application/json' };
    const request = http.request(url, { method: 'POST', agent, headers }, (response) => {
      if (response.statusCode !== 200) reject(new Error(`${url}: status ${response.statusCode}`));
      let begun = false;
      response.on('data', () => {
        if (!begun) onFirstToken();
        begun = true;
      });
      response.on('end', resolve);
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      synthetic: { type: 'string' },
      threads: { type: 'string' },
      streams: { type: 'string', default: '16' },
      prompt: { type: 'string', default: '512' },
      generate: { type: 'string', default: '256' },
      path: { type: 'string', default: '/v1/completions' },
      json: { type: 'boolean', default: false },
    },
  });
  const args = [...positionals];
  for (const name of ['model', 'synthetic', 'threads'] as const) {
    const value = values[name];
    if (value !== undefined) args.push(`--${name}`, value);
  }
  const report = await measureNodeShare({
    args,
    streams: Number(values.streams),
    promptTokens: Number(values.prompt),
    generateTokens: Number(values.generate),
    path: values.path as NodeShareOptions['path'],
  });
  if (values.json) console.log(JSON.stringify(report));
  else if (report === null) console.log('This system does not tell the time of a thread.');
  else {
    const { streams, steps, stepMs, nodeMs, share } = report;
    console.log(
      `${streams} streams, ${steps} steps of ${stepMs.toFixed(2)} ms: ` +
        `Node ${nodeMs.toFixed(3)} ms a step, ${(share * 100).toFixed(1)} %`,
    );
  }
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
