/** The client of `bench serve`, where its other tests do not reach. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { BenchClient } from '../../../src/bench/serve-client.js';

t.test('a hang-up with the end already there', async (t) => {
  const piece = `data: ${JSON.stringify({ choices: [{ text: 'a', finish_reason: null }] })}\n\n`;
  const server = createServer((_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.end(`${piece}data: [DONE]\n\n`);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const client = new BenchClient({
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    endpoint: '/v1/completions',
    model: 'm',
    apiKey: null,
    ignoreEos: true,
  });
  const hangUp = new AbortController();
  let numPieces = 0;
  const outcome = await client.send(
    { prompt: 'x', outputTokens: 5 } as Parameters<BenchClient['send']>[0],
    {
      signal: hangUp.signal,
      onPiece: () => {
        numPieces += 1;
        hangUp.abort();
      },
    },
  );
  t.equal(numPieces, 1);
  t.equal(outcome.error, null);
  // An error that nobody listens to would end this test by itself.
  await new Promise((resolve) => setTimeout(resolve, 20));
  client.close();
});
