/** Pulls through a local proxy to a local origin: no network is used. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, request as httpRequest, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import t, { type Test } from 'tap';
import { proxyFor, pullFetch } from '../../../src/models/proxy.js';
import { pullHub } from '../../../src/models/pull-hub.js';
import type { PullContext } from '../../../src/models/pull-types.js';
import { causeOf, pullUrl } from '../../../src/models/pull-url.js';

const DATA = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 11) & 255));
const SHA = createHash('sha256').update(DATA).digest('hex');

function context(cache: string, env: NodeJS.ProcessEnv, signal?: AbortSignal): PullContext {
  return {
    cache,
    env,
    signal: signal ?? new AbortController().signal,
    onProgress: () => {},
    onAnswer: () => {},
  };
}

async function listen(t: Test, server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A file server that also answers as a hub and redirects /moved to another name of itself. */
async function serveOrigin(t: Test): Promise<number> {
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url!, 'http://origin');
    if (pathname.startsWith('/api/models/')) {
      const lfs = { oid: SHA, size: DATA.length, pointerSize: 134 };
      const entry = { type: 'file', path: 'm.gguf', size: DATA.length, oid: 'a'.repeat(40), lfs };
      response.end(JSON.stringify([entry]));
    } else if (pathname === '/moved') {
      response.writeHead(302, { location: `http://127.0.0.1:${port}/m.gguf` }).end();
    } else {
      const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
      const from = Number(range?.[1] ?? 0);
      const body = DATA.subarray(from, range?.[2] ? Number(range[2]) + 1 : DATA.length);
      const place = `bytes ${from}-${from + body.length - 1}/${DATA.length}`;
      response.writeHead(range ? 206 : 200, {
        etag: '"x"',
        'content-length': body.length,
        ...(range ? { 'content-range': place } : {}),
      });
      response.end(request.method === 'HEAD' ? undefined : body);
    }
  });
  const port = await listen(t, server);
  return port;
}

/** A forward proxy that takes every host for 127.0.0.1 and notes what it was asked. */
async function serveProxy(t: Test, seen: string[]): Promise<number> {
  const server = createServer((request, response) => {
    const url = new URL(request.url!);
    const password = request.headers['proxy-authorization'] ?? '';
    seen.push(`${request.method} ${url.host.replace(url.port, 'PORT')}${url.pathname} ${password}`);
    const { 'proxy-authorization': _, ...headers } = request.headers;
    const path = url.pathname + url.search;
    httpRequest({ port: url.port, path, method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    }).end();
  });
  return listen(t, server);
}

t.test('which proxy a URL goes through', async (t) => {
  const through = (url: string, env: NodeJS.ProcessEnv): string | null =>
    proxyFor(new URL(url), env)?.href ?? null;
  const both = { HTTP_PROXY: 'http://a:1', HTTPS_PROXY: 'http://b:2' };
  t.equal(through('http://x/', both), 'http://a:1/');
  t.equal(through('https://x/', both), 'http://b:2/');
  t.equal(through('https://x/', { HTTP_PROXY: 'http://a:1' }), null, 'one variable a scheme');
  t.equal(through('http://x/', { ...both, http_proxy: 'http://c:3' }), 'http://c:3/');
  t.equal(through('http://x/', { ...both, http_proxy: '' }), 'http://a:1/');
  t.equal(through('http://x/', { HTTP_PROXY: 'proxy:3128' }), 'http://proxy:3128/');
  t.equal(through('http://x/', {}), null);

  const direct = (url: string, list: string): boolean =>
    through(url, { ...both, NO_PROXY: list }) === null;
  t.ok(direct('https://anything/', '*'));
  t.ok(direct('https://hub.co/', 'a.b, hub.co'));
  t.ok(direct('https://cdn.hub.co/', 'hub.co'), 'subdomains too');
  t.ok(direct('https://cdn.hub.co/', '.hub.co'));
  t.ok(direct('https://cdn.HUB.co/', '*.Hub.co other'));
  t.notOk(direct('https://myhub.co/', 'hub.co'), 'whole labels only');
  t.notOk(direct('https://hub.co.evil/', 'hub.co'));
  t.notOk(direct('https://hub.co/', ''));
  t.notOk(direct('https://hub.co/', ', ,'));
  t.ok(direct('https://hub.co/', 'hub.co:443'), 'the port that the scheme implies');
  t.notOk(direct('http://hub.co/', 'hub.co:443'));
  t.ok(direct('http://hub.co:8080/', 'hub.co:8080'));
  t.ok(direct('http://[::1]:80/', '::1'));
  t.ok(direct('http://[::1]:8080/', '[::1]:8080'));
  t.notOk(direct('http://[::1]:8080/', '[::1]:80'));

  for (const HTTPS_PROXY of ['socks5://u:secret@p:1', 'http://u:secret@:x']) {
    const wrong = { code: 'ERR_MODEL_UNAVAILABLE', message: /^HTTPS_PROXY: expected an http/ };
    const error = t.throws(() => through('https://x/', { HTTPS_PROXY }), wrong) as Error;
    t.notMatch(error.message, /secret/);
    await t.rejects(pullFetch({ HTTPS_PROXY, NO_PROXY: '*' }), wrong, 'said at once');
  }
});

