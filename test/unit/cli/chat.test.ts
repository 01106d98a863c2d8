/** longhaul chat, with piped input. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import t from 'tap';
import { start } from './run-cli.js';

// Each start of the program costs seconds on a busy machine.
t.setTimeout(180_000);

t.test('chat: a model in this process, piped input', async (t) => {
  const chat = start([
    'chat',
    '--synthetic',
    'tiny',
    '--kv-memory',
    '32MiB',
    '--max-tokens',
    '3',
    '--temperature',
    '0',
  ]);
  chat.write('hello\n/reset\nhello\n/exit\n');
  const { code, stdout, stderr } = await chat.ended;
  t.equal(code, 0, stderr);
  const answers = stdout.split('\n').slice(0, -1);
  t.equal(answers.length, 2);
  t.equal(answers[0], answers[1], 'after /reset the same question has the same answer');
});

t.test('chat: history goes along, errors are shown, the end of input ends it', async (t) => {
  const seen: Array<{ messages: Array<{ role: string; content: string }> }> = [];
  const server = createServer((request, response) => {
    let text = '';
    request.on('data', (chunk) => {
      text += chunk;
    });
    request.on('end', () => {
      if (request.url === '/v1/models') return response.end('{"data":[{"id":"m"}]}');
      seen.push(JSON.parse(text));
      if (seen.length === 2) return response.writeHead(400).end('{"error":{"message":"too hot"}}');
      const chunk = (delta: string): string =>
        `data: ${JSON.stringify({ choices: [{ delta: { content: delta } }] })}\n\n`;
      response.write(`: comment\n\n${chunk('al')}`);
      return response.end(`${chunk('pha')}data: [DONE]\n\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const chat = start(['chat', '--base-url', `${url}/v1/`, '--system', 'S']);
  chat.write('one\ntwo\nthree\n');
  chat.endInput();
  const { code, stdout, stderr } = await chat.ended;
  t.equal(stdout, 'alpha\nalpha\n');
  t.match(stderr, /^too hot$/m);
  t.equal(code, 1, 'a script can tell that something failed');
  t.same(seen[2]!.messages, [
    { role: 'system', content: 'S' },
    { role: 'user', content: 'one' },
    { role: 'assistant', content: 'alpha' },
    { role: 'user', content: 'three' },
  ]);
  const gone = await start(['chat', '--base-url', 'http://127.0.0.1:9']).ended;
  t.equal(gone.code, 1);
  t.match(gone.stderr, /127\.0\.0\.1:9 does not answer/);
});
