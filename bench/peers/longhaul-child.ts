/** longhaul as a child of bench/compare.ts. */

import { LIMIT_EFFORT } from '../../src/bench/engine-bench.js';
import { EngineDriver } from '../../src/bench/engine-driver.js';
import { secondsAtLimit } from '../../src/bench/limits.js';
import { loadAddon, type NativeEngineOptions } from '../../src/binding/addon.js';
import { packageVersion } from '../../src/http/version.js';
import { loadModel } from '../../src/models/load-model.js';
import { type PeerSetup, servePeer } from './protocol.js';

const setup = JSON.parse(process.argv[2]!) as PeerSetup;
const model = loadModel(setup.modelPath).native;
const isaLimit = process.env.LONGHAUL_ISA ?? '';
const driver = await EngineDriver.create(model, {
  threads: setup.threads,
  isaLimit,
  kvDtype: setup.settings.kv as NativeEngineOptions['kvDtype'], // the engine refuses what it lacks
  maxBatch: setup.maxBatch,
  maxLength: setup.maxLength,
  seed: setup.seed,
});
const { info } = driver;
await servePeer(
  { version: packageVersion(), isa: info.isa, threads: info.threads },
  async ({ command, workload }) => {
    if (command === 'measure') return { seconds: await driver.measure(workload) };
    const limits = loadAddon().measureLimits({ threads: info.threads, isaLimit, ...LIMIT_EFFORT });
    return { limitSeconds: secondsAtLimit(workload, model, info, limits) };
  },
);
await driver.close();
