/**
 * Arbitrary frames on a websocket: every generate with an id gets exactly one end, everything else
 * an answer or silence, and the socket still works afterwards.
 */
import { once } from 'node:events';
import fc from 'fast-check';
import t from 'tap';
import { WebSocket } from 'ws';
import { makeServer, until } from '../unit/http/harness.js';

const RUNS = Number(process.env.LONGHAUL_FUZZ_RUNS ?? 60);

const json = fc.jsonValue({ maxDepth: 3 });
const maybe = (right: fc.Arbitrary<unknown>) =>
  fc.oneof({ arbitrary: right, weight: 4 }, { arbitrary: json, weight: 1 });

const frame = fc.record(
  {
    type: maybe(fc.constantFrom('generate', 'cancel', 'done')),
    id: maybe(fc.constantFrom('a', 'b', 'c')),
    endpoint: maybe(fc.constantFrom('completions', 'chat.completions')),
    body: maybe(
      fc.record(
        {
          prompt: maybe(fc.string()),
          messages: maybe(fc.constant([{ role: 'user', content: 'x' }])),
          n: maybe(fc.integer({ min: 1, max: 3 })),
          stream: maybe(fc.boolean()),
          stop: maybe(fc.string()),
          logprobs: maybe(fc.nat(3)),
        },
        { requiredKeys: [] },
      ),
    ),
  },
  { requiredKeys: [] },
);

// Random frames seldom are valid as a whole: these always are, so that every run meets live ones.
const validGenerate = fc.record({
  type: fc.constant('generate'),
  id: fc.constantFrom('a', 'b', 'c'),
  endpoint: fc.constant('completions'),
  body: fc.record({ prompt: fc.string({ minLength: 1 }) }),
});

const wire = fc.oneof(
  { arbitrary: frame.map((value) => JSON.stringify(value)), weight: 8 },
  { arbitrary: validGenerate.map((value) => JSON.stringify(value)), weight: 4 },
  fc.string({ unit: 'binary' }),
  json.map((value) => JSON.stringify(value) ?? ''),
  fc.uint8Array({ maxLength: 40 }).map((bytes) => Buffer.from(bytes)),
);

t.test('frames', async (t) => {
  const { engine, listen } = await makeServer(t.teardown, {
    logLevel: 'silent',
    maxQueueRequests: 0,
  });
  let numScripts = 0;
  engine.script = (stream) => {
    numScripts += 1;
    // Some end at once, some a little later, so that cancels meet live generations.
    stream.tokens('ab');
    if (numScripts % 2 === 0) stream.finish('length');
    else setTimeout(() => stream.ended || stream.finish('length'), numScripts % 5);
  };
  const url = `${(await listen()).replace('http', 'ws')}/v1/stream`;
  let numDone = 0;

  await fc.assert(
    fc.asyncProperty(fc.array(wire, { maxLength: 30 }), async (frames) => {
      const socket = new WebSocket(url);
      const answers: Array<{ type: string; id?: unknown; error?: object }> = [];
      socket.on('message', (data) => answers.push(JSON.parse(String(data))));
      await once(socket, 'open');
      for (const item of frames) socket.send(item);
      socket.send(
        JSON.stringify({
          type: 'generate',
          id: 'last',
          endpoint: 'completions',
          body: { prompt: 'x' },
        }),
      );
      await until(() => answers.some(({ type, id }) => type === 'done' && id === 'last'));
      // A generation of the frames may still be running: its end has to come.
      const live = () => {
        const accepted = answers.filter(({ type }) => type === 'accepted').length;
        const ended = answers.filter(({ type }) => type === 'done').length;
        const aborted = answers.filter(
          ({ type, error }) =>
            type === 'error' &&
            (error as { longhaul_code: string }).longhaul_code === 'ERR_ABORTED',
        ).length;
        return accepted - ended - aborted;
      };
      await until(() => live() <= 0);
      for (const answer of answers) {
        if (!['accepted', 'chunk', 'done', 'error'].includes(answer.type)) {
          throw new Error(`unknown answer ${JSON.stringify(answer)}`);
        }
        const code = (answer.error as { longhaul_code?: string } | undefined)?.longhaul_code;
        if (code === 'ERR_INTERNAL') throw new Error(JSON.stringify(answer));
      }
      if (answers.filter(({ type, id }) => type === 'done' && id === 'last').length !== 1) {
        throw new Error('not exactly one end');
      }
      numDone += answers.filter(({ type }) => type === 'done').length;
      if (socket.readyState !== WebSocket.OPEN) throw new Error('the socket was closed');
      socket.close();
      await once(socket, 'close');
      engine.streams.length = 0;
    }),
    { numRuns: RUNS },
  );
  t.ok(numDone > RUNS, `${numDone} generations ran to their end`);
});

t.test('raw bytes after the upgrade', async (t) => {
  const { app, listen } = await makeServer(t.teardown, { logLevel: 'silent' });
  const url = `${(await listen()).replace('http', 'ws')}/v1/stream`;
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 64 }), async (bytes) => {
      const socket = new WebSocket(url);
      socket.on('error', () => {});
      await once(socket, 'open');
      const { _socket: tcp } = socket as unknown as { _socket: import('node:net').Socket };
      tcp.write(bytes);
      tcp.end();
      await once(socket, 'close');
      if ((await app.inject('/health/live')).statusCode !== 200) throw new Error('not alive');
    }),
    { numRuns: RUNS },
  );
  t.pass('alive');
});
