/** longhaul pull: fetches models into the cache, with a bar in a terminal and plain lines elsewhere. */
import { SingleBar } from 'cli-progress';
import { formatSize } from '../config.js';
import { cacheFolder } from '../models/cache.js';
import type { PullProgress } from '../models/pull-types.js';
import { DEFAULT_MODEL } from '../models/registry.js';
import { resolveModel } from '../models/sources.js';
import { EXIT } from './exit-codes.js';

const LINE_EVERY_MS = 2_000;

interface Reporter {
  onProgress(progress: PullProgress): void;
  stop(): void;
}

/** Paths go to stdout, one a line; everything else to stderr. */
export async function runPull(models: readonly string[], options: { quiet?: boolean }): Promise<number> {
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new Error('interrupted; run pull again to resume'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  try {
    for (const model of models.length > 0 ? models : [DEFAULT_MODEL]) {
      const reporter = makeReporter(options.quiet === true);
      try {
        const resolved = await resolveModel(model, {
          cache: cacheFolder(),
          signal: controller.signal,
          onProgress: (progress) => reporter.onProgress(progress),
        });
        reporter.stop();
        process.stdout.write(`${resolved.path}\n`);
      } catch (error) {
        reporter.stop();
        throw controller.signal.aborted ? controller.signal.reason : error;
      }
    }
    return EXIT.ok;
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}

function makeReporter(quiet: boolean): Reporter {
  if (quiet) return { onProgress: () => {}, stop: () => {} };
  return process.stderr.isTTY ? barReporter() : lineReporter();
}

function barReporter(): Reporter {
  let bar: SingleBar | null = null;
  let current = '';
  const stop = (): void => {
    bar?.stop();
    bar = null;
  };
  return {
    onProgress({ label, done, total }) {
      if (label !== current || !bar) {
        stop();
        current = label;
        bar = new SingleBar({
          format: '{label} [{bar}] {percentage}% {size} ETA {eta_formatted}',
          hideCursor: true,
          stream: process.stderr,
          etaBuffer: 200,
        });
        bar.start(total ?? 0, done, { label, size: formatSize(done) });
        return;
      }
      if (total !== null) bar.setTotal(total);
      bar.update(done, { label, size: total === null ? formatSize(done) : `${formatSize(done)} of ${formatSize(total)}` });
    },
    stop,
  };
}

function lineReporter(): Reporter {
  let last = 0;
  return {
    onProgress({ label, done, total }) {
      const now = Date.now();
      const finished = total !== null && done >= total;
      if (now - last < LINE_EVERY_MS && !finished) return;
      last = now;
      const of = total === null ? '' : ` of ${formatSize(total)} (${Math.floor((done / total) * 100)}%)`;
      process.stderr.write(`${label}: ${formatSize(done)}${of}\n`);
    },
    stop: () => {},
  };
}
