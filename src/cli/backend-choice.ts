/** Which backend runs the model, and why: the same words for serve's log and doctor's report. */
import { existsSync } from 'node:fs';
import type { ServeConfig } from '../config.js';
import { EngineError } from '../errors.js';

export interface BackendVerdict {
  name: string;
  usable: boolean;
  reason: string;
}

const DRIVER_FILES = ['/proc/driver/nvidia/version', '/dev/nvidiactl', '/dev/dxg'];

export function hasNvidiaDriver(): boolean {
  return DRIVER_FILES.some((path) => existsSync(path));
}

/** All backends of the interface, with a reason for each. `addonError` is null when it loads. */
export function backendVerdicts(addonError: string | null): BackendVerdict[] {
  const driver = hasNvidiaDriver() ? 'an NVIDIA driver is present' : 'no NVIDIA driver is present';
  return [
    {
      name: 'cpu',
      usable: addonError === null,
      reason: addonError ?? 'built into the addon; runs on any x86-64-v2 or arm64 machine',
    },
    { name: 'cuda', usable: false, reason: `this version has no CUDA plug-in (${driver})` },
    { name: 'cuda-emulated', usable: false, reason: 'this version has no emulated CUDA backend' },
  ];
}

/** The backend to ask native code for. Throws ERR_DEVICE for one that cannot run here. */
export function chooseBackend(wanted: ServeConfig['backend']): string {
  if (wanted === 'auto') return 'cpu';
  const verdict = backendVerdicts(null).find((entry) => entry.name === wanted)!;
  if (verdict.usable) return wanted;
  throw new EngineError('ERR_DEVICE', `--backend ${wanted}: ${verdict.reason}. Use auto or cpu.`);
}
