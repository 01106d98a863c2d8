/**
 * The two loops that drive an engine, side by side. Both run steps in order and give the same
 * outputs; the overlapped one plans and submits step n + 1 while step n runs, so that native code
 * never waits for JavaScript. Then a row's token may be "what this slot sampled last", and a
 * sequence that turns out to have ended in step n has its row of step n + 1 discarded.
 */
import type { ScheduledStep } from './scheduled-step.js';

/**
 * Steps predicted to take longer are not overlapped: the gap they would close is under 1 % of
 * them, while a request that arrives meanwhile would wait for two steps instead of one.
 */
const OVERLAP_STEP_MS_MAX = 100;

/** What a loop drives. */
export interface StepLoopHost {
  /** False once the loop shall end. */
  readonly isRunning: boolean;
  /** Null when nothing can run now. */
  schedule(): ScheduledStep | null;
  /** Rejects when native code failed; then no further step succeeds. */
  submit(words: Int32Array): Promise<Int32Array>;
  commit(result: Int32Array): void;
  /** Resolves when there may be work, or the loop shall end. */
  waitForWork(): Promise<void>;
}

export async function runPlainLoop(host: StepLoopHost): Promise<void> {
  while (host.isRunning) {
    const step = host.schedule();
    if (!step) {
      await host.waitForWork();
      continue;
    }
    host.commit(await host.submit(step.words));
  }
}

interface RunningStep {
  predictedMs: number;
  result: Promise<Int32Array>;
}

export async function runOverlappedLoop(host: StepLoopHost): Promise<void> {
  let running: RunningStep | null = null;
  while (host.isRunning || running) {
    let next: RunningStep | null = null;
    if (host.isRunning && (!running || running.predictedMs < OVERLAP_STEP_MS_MAX)) {
      next = submitNext(host);
    }
    if (running) host.commit(await running.result);
    else if (!next) await host.waitForWork();
    running = next;
  }
}

function submitNext(host: StepLoopHost): RunningStep | null {
  const step = host.schedule();
  if (!step) return null;
  const result = host.submit(step.words);
  // If an earlier step fails, nobody awaits this one: its rejection must not count as unhandled.
  result.catch(() => {});
  return { predictedMs: step.predictedMs, result };
}