t.test('without a proxy the fetch is the runtime’s', async (t) => {
  t.equal(await pullFetch({ NO_PROXY: 'x', HTTP_PROXY: '' }), fetch);
});

t.test('a URL through a proxy, with its password', async (t) => {
  const seen: string[] = [];
  const origin = await serveOrigin(t);
  const proxy = await serveProxy(t, seen);
  const env = { HTTP_PROXY: `http://user:p%40ss@127.0.0.1:${proxy}` };
  const ctx = context(t.testdir(), env);
  const path = await pullUrl(`http://origin.test:${origin}/m.gguf`, { sha256: SHA }, ctx);
  t.ok(readFileSync(path).equals(DATA));
  const password = Buffer.from('user:p@ss').toString('base64');
  t.same(seen, [`GET origin.test:PORT/m.gguf Basic ${password}`]);
});

t.test('NO_PROXY goes straight there, for each host of a chain', async (t) => {
  const seen: string[] = [];
  const origin = await serveOrigin(t);
  const proxy = await serveProxy(t, seen);
  const env = { http_proxy: `http://127.0.0.1:${proxy}`, no_proxy: '127.0.0.1' };
  const straight = await pullUrl(
    `http://127.0.0.1:${origin}/m.gguf`,
    { sha256: SHA },
    context(t.testdir(), env),
  );
  t.ok(readFileSync(straight).equals(DATA));
  t.same(seen, []);
  const cache = t.testdir();
  await pullUrl(`http://origin.test:${origin}/moved`, { sha256: SHA }, context(cache, env));
  t.same(seen, ['GET origin.test:PORT/moved '], 'the redirect names an excluded host');
});

t.test('the hub through a proxy', async (t) => {
  const seen: string[] = [];
  const origin = await serveOrigin(t);
  const proxy = await serveProxy(t, seen);
  const env = {
    HF_ENDPOINT: `http://hub.test:${origin}`,
    HTTP_PROXY: `http://127.0.0.1:${proxy}`,
  };
  const source = { repo: 'org/repo', revision: 'main', file: 'm.gguf' };
  const path = await pullHub(source, {}, context(t.testdir(), env));
  t.ok(readFileSync(path).equals(DATA));
  t.ok(seen.length >= 2);
  t.ok(
    seen.every((line) => line.includes(' hub.test:PORT/')),
    seen.join('; '),
  );
});

t.test('HTTPS asks for a tunnel and speaks TLS in it', async (t) => {
  const proxy = createServer();
  const stop = new AbortController();
  const asked: string[] = [];
  let firstByte = -1;
  proxy.on('connect', (request, socket) => {
    asked.push(`${request.url} ${request.headers['proxy-authorization']}`);
    socket.on('error', () => {});
    socket.write('HTTP/1.1 200 OK\r\n\r\n');
    socket.once('data', (chunk: Buffer) => {
      firstByte = chunk[0]!;
      stop.abort();
      socket.destroy();
    });
  });
  const env = { HTTPS_PROXY: `http://u:p@127.0.0.1:${await listen(t, proxy)}` };
  const ctx = context(t.testdir(), env, stop.signal);
  await t.rejects(pullUrl('https://origin.test/m.gguf', {}, ctx), { name: 'AbortError' });
  t.same(asked, [`origin.test:443 Basic ${Buffer.from('u:p').toString('base64')}`]);
  t.equal(firstByte, 22, 'a TLS handshake record');
});

t.test('a tunnel that the proxy refuses is reported in its words', async (t) => {
  const proxy = createServer();
  proxy.on('connect', (_request, socket) => socket.end('HTTP/1.1 403 Forbidden\r\n\r\n'));
  const get = await pullFetch({ HTTPS_PROXY: `http://127.0.0.1:${await listen(t, proxy)}` });
  const error = await get('https://origin.test/').catch((thrown: unknown) => thrown);
  t.match(causeOf(error), /Proxy response \(403\)/);
});
