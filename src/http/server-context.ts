/** What every route shares: the rooms below HTTP, the model's public face, and the server's gate. */
import type { Logger } from 'pino';
import type { ServeConfig } from '../config.js';
import type { Engine } from '../engine/engine-types.js';
import type { ModelDescription } from '../models/model-types.js';
import type { TextService } from '../tokenizer/tokenizer-types.js';
import type { Admission } from './admission.js';
import type { HealthMonitor } from './health-monitor.js';

/** The model as clients name it. */
export interface ModelInfo {
  id: string;
  /** Further names that are answered as the same model. */
  aliases: readonly string[];
  /** Unix time of /v1/models' `created`. */
  createdSeconds: number;
  maxModelLen: number;
  /** The model's own sampling defaults, used where a request names none. */
  defaults: ModelDescription['defaults'];
}

/** What HTTP counts; implemented by src/metrics/metrics.ts. */
export interface HttpMetrics {
  readonly contentType: string;
  /** Prometheus text exposition. */
  exposition(): Promise<string>;
  /** `route` is the route's pattern, or 'unknown'. */
  onResponse(route: string, code: number): void;
  /** A request's choices ended: how many, and the longest one's tokens. */
  onChoices(count: number, generatedTokensMax: number): void;
}

export interface ServerContext {
  engine: Engine;
  text: TextService;
  config: ServeConfig;
  model: ModelInfo;
  metrics: HttpMetrics;
  logger: Logger;
  admission: Admission;
  health: HealthMonitor;
  nextSeed: () => bigint;
  /** Tokens a sequence may hold, prompt and output. */
  contextLimit: number;
  version: string;
  /** After this long without an answer, a non-streaming reply sends its headers. */
  earlyHeadersMs: number;
}
