/**
 * Wires the rooms together: model → native engine, tokenizer → engine → HTTP → listening. The only
 * place that knows all of them. What takes long runs side by side: native code loads weights on its
 * own thread while this one imports the HTTP stack and builds the tokenizer.
 */
import { readFileSync } from 'node:fs';
import type { AddressInfo } from 'node:net';
import type { NativeEngineHandle } from '../binding/addon.js';
import { loadAddon } from '../binding/addon.js';
import { ConfigError, defaultKvMemory, type ServeConfig } from '../config.js';
import { LocalEngine } from '../engine/engine.js';
import type { Logger } from '../log.js';
import type { ModelDescription } from '../models/model-types.js';
import type { PullProgress } from '../models/pull-types.js';
import { parseSource } from '../models/sources.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import { chooseBackend } from './backend-choice.js';
import { obtainModel } from './obtain-model.js';

export interface RunningServer {
  url: string;
  model: ModelDescription;
  /**
   * Refuses new requests at once, lets running ones finish within the configured time, then closes
   * everything. Idempotent.
   */
  stop(): Promise<void>;
}

/** Replies that a slow client has not read yet get this long after the engine is done. */
const FLUSH_MS = 5_000;

export interface StartOptions {
  config: ServeConfig;
  logger: Logger;
  /** Gives the start up. */
  signal: AbortSignal;
  /** Of a model that has to be fetched first. */
  onProgress: (progress: PullProgress) => void;
}

/** Throws EngineError or ConfigError; whatever was opened by then is closed. */
export async function startServer(options: StartOptions): Promise<RunningServer> {
  const { config, logger, signal } = options;
  const template = readTemplate(config);
  const backend = chooseBackend(config.backend);
  const addon = loadAddon();
  const model = await obtainModel(config, logger, signal, options.onProgress);
  signal.throwIfAborted();
  const nativeReady = addon.createEngine(model.native, {
    backend,
    threads: config.threads,
    isaLimit: config.isaLimit,
    kvMemoryBytes: config.kvMemoryBytes,
    kvMemoryDefaultBytes: defaultKvMemory(),
    kvDtype: config.kvDtype,
    blockSize: config.blockSize,
    maxNumSeqs: config.maxNumSeqs,
    maxNumBatchedTokens: config.maxNumBatchedTokens,
    maxModelLen: config.maxModelLen,
  });
  nativeReady.catch(() => {}); // awaited below; until then a failure is not an unhandled one
  let text: TextService | null = null;
  let native: NativeEngineHandle | null = null;
  try {
    const [{ createTextService }, http, metricsRoom] = await Promise.all([
      import('../tokenizer/text-service.js'),
      import('../http/server.js'),
      import('../metrics/metrics.js'),
    ]);
    text = createTextService(model.tokenizer, { chatTemplateOverride: template });
    native = await nativeReady;
    signal.throwIfAborted();
    return await assemble({ config, logger, model, native, text, http, metricsRoom });
  } catch (error) {
    await text?.close();
    native ??= await nativeReady.catch(() => null);
    await native?.close();
    throw error;
  }
}

interface Rooms {
  config: ServeConfig;
  logger: Logger;
  model: ModelDescription;
  native: NativeEngineHandle;
  text: TextService;
  http: typeof import('../http/server.js');
  metricsRoom: typeof import('../metrics/metrics.js');
}

async function assemble(rooms: Rooms): Promise<RunningServer> {
  const { config, logger, model, native, text } = rooms;
  const { info } = native;
  const id = config.servedModelName ?? model.name;
  const metrics = new rooms.metricsRoom.Metrics({ modelName: id, maxModelLen: info.maxModelLen });
  const { itlTargetMs, maxQueueRequests, maxQueueTokens, prefixCache, overlap, check } = config;
  const engine = new LocalEngine({
    native,
    options: { itlTargetMs, maxQueueRequests, maxQueueTokens, prefixCache, overlap, check },
    fingerprint: model.fingerprint,
    observer: metrics,
    onFailure: (error, plan) => {
      // A plan holds prompts, as token ids.
      const words = config.logPrompts && plan ? [...plan] : undefined;
      const { code } = error;
      logger.fatal({ event: 'engine-failed', code, plan: words }, error.message);
    },
  });
  metrics.attach(engine, {
    blockSize: info.blockSize,
    numBlocks: info.numBlocks,
    kvDtype: info.kvDtype,
    prefixCache,
  });
  const app = await rooms.http.buildServer({
    engine,
    text,
    config,
    model: {
      id,
      aliases: aliasesOf(config, model).filter((name) => name !== id),
      createdSeconds: Math.floor(Date.now() / 1000),
      maxModelLen: info.maxModelLen,
      defaults: model.defaults,
    },
    metrics,
    logger,
  });
  await app.listen({ host: config.host, port: config.port });
  logger.info({ event: 'model', name: id, format: model.format, ...info }, 'model loaded');

  let stopping: Promise<void> | null = null;
  const stop = async (): Promise<void> => {
    app.drain();
    await engine.drain(config.drainTimeoutMs);
    await Promise.race([app.close(), delay(FLUSH_MS)]);
    await text.close();
    await engine.close();
  };
  return {
    url: urlOf(app.server.address() as AddressInfo),
    model,
    stop: () => {
      stopping ??= stop();
      return stopping;
    },
  };
}

/**
 * Names that mean this model too: none beside a name chosen by flag. Random weights that were asked
 * for do not answer to the default model's name; those that stand in for it do, so that a first
 * example works as written. Paths and URLs of this machine are nobody's business.
 */
function aliasesOf(config: ServeConfig, model: ModelDescription): string[] {
  if (config.servedModelName !== null) return [];
  if (config.synthetic !== null) return [model.name];
  const { kind } = parseSource(config.model);
  return kind === 'path' || kind === 'url' ? [model.name] : [config.model, model.name];
}

function delay(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms).unref();
  });
}

function urlOf({ address, family, port }: AddressInfo): string {
  return `http://${family === 'IPv6' ? `[${address}]` : address}:${port}`;
}

function readTemplate(config: ServeConfig): string | null {
  if (config.chatTemplateFile === null) return null;
  try {
    return readFileSync(config.chatTemplateFile, 'utf8');
  } catch (error) {
    throw new ConfigError(
      '--chat-template',
      'a readable file',
      `${config.chatTemplateFile} (${(error as Error).message})`,
    );
  }
}
