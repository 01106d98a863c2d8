/** How a transfer is shown: a bar in a terminal, plain lines elsewhere, or nothing. */
import { SingleBar } from 'cli-progress';
import { formatSize } from '../config.js';
import type { PullProgress } from '../models/pull-types.js';

const LINE_EVERY_MS = 2_000;

export interface ProgressReporter {
  onProgress(progress: PullProgress): void;
  stop(): void;
}

/** Writes to stderr: stdout is for results. */
export function makeReporter(quiet: boolean): ProgressReporter {
  if (quiet) return { onProgress: () => {}, stop: () => {} };
  return process.stderr.isTTY ? barReporter() : lineReporter();
}

function barReporter(): ProgressReporter {
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
        bar.start(total ?? 0, done, { label, size: sizes(done, total) });
        return;
      }
      if (total !== null) bar.setTotal(total);
      bar.update(done, { label, size: sizes(done, total) });
    },
    stop,
  };
}

function lineReporter(): ProgressReporter {
  let last = 0;
  return {
    onProgress({ label, done, total }) {
      const now = Date.now();
      const finished = total !== null && done >= total;
      if (now - last < LINE_EVERY_MS && !finished) return;
      last = now;
      const percent = total === null ? '' : ` (${Math.floor((done / total) * 100)}%)`;
      process.stderr.write(`${label}: ${sizes(done, total)}${percent}\n`);
    },
    stop: () => {},
  };
}

function sizes(done: number, total: number | null): string {
  return total === null ? formatSize(done) : `${formatSize(done)} of ${formatSize(total)}`;
}
