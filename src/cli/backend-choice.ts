/** Which backend can run a model here, and why: the same words for serve and for doctor's report. */
import { existsSync } from 'node:fs';
import { type Addon, loadAddon } from '../binding/addon.js';
import type { ServeConfig } from '../config.js';
import { EngineError } from '../errors.js';

export interface BackendVerdict {
  name: string;
  usable: boolean;
  reason: string;
}

type Probe = Pick<Addon, 'probeBackend'>;

const DRIVER_FILES = ['/proc/driver/nvidia/version', '/dev/nvidiactl', '/dev/dxg'];

export function hasNvidiaDriver(): boolean {
  return DRIVER_FILES.some((path) => existsSync(path));
}

/** All backends, with a reason for each; `addon` is null when it does not load, for `addonError`. */
export function backendVerdicts(addon: Probe | null, addonError: string | null): BackendVerdict[] {
  return ['cpu', 'cuda', 'cuda-emulated'].map((name) => {
    if (!addon) return { name, usable: false, reason: addonError ?? 'the addon does not load' };
    const { usable, reason } = addon.probeBackend(name);
    if (name !== 'cuda' || usable) return { name, usable, reason };
    const driver = hasNvidiaDriver()
      ? 'an NVIDIA driver is present'
      : 'no NVIDIA driver is present';
    return { name, usable, reason: `${reason} (${driver})` };
  });
}

/** What --backend auto takes; null when nothing can run. */
export function automaticBackend(verdicts: readonly BackendVerdict[]): string | null {
  const usable = (name: string): boolean =>
    verdicts.some((verdict) => verdict.name === name && verdict.usable);
  return ['cuda', 'cpu'].find(usable) ?? null;
}

/**
 * The backend to ask native code for, which decides itself what auto is. Throws ERR_DEVICE for a
 * device that cannot be used: before a model is looked for, and never with another in its place.
 */
export function chooseBackend(
  wanted: ServeConfig['backend'],
  addon: Probe = loadAddon(),
): ServeConfig['backend'] {
  if (wanted === 'auto' || wanted === 'cpu') return wanted;
  const { usable, reason } = addon.probeBackend(wanted);
  if (usable) return wanted;
  throw new EngineError('ERR_DEVICE', `--backend ${wanted} cannot be used: ${reason}`);
}
