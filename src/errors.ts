/**
 * The error table: every failure a user can meet, with its stable code, HTTP status and whether
 * a retry can help. Native code and workers raise the same codes.
 */

interface ErrorInfo {
  /** HTTP status; 0 where no HTTP answer exists (start-up, client gone). */
  status: number;
  retryable: boolean;
  /** OpenAI's `type`. */
  type: string;
  /** OpenAI's `code` where one exists, else null. */
  openaiCode: string | null;
}

const info = (
  status: number,
  retryable: boolean,
  type: string,
  openaiCode: string | null = null,
): ErrorInfo => ({ status, retryable, type, openaiCode });

export const ERRORS = {
  ERR_INVALID_REQUEST: info(400, false, 'invalid_request_error'),
  ERR_CONTEXT_TOO_LONG: info(400, false, 'invalid_request_error', 'context_length_exceeded'),
  ERR_UNSUPPORTED: info(400, false, 'invalid_request_error', 'unsupported_parameter'),
  ERR_MODEL_NOT_FOUND: info(404, false, 'invalid_request_error', 'model_not_found'),
  ERR_NOT_FOUND: info(404, false, 'invalid_request_error'),
  ERR_METHOD_NOT_ALLOWED: info(405, false, 'invalid_request_error'),
  ERR_BODY_TOO_LARGE: info(413, false, 'invalid_request_error'),
  ERR_QUEUE_FULL: info(429, true, 'rate_limit_error', 'rate_limit_exceeded'),
  ERR_KV_EXHAUSTED: info(503, true, 'server_error'),
  ERR_SHUTTING_DOWN: info(503, true, 'server_error'),
  ERR_ABORTED: info(0, false, 'server_error'),
  ERR_DEADLINE: info(504, true, 'server_error'),
  ERR_MODEL_FORMAT: info(0, false, 'server_error'),
  ERR_MODEL_UNAVAILABLE: info(0, true, 'server_error'),
  ERR_OUT_OF_MEMORY: info(500, false, 'server_error'),
  ERR_DEVICE: info(500, false, 'server_error'),
  ERR_INTERNAL: info(500, false, 'server_error'),
} as const satisfies Record<string, ErrorInfo>;

export type ErrorCode = keyof typeof ERRORS;

/** The codes native code can raise, in the order of `ErrorCode` in native/status.h (index 0 is OK). */
export const NATIVE_ERROR_CODES = [
  'OK',
  'ERR_INVALID_REQUEST',
  'ERR_MODEL_FORMAT',
  'ERR_UNSUPPORTED',
  'ERR_OUT_OF_MEMORY',
  'ERR_DEVICE',
  'ERR_ABORTED',
  'ERR_INTERNAL',
] as const;

export interface ErrorDetails {
  /** The request field at fault, as OpenAI's `param`. */
  param?: string;
  /** For 429 and 503: seconds after which a retry makes sense. */
  retryAfterSeconds?: number;
  cause?: unknown;
}

/** The one error class that crosses rooms. The message names field, expected and received. */
export class EngineError extends Error {
  readonly code: ErrorCode;
  readonly param: string | null;
  readonly retryAfterSeconds: number | null;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'EngineError';
    this.code = code;
    this.param = details.param ?? null;
    this.retryAfterSeconds = details.retryAfterSeconds ?? null;
  }

  get status(): number {
    return ERRORS[this.code].status;
  }

  get retryable(): boolean {
    return ERRORS[this.code].retryable;
  }
}

/** Wraps anything thrown into an EngineError; what is not one already becomes ERR_INTERNAL. */
export function toEngineError(error: unknown): EngineError {
  if (error instanceof EngineError) return error;
  const message = error instanceof Error ? error.message : String(error);
  const code = (error as { code?: unknown } | null)?.code;
  if (typeof code === 'string' && Object.hasOwn(ERRORS, code)) {
    return new EngineError(code as ErrorCode, message, { cause: error });
  }
  return new EngineError('ERR_INTERNAL', message, { cause: error });
}

/** The JSON body of an error answer, OpenAI's shape with our stable code beside it. */
export function errorBody(error: EngineError): {
  error: {
    message: string;
    type: string;
    param: string | null;
    code: string | null;
    longhaul_code: ErrorCode;
  };
} {
  const entry = ERRORS[error.code];
  return {
    error: {
      message: error.message,
      type: entry.type,
      param: error.param,
      code: entry.openaiCode,
      longhaul_code: error.code,
    },
  };
}
