/** What the process says when it ends; scripts and supervisors read these. */
export const EXIT = {
  /** Drained, or a command that did what it was asked. */
  ok: 0,
  /** A failure that none of the others names. */
  failure: 1,
  /** A flag, variable or argument that cannot be used. */
  usage: 2,
  /** The model could not be found, fetched or read. */
  model: 3,
  /** The addon, the backend or the device failed. */
  device: 4,
} as const;

const MODEL_CODES = [
  'ERR_MODEL_FORMAT',
  'ERR_MODEL_UNAVAILABLE',
  'ERR_MODEL_NOT_FOUND',
  'ERR_UNSUPPORTED',
];
const DEVICE_CODES = ['ERR_DEVICE', 'ERR_OUT_OF_MEMORY'];

/** The exit code of a failed start. */
export function exitCodeOf(error: unknown): number {
  const code = (error as { code?: unknown } | null)?.code;
  const name = (error as { name?: unknown } | null)?.name;
  if (name === 'ConfigError' || code === 'ERR_INVALID_REQUEST') return EXIT.usage;
  if (typeof code === 'string' && MODEL_CODES.includes(code)) return EXIT.model;
  if (typeof code === 'string' && DEVICE_CODES.includes(code)) return EXIT.device;
  return EXIT.failure;
}
