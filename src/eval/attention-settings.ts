/** Which ways of attending a run compares: names times sparsities and absolute sizes. */
import { ConfigError } from '../config.js';
import type { AttentionSetting } from './eval-types.js';

export const EXACT: AttentionSetting = { attention: 'exact', sparsity: null, keptTokens: null };

/**
 * One setting for 'exact'; one for every other name and each sparsity and number of kept tokens,
 * or with the engine's own default where neither is given. Throws ConfigError.
 */
export function listSettings(flags: {
  attention: string;
  sparsity?: string | undefined;
  keptTokens?: string | undefined;
  /** Exact attention is run too, before all others. */
  paired: boolean;
}): AttentionSetting[] {
  const names = [...new Set(flags.attention.split(',').map((name) => name.trim()))];
  for (const name of names) {
    if (!/^[a-z][a-z0-9-]*$/.test(name)) throw new ConfigError('--attention', 'names', name);
  }
  const sparsities = numbersOf('--sparsity', flags.sparsity, 0, 0.999);
  const kept = numbersOf('--kept-tokens', flags.keptTokens, 1, 1e9).map((value) => {
    if (Number.isInteger(value)) return value;
    throw new ConfigError('--kept-tokens', 'whole numbers', value);
  });
  const settings = names.flatMap((attention): AttentionSetting[] => {
    if (attention === EXACT.attention) return [EXACT];
    if (sparsities.length + kept.length === 0) {
      return [{ attention, sparsity: null, keptTokens: null }];
    }
    return [
      ...sparsities.map((sparsity) => ({ attention, sparsity, keptTokens: null })),
      ...kept.map((keptTokens) => ({ attention, sparsity: null, keptTokens })),
    ];
  });
  if (settings.every((setting) => setting === EXACT) && sparsities.length + kept.length > 0) {
    const flag = sparsities.length > 0 ? '--sparsity' : '--kept-tokens';
    throw new ConfigError(flag, 'an --attention other than exact', flags.attention);
  }
  return flags.paired && !settings.includes(EXACT) ? [EXACT, ...settings] : settings;
}

function numbersOf(flag: string, text: string | undefined, min: number, max: number): number[] {
  if (text === undefined) return [];
  const values = text.split(',').map((part) => {
    const value = part.trim() === '' ? Number.NaN : Number(part);
    if (value >= min && value <= max) return value;
    throw new ConfigError(flag, `numbers from ${min} to ${max}, comma-separated`, part);
  });
  return [...new Set(values)];
}

/** "squeezed 0.9", "squeezed 2048 kept", "exact". */
export function describeSetting({ attention, sparsity, keptTokens }: AttentionSetting): string {
  if (sparsity !== null) return `${attention} ${sparsity}`;
  return keptTokens === null ? attention : `${attention} ${keptTokens} kept`;
}
