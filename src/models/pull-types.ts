/** What all ways of fetching a model share. */

export interface PullProgress {
  /** What is being fetched, for people: a file or package name. */
  label: string;
  /** Bytes so far. */
  done: number;
  /** Bytes in all; null while unknown. */
  total: number | null;
}

export interface PullContext {
  /** The cache folder. */
  cache: string;
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  /** Called often; receivers throttle. */
  onProgress: (progress: PullProgress) => void;
  /** Called once, when the source has answered and the transfer begins. */
  onAnswer: () => void;
}

export interface ExpectedFile {
  sha256?: string | undefined;
  bytes?: number | undefined;
}
