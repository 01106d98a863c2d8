/**
 * The two real models of the end-to-end tests, from the product's own cache or fetched by the
 * product's own pull code. Where neither works the tests that need one are skipped, with the
 * reason; LONGHAUL_TEST_MODELS=required makes that a failure instead, =off skips without asking
 * the network.
 */
import { cacheFolder } from '../../src/models/cache.js';
import { findKnownModel } from '../../src/models/registry.js';
import { cachedKnownModel, resolveModel } from '../../src/models/sources.js';

/** Test name → known name of the registry. */
const KNOWN_NAMES = { smollm2: 'smollm2-135m-instruct', gemma3: 'gemma3-270m' } as const;
export type RealModel = keyof typeof KNOWN_NAMES;
export const REAL_MODELS: readonly RealModel[] = ['smollm2', 'gemma3'];

const FETCH_TIMEOUT_MS = 600_000;

export interface TestModel {
  /** '' when skipped. */
  path: string;
  sha256: string;
  /** tap's skip option: false, or why the model is not there. */
  skip: string | false;
}

/** Rejects only under LONGHAUL_TEST_MODELS=required. */
export async function testModel(name: RealModel): Promise<TestModel> {
  const known = findKnownModel(KNOWN_NAMES[name]);
  if (known === null) throw new Error(`${KNOWN_NAMES[name]} is not in the registry`);
  const policy = process.env.LONGHAUL_TEST_MODELS ?? 'fetch';
  const cache = cacheFolder();
  const cached = cachedKnownModel(known, cache);
  if (cached !== null) return { path: cached, sha256: known.sha256, skip: false };
  if (policy === 'off')
    return skipped(known.sha256, `${known.name} is not cached (LONGHAUL_TEST_MODELS=off)`);
  try {
    const signal = AbortSignal.timeout(FETCH_TIMEOUT_MS);
    const { path } = await resolveModel(known.name, { cache, signal });
    return { path, sha256: known.sha256, skip: false };
  } catch (error) {
    if (policy === 'required') throw error;
    const reason = error instanceof Error ? error.message : String(error);
    return skipped(
      known.sha256,
      `${known.name} could not be fetched: ${reason.replace(/\s+/g, ' ')}`,
    );
  }
}

function skipped(sha256: string, skip: string): TestModel {
  return { path: '', sha256, skip };
}
