/**
 * From config to a model description: synthetic, from the cache, or fetched. Only the default model
 * may fall back to a synthetic one: somebody who named a model wants that model or an error.
 */
import type { ServeConfig } from '../config.js';
import type { Logger } from '../log.js';
import { cacheFolder } from '../models/cache.js';
import { loadModel, loadSynthetic } from '../models/load-model.js';
import type { ModelDescription } from '../models/model-types.js';
import type { PullProgress } from '../models/pull-types.js';
import { DEFAULT_MODEL } from '../models/registry.js';
import { isUnreachable, parseSource, resolveModel } from '../models/sources.js';

const FALLBACK_SHAPE = 'smollm2';
/** Throws EngineError. `signal` stops a transfer. */
export async function obtainModel(
  config: ServeConfig,
  logger: Logger,
  signal: AbortSignal,
  onProgress: (progress: PullProgress) => void,
): Promise<ModelDescription> {
  if (config.synthetic !== null) return loadSynthetic(config.synthetic);
  try {
    const resolved = await resolveModel(config.model, { cache: cacheFolder(), signal, onProgress });
    const model = loadModel(resolved.path, resolved.name ?? undefined);
    const source = parseSource(config.model);
    if (source.kind !== 'known') return model;
    return { ...model, defaults: { ...model.defaults, ...source.model.defaults } };
  } catch (error) {
    if (signal.aborted || config.model !== DEFAULT_MODEL || !isUnreachable(error)) throw error;
    logger.error(
      { event: 'synthetic-fallback', reason: (error as Error).message },
      'THE DEFAULT MODEL COULD NOT BE FETCHED. Serving RANDOM WEIGHTS instead: the API works, the ' +
        'text is meaningless. Fetch the model with "longhaul pull" where a network is, or name a ' +
        'file with --model.',
    );
    return loadSynthetic(FALLBACK_SHAPE, 'synthetic');
  }
}
