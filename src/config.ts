/** One Config type: defaults, limits, units. The only reader of environment and flags. */

export interface ServeConfig {
  model: string;
  servedModelName: string | null;
  host: string;
  port: number;
  backend: 'auto' | 'cpu' | 'cuda' | 'cuda-emulated';
  /** 0 is automatic. */
  threads: number;
  isaLimit: string;
  kvMemoryBytes: number;
  kvDtype: 'f16' | 'bf16';
  blockSize: number;
  /** 0 is the model's own. */
  maxModelLen: number;
  maxNumSeqs: number;
  maxNumBatchedTokens: number;
  itlTargetMs: number;
  maxQueueRequests: number;
  maxQueueTokens: number;
  bodyLimitBytes: number;
  chatTemplateFile: string | null;
  prefixCache: boolean;
  overlap: boolean;
  check: boolean;
  seed: bigint | null;
  synthetic: string | null;
  debugRoutes: boolean;
  logLevel: string;
  logPrompts: boolean;
  drainTimeoutMs: number;
  heartbeatMs: number;
}
