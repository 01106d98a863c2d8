/** `bench serve` against servers written for the purpose: what is sent, and what is made of answers. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { arrivals, benchServe, firstModel, tokenCounter } from '../../../src/bench/serve-bench.js';
import { serverSentData } from '../../../src/bench/serve-client.js';
import {
  asText,
  customRequests,
  randomRequests,
  sharegptRequests,
} from '../../../src/bench/serve-datasets.js';
import { parseFlags, parseGoodput, serveTable } from '../../../src/cli/bench-serve.js';

type Body = Record<string, unknown>;
type Handler = (body: Body, response: ServerResponse, request: IncomingMessage) => void;

async function server(t: Test, handler: Handler): Promise<string> {
  const app = createServer((request, response) => {
    let text = '';
    request.on('data', (part) => {
      text += part;
    });
    request.on('end', () => handler(text === '' ? {} : JSON.parse(text), response, request));
  });
  await new Promise<void>((resolve) => app.listen(0, '127.0.0.1', resolve));
  t.teardown(() => app.close());
  return `http://127.0.0.1:${(app.address() as AddressInfo).port}`;
}

function stream(response: ServerResponse, count: number, promptTokens: number): void {
  const event = (data: object): string => `data: ${JSON.stringify(data)}\n\n`;
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(': heartbeat\n\n');
  for (let i = 0; i < count; i++) {
    const last = i === count - 1;
    response.write(event({ choices: [{ text: 'w', finish_reason: last ? 'length' : null }] }));
  }
  const usage = { prompt_tokens: promptTokens, completion_tokens: count };
  response.end(`${event({ choices: [], usage })}data: [DONE]\n\n`);
}

const RUN = {
  endpoint: '/v1/completions',
  model: 'm',
  apiKey: 'secret',
  ignoreEos: true,
  requestRate: Infinity,
  maxConcurrency: 2,
  goodput: {},
  seed: 1,
};

const DATASET = {
  numPrompts: 6,
  inputLength: 20,
  outputLength: 4,
  rangeRatio: 0,
  prefixLength: 0,
  vocabSize: 1000,
  seed: 3,
};

t.test('token ids, streamed, never more at once than allowed', async (t) => {
  const bodies: Body[] = [];
  let running = 0;
  let most = 0;
  const baseUrl = await server(t, (body, response, request) => {
    t.equal(request.headers.authorization, 'Bearer secret');
    bodies.push(body);
    most = Math.max(most, ++running);
    setTimeout(() => {
      running--;
      stream(response, body.max_tokens as number, (body.prompt as number[]).length);
    }, 5);
  });
  const requests = randomRequests(DATASET);
  const { metrics, promptsAs, outcomes } = await benchServe({ ...RUN, baseUrl, requests });
  t.equal(promptsAs, 'ids');
  t.equal(most, 2);
  t.match(metrics, {
    completed: 6,
    failed: 0,
    total_input_tokens: 120,
    total_output_tokens: 24,
  });
  t.ok(outcomes.every(({ itls }) => itls.length === 3));
  t.equal(bodies.length, 7, 'a probe and the requests');
  t.same(
    bodies.slice(1).map((body) => body.prompt),
    requests.map((request) => request.prompt),
  );
  t.match(bodies[1], {
    model: 'm',
    max_tokens: 4,
    temperature: 0,
    stream: true,
    stream_options: { include_usage: true },
    ignore_eos: true,
  });
});

t.test('a server that takes no ids is asked in words', async (t) => {
  const prompts: unknown[] = [];
  const baseUrl = await server(t, (body, response) => {
    if (typeof body.prompt !== 'string') {
      response.writeHead(400).end('{"error":{"message":"prompt: expected a string"}}');
      return;
    }
    prompts.push(body.prompt);
    stream(response, 2, 21);
  });
  const requests = randomRequests({ ...DATASET, numPrompts: 2 });
  const { metrics, promptsAs } = await benchServe({ ...RUN, baseUrl, requests });
  t.equal(promptsAs, 'text');
  t.equal(metrics.total_input_tokens, 42, "the server's count");
  t.equal((prompts[1] as string).split(' ').length, 20);
  t.same(asText(requests[0]!).prompt, prompts[1]);
});

t.test('failures are counted, not thrown; an unreachable server is', async (t) => {
  let count = 0;
  const baseUrl = await server(t, (body, response) => {
    count++;
    if (count === 3) response.writeHead(503).end('busy');
    else if (count === 4) {
      response.writeHead(200).write('data: {"choices":[{"text":"a"}]}\n\n');
      response.end('data: {"error":{"message":"device lost"}}\n\n');
    } else if (count === 5) response.destroy();
    else stream(response, body.max_tokens as number, 20);
  });
  const requests = randomRequests(DATASET);
  const { metrics, outcomes } = await benchServe({ ...RUN, maxConcurrency: 1, baseUrl, requests });
  t.match(metrics, { completed: 3, failed: 3 });
  const errors = outcomes.map(({ error }) => error).filter((error) => error !== null);
  t.match(errors[0], /^503: busy/);
  t.equal(errors[1], 'device lost');
  t.match(errors[2], /hang up|ECONNRESET/);
  const dead = 'http://127.0.0.1:9';
  await t.rejects(benchServe({ ...RUN, baseUrl: dead, requests }), /127\.0\.0\.1:9/);
  await t.rejects(firstModel(dead, null), /127\.0\.0\.1:9/);
});

t.test('the model and token counts come from the server', async (t) => {
  const baseUrl = await server(t, (_body, response, request) => {
    if (request.url === '/v1/models') response.end('{"data":[{"id":"first"},{"id":"second"}]}');
    else if (request.url === '/tokenize') response.end('{"tokens":[5,6,7]}');
    else response.writeHead(404).end();
  });
  t.equal(await firstModel(`${baseUrl}/`, null), 'first');
  t.equal(await tokenCounter(baseUrl, 'm', null)('abc'), 3);
  const without = await server(t, (_, response) => response.writeHead(404).end('no'));
  t.equal(await tokenCounter(without, 'm', null)('abcdefghi'), 3, 'four characters a token');
});

t.test('random prompts: lengths, range, prefix, seed', async (t) => {
  const requests = randomRequests({
    ...DATASET,
    numPrompts: 200,
    rangeRatio: 0.5,
    prefixLength: 3,
  });
  const lengths = requests.map((request) => request.prompt.length - 3);
  t.equal(Math.min(...lengths), 10);
  t.equal(Math.max(...lengths), 30);
  t.ok(requests.every(({ prompt, promptTokens }) => promptTokens === prompt.length));
  const ids = requests.flatMap(({ prompt }) => prompt as number[]);
  t.ok(ids.every((id) => id >= 300 && id < 1000));
  t.equal(new Set(requests.map(({ prompt }) => String(prompt.slice(0, 3)))).size, 1);
  t.same(randomRequests(DATASET), randomRequests(DATASET));
  t.notSame(randomRequests(DATASET), randomRequests({ ...DATASET, seed: 4 }));
});

t.test('ShareGPT and lines of a file', async (t) => {
  const turn = (value: string): object => ({ from: 'human', value });
  const folder = t.testdir({
    'chats.json': JSON.stringify([
      { conversations: [turn('question of six words in all'), turn('an answer of five words')] },
      { conversations: [turn('alone')] },
      { conversations: [turn('short'), turn('an answer of five words')] },
      { conversations: [turn('w '.repeat(1100)), turn('an answer of five words')] },
      {},
    ]),
    'lines.jsonl': '{"prompt":"one two","output_tokens":7}\n\n{"prompt":"three"}\n',
    'bad.jsonl': '{"text":"x"}\n',
    'empty.jsonl': '',
    'torn.json': '[{',
  });
  const words = async (text: string): Promise<number> => text.trim().split(' ').length;
  const chat = { prompt: 'question of six words in all', promptTokens: 6 };
  const chats = join(folder, 'chats.json');
  t.same(await sharegptRequests(chats, 1, null, 0, words), [{ ...chat, outputTokens: 5 }]);
  t.same(await sharegptRequests(chats, 2, 9, 0, words), [
    { ...chat, outputTokens: 9 },
    { ...chat, outputTokens: 9 },
  ]);
  const lines = join(folder, 'lines.jsonl');
  t.same(await customRequests(lines, 3, 4, words), [
    { prompt: 'one two', promptTokens: 2, outputTokens: 7 },
    { prompt: 'three', promptTokens: 1, outputTokens: 4 },
    { prompt: 'one two', promptTokens: 2, outputTokens: 7 },
  ]);
  for (const name of ['bad.jsonl', 'empty.jsonl', 'torn.json', 'missing']) {
    const wrong = customRequests(join(folder, name), 1, 4, words);
    await t.rejects(wrong, { name: 'ConfigError', message: /^--dataset-path: expected/ }, name);
  }
});

t.test('arrivals: all at once, or exponential gaps that end on time', async (t) => {
  t.same(arrivals(3, Infinity, 1), [0, 0, 0]);
  const times = arrivals(1000, 50, 1);
  t.ok(Math.abs(times.at(-1)! - 20) < 1e-9);
  const gaps = times.map((time, i) => time - (times[i - 1] ?? 0));
  t.ok(gaps.every((gap) => gap >= 0));
  const short = gaps.filter((gap) => gap < 0.02).length / 1000;
  t.ok(Math.abs(short - (1 - Math.exp(-1))) < 0.05, 'share of gaps below the mean');
});

t.test('events across chunk borders', async (t) => {
  const text = ': comment\r\ndata: {"a":"é"}\r\n\r\nevent: x\ndata:one\ndata: two\n\ndata: torn';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 3, 7, bytes.length]) {
    async function* parts(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
    }
    const events: string[] = [];
    for await (const data of serverSentData(parts())) events.push(data);
    t.same(events, ['{"a":"é"}', 'one\ntwo'], `parts of ${size}`);
  }
});

t.test('flags', async (t) => {
  const flags = {
    baseUrl: 'http://127.0.0.1:1',
    endpoint: '/v1/completions',
    datasetName: 'random',
    numPrompts: '4',
    randomInputLen: '8',
    randomOutputLen: '2',
    randomRangeRatio: '0',
    randomPrefixLen: '0',
    vocabSize: '1000',
    customOutputLen: '16',
    requestRate: 'inf',
    seed: '0',
  };
  const settings = parseFlags({
    ...flags,
    goodput: ['ttft:100,tpot:20', 'e2el:9'],
    requestRate: '2.5',
  });
  t.match(settings, { ignoreEos: true, requestRate: 2.5, maxConcurrency: null });
  t.same(settings.goodput, { ttft: 100, tpot: 20, e2el: 9 });
  t.equal((await settings.makeRequests('m')).length, 4);
  const refuse = (change: object, message: RegExp): void => {
    t.throws(() => parseFlags({ ...flags, ...change }), { name: 'ConfigError', message });
  };
  refuse({ baseUrl: 'ftp://x' }, /^--base-url/);
  refuse({ endpoint: '/v1/responses' }, /^--endpoint/);
  refuse({ datasetName: 'sonnet' }, /^--dataset-name: expected one of random, sharegpt, custom/);
  refuse({ datasetName: 'custom' }, /^--dataset-path/);
  refuse({ numPrompts: '0' }, /^--num-prompts/);
  refuse({ randomInputLen: '1.5' }, /^--random-input-len/);
  refuse({ randomRangeRatio: '1' }, /^--random-range-ratio/);
  refuse({ requestRate: '0' }, /^--request-rate/);
  refuse({ maxConcurrency: '-1' }, /^--max-concurrency/);
  refuse({ seed: 'x' }, /^--seed/);
  for (const pair of ['itl:5', 'ttft', 'ttft:', 'ttft:x', 'ttft:1:2']) {
    t.throws(() => parseGoodput([pair]), /^ConfigError: --goodput|--goodput/, pair);
  }
  t.match(serveTable({ completed: 2, failed: 1, request_goodput: null }), /^completed \/ failed/);
});
