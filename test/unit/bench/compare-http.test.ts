/** bench:compare --http: gaps and shares, tables, server processes, and a tiny run of both loads. */
import { chmodSync, writeFileSync } from 'node:fs';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { benchBeside, besideMetrics, gapsBetween } from '../../../bench/beside.js';
import {
  checkOutcomes,
  compareHttp,
  HTTP_LOADS,
  HTTP_SETTINGS,
  type HttpReport,
  type HttpRow,
  httpCells,
  httpMarkdown,
  httpText,
} from '../../../bench/compare-http.js';
import { ServerProcess, type ServerSpec } from '../../../bench/peers/server-process.js';
import { serverSpecs } from '../../../bench/peers/servers.js';
import { writeSyntheticGguf } from '../../../src/models/gguf-writer.js';
import { parseShape } from '../../../src/models/synthetic.js';

t.test('gaps that lie between two moments, in whole or in part', async (t) => {
  const times = [1, 2, 4, 7, 8];
  t.same(gapsBetween(times, 0, 9), [1, 2, 3, 1]);
  t.same(gapsBetween(times, 3, 7), [2, 3], 'cut gaps count in full, touching ones not at all');
  t.same(gapsBetween(times, 5, 6), [3], 'both moments in one gap');
  t.same(gapsBetween(times, 8, 9), []);
  t.same(gapsBetween([1], 0, 9), []);
  t.same(gapsBetween([], 0, 9), []);
});

t.test('what a stream and a prompt cost each other', async (t) => {
  // A piece every 10 ms, then gaps of 40, 60 and 50 ms while the prompt takes 120 ms instead of 90.
  const times = [0, 0.01, 0.02, 0.03, 0.07, 0.13, 0.18];
  const metrics = besideMetrics({ times, sentAt: 0.035, soloTtft: 0.09, besideTtft: 0.12 });
  const rounded = Object.fromEntries(
    Object.entries(metrics).map(([key, value]) => [key, Number(value.toFixed(6))]),
  );
  t.same(rounded, {
    solo_ttft_ms: 90,
    beside_ttft_ms: 120,
    prefill_share: 0.75,
    alone_gap_ms: 10,
    num_gaps: 3,
    median_gap_ms: 50,
    p99_gap_ms: 59.8,
    max_gap_ms: 60,
  });
  const short = { times: times.slice(0, -1), sentAt: 0.035, soloTtft: 0.09, besideTtft: 0.12 };
  t.throws(() => besideMetrics(short), /the stream ended before the long prompt was computed/);
  t.throws(() => besideMetrics({ ...short, times: [] }), /the stream ended/);
});

t.test('a cut prompt or answer is no result', async (t) => {
  const sizes = { input_tokens: 8, output_tokens: 4 };
  const good = { error: null, promptTokens: 8, outputTokens: 4 };
  checkOutcomes([good, { ...good, promptTokens: 9 }], sizes); // a token of the server's own before it
  t.throws(
    () => checkOutcomes([good, { ...good, promptTokens: 7 }], sizes),
    /7 tokens in and 4 out/,
  );
  t.throws(() => checkOutcomes([{ ...good, outputTokens: 3 }], sizes), /8 tokens in and 3 out/);
  t.throws(() => checkOutcomes([{ ...good, error: '500: no' }], sizes), /500: no/);
});

const spreadOf = (value: number) => ({ median: value, min: value, max: value });

