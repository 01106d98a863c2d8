/** How every refusal of a model file reads: file, place, what was expected, what was found. */
import { inspect } from 'node:util';
import { EngineError } from '../errors.js';

const SHOWN_PARTS = {
  depth: 1,
  maxArrayLength: 8,
  maxStringLength: 60,
  breakLength: Number.POSITIVE_INFINITY,
  customInspect: false,
};

export interface FormatFault {
  file: string;
  /** The tensor, metadata key or header field at fault. */
  where: string;
  /** Byte offset in the file; absent for JSON files. */
  offset?: number;
  expected: string;
  found: string;
}

/** An ERR_MODEL_FORMAT error for the caller to throw. */
export function formatError(fault: FormatFault): EngineError {
  const at = fault.offset === undefined ? '' : ` at offset ${fault.offset}`;
  return new EngineError(
    'ERR_MODEL_FORMAT',
    `${fault.file}: ${fault.where}${at}: expected ${fault.expected}, found ${fault.found}`,
  );
}

/** An ERR_MODEL_UNAVAILABLE error: the model could not be found, fetched or stored. */
export function unavailable(message: string, cause?: unknown): EngineError {
  return new EngineError('ERR_MODEL_UNAVAILABLE', message, cause === undefined ? {} : { cause });
}

/**
 * A short rendering of an untrusted value for messages. Never calls what the value brings along: a
 * file's object may have a field named toString.
 */
export function shown(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value) : inspect(value, SHOWN_PARTS);
  return text.length > 120 ? `${text.slice(0, 117)}...` : text;
}
