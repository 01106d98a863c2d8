/**
 * How alive the event loop stays while the processor is busy: latency of `/health/live` from a
 * thread of its own, while a server reads one long prompt of random tokens.
 *
 *   node dist/bench/liveness.js [--synthetic smollm2 | --model PATH] [--tokens 32768] [--threads N]
 *                               [--json]
 */
import { once } from 'node:events';
import http from 'node:http';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { percentile, seededRandom } from '../src/bench/statistics.js';
import { startServe } from './serve-process.js';

const PAUSE_MS = 10;

export interface LivenessOptions {
  /** Of `serve`. */
  args: readonly string[];
  promptTokens: number;
}

export interface LivenessReport {
  promptTokens: number;
  prefillSeconds: number;
  /** Answers while the prompt was read, and their latencies in milliseconds. */
  probes: number;
  p50: number;
  p99: number;
  max: number;
}

/** Throws an Error when the prompt or a probe fails. */
export async function measureLiveness(options: LivenessOptions): Promise<LivenessReport> {
  const server = await startServe(options.args);
  const probe = new Worker(fileURLToPath(import.meta.url), {
    workerData: { url: `${server.url}/health/live` },
  });
  try {
    await once(probe, 'message'); // It has its connection.
    const { vocabSize } = server.info;
    const random = seededRandom(1);
    const prompt = Array.from({ length: options.promptTokens }, () =>
      Math.floor(random() * vocabSize),
    );
    const body = JSON.stringify({ prompt, max_tokens: 1, ignore_eos: true });
    const begin = performance.now();
    probe.postMessage('begin');
    await complete(`${server.url}/v1/completions`, body);
    const prefillSeconds = (performance.now() - begin) / 1000;
    probe.postMessage('end');
    const [latencies] = (await once(probe, 'message')) as [number[]];
    const at = (percent: number): number => percentile(latencies, percent);
    return {
      promptTokens: options.promptTokens,
      prefillSeconds,
      probes: latencies.length,
      p50: at(50),
      p99: at(99),
      max: at(100),
    };
  } finally {
    await probe.terminate();
    await server.stop();
  }
}

/** Without fetch's limit of 300 s on headers. */
async function complete(url: string, body: string): Promise<void> {
  const headers = { 'content-type': 'application/json' };
  const request = http.request(url, { method: 'POST', headers });
  request.end(body);
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  response.setEncoding('utf8');
  let text = '';
  for await (const part of response) text += part;
  if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode} ${text}`);
}

/** The probe's thread: asks all the time, keeps the latencies between 'begin' and 'end'. */
async function runProbe(url: string): Promise<void> {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  let latencies: number[] = [];
  let running = true;
  parentPort!.on('message', (message) => {
    if (message === 'begin') latencies = [];
    else running = false;
  });
  for (let first = true; running; first = false) {
    const begin = performance.now();
    const request = http.get(url, { agent });
    const [response] = (await once(request, 'response')) as [http.IncomingMessage];
    response.resume();
    await once(response, 'end');
    latencies.push(performance.now() - begin);
    if (response.statusCode !== 200) throw new Error(`${url}: ${response.statusCode}`);
    if (first) parentPort!.postMessage('ready');
    await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
  }
  agent.destroy();
  parentPort!.postMessage(latencies);
  parentPort!.close();
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      model: { type: 'string' },
      synthetic: { type: 'string' },
      threads: { type: 'string' },
      tokens: { type: 'string', default: '32768' },
      json: { type: 'boolean', default: false },
    },
  });
  const args = [...positionals];
  const model = values.model !== undefined ? 'model' : 'synthetic';
  args.push(`--${model}`, values.model ?? values.synthetic ?? 'smollm2');
  if (values.threads !== undefined) args.push('--threads', values.threads);
  const report = await measureLiveness({ args, promptTokens: Number(values.tokens) });
  if (values.json) {
    console.log(JSON.stringify(report));
    return;
  }
  const ms = (value: number): string => `${value.toFixed(1)} ms`;
  console.log(
    `${report.promptTokens} tokens read in ${report.prefillSeconds.toFixed(1)} s; /health/live ` +
      `${report.probes} times: median ${ms(report.p50)}, 99 % ${ms(report.p99)}, ` +
      `largest ${ms(report.max)}`,
  );
}

if (!isMainThread && typeof workerData?.url === 'string') await runProbe(workerData.url);
else if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main();
