/**
 * longhaul serve: start, say so, and drain on SIGTERM or SIGINT. A second signal ends the process
 * at once.
 */
import { type ServeConfig, serveConfig } from '../config.js';
import { createLogger, type Logger } from '../log.js';
import type { PullProgress } from '../models/pull-types.js';
import { EXIT, exitCodeOf } from './exit-codes.js';
import { type RunningServer, startServer } from './start-server.js';

const PROGRESS_EVERY_MS = 2_000;

/** Returns the exit code; throws ConfigError before anything is started. */
export async function runServe(
  given: Partial<Record<keyof ServeConfig, unknown>>,
): Promise<number> {
  const config = serveConfig(given);
  const logger = createLogger({ level: config.logLevel });
  const starting = new AbortController();
  const signals = listenForSignals(logger, () =>
    starting.abort(new Error('stopped while starting')),
  );
  let server: RunningServer;
  try {
    server = await startServer({
      config,
      logger,
      signal: starting.signal,
      onProgress: progressLines(logger),
    });
  } catch (error) {
    if (starting.signal.aborted) return EXIT.ok;
    if (error instanceof Error && error.name === 'ConfigError') throw error;
    const { code } = error as { code?: unknown };
    logger.fatal({ event: 'start-failed', code }, (error as Error).message);
    // Where stdout is a log file, the person at the terminal still sees why.
    if (!process.stdout.isTTY) process.stderr.write(`longhaul: ${(error as Error).message}\n`);
    return startExitCode(error);
  }
  const startMs = Math.round(performance.now());
  logger.info({ event: 'listening', url: server.url, startMs }, `listening on ${server.url}`);
  await signals.first;
  await server.stop();
  logger.info({ event: 'drained' }, 'drained');
  return EXIT.ok;
}

/** A log line about a transfer now and then. */
function progressLines(logger: Logger): (progress: PullProgress) => void {
  let last = 0;
  return ({ label, done, total }) => {
    const now = Date.now();
    if (now - last < PROGRESS_EVERY_MS) return;
    last = now;
    const percent = total ? Math.floor((done / total) * 100) : null;
    logger.info({ event: 'pull', file: label, bytes: done, total, percent }, 'fetching the model');
  };
}

/** A port in use is a matter of usage: the flag names it. */
function startExitCode(error: unknown): number {
  const code = (error as NodeJS.ErrnoException).code;
  if (code === 'EADDRINUSE' || code === 'EACCES' || code === 'EADDRNOTAVAIL') return EXIT.usage;
  return exitCodeOf(error);
}

function listenForSignals(logger: Logger, onFirst: () => void): { first: Promise<void> } {
  let count = 0;
  const first = new Promise<void>((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) {
      process.on(signal, () => {
        count += 1;
        if (count > 1) {
          logger.warn({ event: 'forced' }, 'second signal: ending at once');
          process.exit(EXIT.failure);
        }
        logger.info({ event: 'draining', signal }, 'draining; a second signal ends at once');
        onFirst();
        resolve();
      });
    }
  });
  return { first };
}
