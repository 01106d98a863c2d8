/** The one logger: pino JSON on stdout, readable lines where a person is watching. */
import pino, { type DestinationStream, type Logger } from 'pino';
import pretty from 'pino-pretty';

export type { Logger } from 'pino';

export interface LoggerOptions {
  /** pino level name, or 'silent'. */
  level: string;
  /** Where lines go; stdout by default. */
  destination?: DestinationStream;
  /** Readable lines instead of JSON; by default where stdout is a terminal. */
  pretty?: boolean;
}

export function createLogger(options: LoggerOptions): Logger {
  const readable = options.pretty ?? (options.destination === undefined && process.stdout.isTTY);
  // Both destinations write synchronously: a line about a crash must not die in a buffer with it.
  const destination = options.destination ?? pino.destination({ dest: 1, sync: true });
  return pino(
    {
      level: options.level,
      // Several servers on a host are told apart by pid; the host name is the log collector's job.
      base: { pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    readable
      ? pretty({ destination, colorize: process.stdout.isTTY, ignore: 'pid', singleLine: true })
      : destination,
  );
}