t.test('tables and ratios', async (t) => {
  const load = (peer: string, total: number, ttft: number): HttpRow => ({
    load: 'load',
    peer,
    config: `of ${peer}`,
    values: {
      total_token_throughput: { median: total, min: total - 1, max: total + 1 },
      median_ttft_ms: spreadOf(ttft),
      request_goodput: spreadOf(0),
    },
  });
  const beside: HttpRow = {
    load: 'beside',
    peer: 'longhaul',
    config: 'K/V f16',
    values: { p99_gap_ms: spreadOf(50), prefill_share: { median: 0.9, min: 0.88, max: 0.91 } },
  };
  const rows = [
    load('longhaul', 1500, 400),
    load('llama-server', 300, 2000),
    load('vLLM', 500, 800),
  ];
  const cells = httpCells('load', [...rows, beside]);
  t.equal(cells.length, 5);
  t.same(cells[0]!.slice(0, 4), ['server', 'setting', 'total tok/s', 'TTFT median ms']);
  t.same(cells[2]!.slice(0, 4), ['llama-server', 'of llama-server', '300 (299–301)', '2,000']);
  const ratios = ['longhaul / best peer', 'of longhaul', '3.00×', '0.50×'];
  t.same(cells[4], [...ratios, ...Array<string>(6).fill('')], 'best of more, best of less');
  t.equal(httpCells('load', rows.slice(0, 1)).length, 2, 'no ratio without a peer');
  const [, line] = httpCells('beside', [beside]);
  t.equal(line![2], '50.0');
  t.equal(line!.at(-1), '90 % (88 %–91 %)');

  const report: HttpReport = {
    date: '2026-01-02T03:04:05Z',
    machine: { cpu: 'C', num_cpus: 2, memory_bytes: 2 ** 34, kernel: 'k', node: 'v1' },
    isa: 'avx2',
    commit: 'abc',
    threads: 2,
    load_average: 0.1,
    model: 'M',
    settings: HTTP_SETTINGS,
    versions: { longhaul: '0.1.0', vLLM: '9' },
    rows: [...rows, beside],
    failures: ['load: llama-server: gone'],
  };
  const block = httpMarkdown(report);
  t.match(block, /^\n### 2026-01-02, through HTTP\n\nM\. C, 2 CPUs, 16\.0 GiB, avx2; 2 threads;/);
  t.match(
    block,
    /64 requests of 512 random tokens in and 64 out, 16 at a time; a good request has ttft/,
  );
  t.match(block, /\n\| server \| setting \| gap p99 ms \|/);
  t.match(block, /\n- not measured: load: llama-server: gone\n$/);
  t.notMatch(
    httpText({ ...report, rows: [beside] }),
    /64 requests/,
    'only loads that were measured',
  );
});

/** A server's program: `$port` and what it answers. */
function program(t: Test, text: string): string {
  const path = join(t.testdir(), 'server.mjs');
  writeFileSync(path, `#!${process.execPath}\n${text}\n`);
  chmodSync(path, 0o755);
  return path;
}

function specOf(command: string): ServerSpec {
  return {
    peer: 'fake',
    config: '',
    command,
    args: (port) => [`${port}`],
    readyPath: '/ready',
    version: async () => '1',
  };
}

t.test('a server process: readiness, last words, an end', async (t) => {
  const command = program(
    t,
    `import { createServer } from 'node:http';
    let asked = 0;
    createServer((request, response) => {
      response.writeHead(request.url === '/ready' && asked++ > 0 ? 200 : 503).end(String(process.pid));
    }).listen(Number(process.argv[2]), '127.0.0.1');`,
  );
  const server = await ServerProcess.start(specOf(command));
  const answer = await fetch(`${server.url}/ready`);
  const pid = Number(await answer.text());
  await server.stop();
  t.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
  await server.stop();

  const broken = program(t, `console.error('out of luck'); process.exit(3);`);
  await t.rejects(ServerProcess.start(specOf(broken)), /ended while starting\nout of luck/);
  await t.rejects(ServerProcess.start(specOf('/no/such/server')), /ended while starting\n.*ENOENT/);
  const silent = program(t, 'setInterval(() => {}, 1000);');
  await t.rejects(ServerProcess.start(specOf(silent), 300), /not ready after 300 ms/);
});

interface Asked {
  prompt: number[];
  max_tokens: number;
}

function event(data: object): string {
  return `data: ${JSON.stringify(data)}\n\n`;
}

const PIECE = event({ choices: [{ text: 'w', finish_reason: null }] });

t.test('beside: the stream runs before, during and after the prompt', async (t) => {
  const asked: Asked[] = [];
  let streaming: ServerResponse | null = null;
  let hungUp = false;
  const app = createServer((request, response) => {
    let text = '';
    request.on('data', (part) => {
      text += part;
    });
    request.on('end', () => {
      const body = JSON.parse(text) as Asked;
      asked.push(body);
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      if (body.max_tokens === 1) {
        t.equal(streaming !== null, asked.length === 3, 'alone first, then beside the stream');
        setTimeout(() => response.end(`${PIECE}data: [DONE]\n\n`), 40);
        return;
      }
      streaming = response;
      const timer = setInterval(() => response.write(PIECE), 1);
      response.on('close', () => {
        hungUp = true;
        clearInterval(timer);
      });
    });
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const metrics = await benchBeside({
    baseUrl: `http://127.0.0.1:${(app.address() as AddressInfo).port}`,
    endpoint: '/v1/completions',
    model: 'm',
    apiKey: null,
    ignoreEos: true,
    longTokens: 50,
    streamTokens: 1000,
    vocabSize: 1000,
    seed: 4,
  });
  t.same(
    asked.map(({ prompt, max_tokens }) => [prompt.length, max_tokens]),
    [
      [50, 1],
      [32, 1000],
      [50, 1],
    ],
  );
  t.notSame(asked[0]!.prompt, asked[2]!.prompt, 'no prefix to find in a cache');
  t.ok(metrics.num_gaps > 1);
  t.ok(metrics.max_gap_ms >= metrics.p99_gap_ms && metrics.p99_gap_ms >= metrics.median_gap_ms);
  await new Promise((resolve) => setTimeout(resolve, 20));
  t.ok(hungUp, 'the stream is not waited for');
});

t.test('beside: a server that fails is told of', async (t) => {
  let count = 0;
  const app = createServer((_request, response) => {
    count++;
    if (count === 1) response.end(PIECE);
    else response.writeHead(500).end('no room');
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  const options = {
    baseUrl: `http://127.0.0.1:${(app.address() as AddressInfo).port}`,
    endpoint: '/v1/completions',
    model: 'm',
    apiKey: null,
    ignoreEos: true,
    longTokens: 5,
    streamTokens: 9,
    vocabSize: 1000,
    seed: 1,
  };
  await t.rejects(benchBeside(options), /500: no room/);
  t.equal(count, 3, 'a stream that has ended is not waited for');
  await t.rejects(benchBeside(options), /long prompt alone: 500: no room/);
});

t.test('both loads, tiny: longhaul beside a llama-server', async (t) => {
  const folder = t.testdir();
  const modelPath = join(folder, 'tiny.gguf');
  writeSyntheticGguf(parseShape('tiny'), modelPath, 1);
  const llamaServer = join(folder, 'llama-server.mjs');
  writeFileSync(
    llamaServer,
    `#!${process.execPath}
    import { createServer } from 'node:http';
    const port = Number(process.argv[process.argv.indexOf('--port') + 1]);
    const piece = ${JSON.stringify(PIECE)};
    createServer((request, response) => {
      const json = (body) => response.end(JSON.stringify(body));
      if (request.url === '/health') return json({});
      if (request.url === '/props') return json({ build_info: 'b7' });
      if (request.url === '/v1/models') return json({ data: [{ id: 'fake' }] });
      let text = '';
      request.on('data', (part) => { text += part; });
      request.on('end', () => {
        const { prompt, max_tokens } = JSON.parse(text);
        let left = max_tokens;
        const timer = setInterval(() => {
          response.write(piece);
          if (--left > 0) return;
          clearInterval(timer);
          const usage = { prompt_tokens: prompt.length, completion_tokens: max_tokens };
          response.end('data: ' + JSON.stringify({ choices: [], usage }) + '\\n\\ndata: [DONE]\\n\\n');
        }, 1);
        response.on('close', () => clearInterval(timer));
      });
    }).listen(port, '127.0.0.1');`,
  );
  chmodSync(llamaServer, 0o755);
  const failures: string[] = [];
  const said: string[] = [];
  const report = await compareHttp({
    title: 'tiny',
    modelPath,
    threads: 1,
    kvDtypes: ['f16', 'f3'],
    llamaServer,
    vllmPython: '/no/such/python',
    scratch: folder,
    loads: HTTP_LOADS,
    repeat: 2,
    settings: {
      ...HTTP_SETTINGS,
      num_prompts: 4,
      input_tokens: 16,
      output_tokens: 4,
      max_concurrency: 2,
      long_tokens: 64,
      stream_tokens: 4000, // a busy machine must not end it before the prompt is there
    },
    say: (line) => said.push(line),
    fail: (what, error) => failures.push(`${what}: ${(error as Error).message}`),
    failures,
  });
  t.same(
    report.rows.map(({ load, peer }) => `${load} ${peer}`),
    ['load longhaul', 'load llama-server', 'beside longhaul', 'beside llama-server'],
  );
  t.equal(failures.length, 4, 'an unknown K/V type and a missing Python, for each load');
  t.match(failures[0], /^vLLM: .*ENOENT/);
  t.match(failures[1], /^longhaul, K\/V f3: /);
  t.match(report.versions, { longhaul: /^\d/, 'llama-server': 'b7' });
  for (const { values } of report.rows.slice(0, 2)) {
    t.equal(values.completed?.median, 4);
    t.equal(values.total_input_tokens?.median, 64);
    t.equal(values.total_output_tokens?.median, 16);
  }
  for (const { values } of report.rows.slice(2)) t.ok(values.num_gaps!.median >= 1);
  t.match(report.rows[2]!.config, /K\/V f16 --itl-target-ms 50/);
  t.match(
    said.join('\n'),
    /load: warm-up: longhaul.*\n.*load: warm-up: llama-server.*\n.*round 1 of 2/,
  );
  t.match(httpText(report), /longhaul \/ best peer/);
});

t.test("the servers' settings", async (t) => {
  const options = {
    modelPath: 'm.gguf',
    threads: 2,
    parallel: 16,
    maxLength: 640,
    kvDtypes: ['f16', 'q8'],
    itlTargetMs: null,
    llamaServer: '/x/llama-server',
    vllmPython: null,
    scratch: '/s',
  };
  const specs = await serverSpecs(options, () => t.fail('nothing to prepare'));
  t.same(
    specs.map(({ peer, config }) => `${peer}: ${config}`),
    ['longhaul: K/V f16', 'longhaul: K/V q8', 'llama-server: --parallel 16 -fa on, K/V f16'],
  );
  t.match(
    specs[1]!.args(7).join(' '),
    / serve --model m\.gguf .*--port 7 --threads 2 --kv-dtype q8 /,
  );
  t.match(specs[2]!.args(7).join(' '), /-m m\.gguf .*--port 7 -t 2 .*--parallel 16 -c 10240 /);
});
