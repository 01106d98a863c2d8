/** longhaul pull: fetches models into the cache, with a progress bar. */
import { cacheFolder } from '../models/cache.js';
import { DEFAULT_MODEL } from '../models/registry.js';
import { resolveModel } from '../models/sources.js';
import { EXIT } from './exit-codes.js';
import { makeReporter } from './progress.js';

/** Paths go to stdout, one a line; everything else to stderr. */
export async function runPull(
  models: readonly string[],
  options: { quiet?: boolean },
): Promise<number> {
  const controller = new AbortController();
  const onSignal = (): void => controller.abort(new Error('interrupted; run pull again to resume'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const reporter = makeReporter(options.quiet === true);
  try {
    for (const model of models.length > 0 ? models : [DEFAULT_MODEL]) {
      const resolved = await resolveModel(model, {
        cache: cacheFolder(),
        signal: controller.signal,
        onProgress: (progress) => reporter.onProgress(progress),
      });
      reporter.stop();
      process.stdout.write(`${resolved.path}\n`);
    }
    return EXIT.ok;
  } catch (error) {
    reporter.stop();
    throw controller.signal.aborted ? controller.signal.reason : error;
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}
