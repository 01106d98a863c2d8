import { Writable } from 'node:stream';
import t from 'tap';
import { createLogger } from '../../../src/log.js';

function capture(options: { level: string; pretty?: boolean }): {
  lines: string[];
  logger: ReturnType<typeof createLogger>;
} {
  const lines: string[] = [];
  const destination = new Writable({
    write: (line, _encoding, done) => {
      lines.push(String(line));
      done();
    },
  });
  return { lines, logger: createLogger({ ...options, destination }) };
}

t.test('JSON lines with a named level, ISO time and pid', async (t) => {
  const { lines, logger } = capture({ level: 'info' });
  logger.debug('not this');
  logger.info({ event: 'listening', url: 'http://x' }, 'ready');
  t.equal(lines.length, 1);
  const line = JSON.parse(lines[0]!);
  t.match(line, {
    level: 'info',
    event: 'listening',
    url: 'http://x',
    msg: 'ready',
    pid: process.pid,
  });
  t.equal(new Date(line.time).toISOString(), line.time);
  t.notOk('hostname' in line);
});

t.test('errors keep their stack, silent is silent', async (t) => {
  const { lines, logger } = capture({ level: 'warn' });
  logger.error({ err: new Error('bad') }, 'failed');
  t.match(JSON.parse(lines[0]!).err, { message: 'bad', stack: /log\.test/ });
  const silent = capture({ level: 'silent' });
  silent.logger.fatal('nothing');
  t.strictSame(silent.lines, []);
});

t.test('readable lines for a terminal', async (t) => {
  const { lines, logger } = capture({ level: 'info', pretty: true });
  logger.info({ event: 'x' }, 'hello there');
  await new Promise((resolve) => setImmediate(resolve));
  t.match(lines.join(''), /INFO.*hello there.*"event":"x"/);
});
