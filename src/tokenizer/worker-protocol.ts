/** Messages between text-service's workers and the main thread. */
import type { ErrorCode } from '../errors.js';
import type { EncoderProfile } from './prompt-encoder.js';
import type { ChatRender } from './tokenizer-types.js';

export interface WorkerSetup {
  /** Id of the native tokenizer, which the main thread keeps alive. */
  tokenizerId: number;
  profile: EncoderProfile;
}

export type Job =
  | { type: 'encode'; text: string; addSpecialTokens: boolean }
  | { type: 'chat'; request: ChatRender };

export interface JobResult {
  /** '' for encode. */
  text: string;
  tokens: Int32Array;
}

/** One job at a time: 'ready' once, then for each job 'rendered' (chat only) and an outcome. */
export type WorkerReply =
  | { type: 'ready' }
  | { type: 'rendered' }
  | { type: 'done'; result: JobResult }
  | { type: 'failed'; code: ErrorCode; message: string; param: string | null };
