/**
 * Predicts how long a step takes, so that the scheduler can size prefill chunks in milliseconds.
 * Linear in five features, learned online from measured steps:
 *
 *   ms ≈ fixed + prefill tokens · a + decode rows · b + decode context · c + prefill pairs · d
 *
 * where decode context sums the K/V lengths of decode rows and prefill pairs counts (query, key)
 * pairs of prefill rows. A Kalman filter on the coefficients (a random walk observed through
 * steps): unlike least squares with forgetting it neither winds up while every step looks alike
 * nor forgets what it has not seen lately. Errors count relative to the step's length.
 */

const NUM_FEATURES = 5;
/** Features are divided by these, so that coefficients are milliseconds of comparable size. */
const SCALE = [1, 256, 16, 16384, 1 << 20];
/** Before any measurement: 1 ms a token, a machine that is neither slow nor fast. */
const PRIOR = [1, 256, 8, 1, 16];
/** Measured steps scatter by about a tenth, and by scheduling noise of half a millisecond. */
const RELATIVE_NOISE = 0.1;
const ABSOLUTE_NOISE_MS = 0.5;
/** How far a coefficient may wander in one step, relative to itself: follows a change in ~50. */
const DRIFT = 0.02;
/** A measurement this many standard deviations off is a hiccup: it moves the model no further. */
const CLIP_SIGMAS = 4;

export interface StepWork {
  prefillTokens: number;
  decodeRows: number;
  decodeContext: number;
  prefillPairs: number;
}

export class StepCostModel {
  private readonly coefficients = Float64Array.from(PRIOR);
  /** [NUM_FEATURES, NUM_FEATURES], symmetric. */
  private readonly covariance = new Float64Array(NUM_FEATURES * NUM_FEATURES);
  private readonly features = new Float64Array(NUM_FEATURES);
  private readonly gain = new Float64Array(NUM_FEATURES);

  constructor() {
    for (let i = 0; i < NUM_FEATURES; i++) {
      // The prior may be off by an order of magnitude.
      this.covariance[i * NUM_FEATURES + i] = (10 * PRIOR[i]!) ** 2;
    }
  }

  /** Cost of a step whatever it computes, ms. */
  get fixedMs(): number {
    return this.coefficients[0]!;
  }

  predictMs(work: StepWork): number {
    this.fill(work);
    return this.predicted();
  }

  /** Milliseconds that `tokens` prefill tokens add, the first of them at `position`. */
  prefillMs(position: number, tokens: number): number {
    const { perToken, perPair } = this.prefillCost();
    return perToken * tokens + perPair * prefillPairs(position, tokens);
  }

  /** Prefill tokens from `position` on that fit into `ms`; may be 0 or Infinity. */
  prefillTokensWithin(ms: number, position: number): number {
    if (ms <= 0) return 0;
    const { perToken, perPair } = this.prefillCost();
    // perPair / 2 · x² + (perToken + perPair · position) · x = ms
    const linear = perToken + perPair * (position + 0.5);
    if (perPair <= 0) return linear > 0 ? Math.floor(ms / linear) : Number.POSITIVE_INFINITY;
    return Math.floor((Math.sqrt(linear * linear + 2 * perPair * ms) - linear) / perPair);
  }

  observe(work: StepWork, ms: number): void {
    this.fill(work);
    const { coefficients, covariance, features, gain } = this;
    for (let i = 0; i < NUM_FEATURES; i++) {
      const at = i * NUM_FEATURES + i;
      const drift = DRIFT * coefficients[i]! + 1e-3 * PRIOR[i]!;
      covariance[at] = Math.min(covariance[at]! + drift * drift, (10 * PRIOR[i]!) ** 2);
    }
    let variance = (RELATIVE_NOISE * ms) ** 2 + ABSOLUTE_NOISE_MS ** 2;
    for (let i = 0; i < NUM_FEATURES; i++) {
      let sum = 0;
      for (let j = 0; j < NUM_FEATURES; j++)
        sum += covariance[i * NUM_FEATURES + j]! * features[j]!;
      gain[i] = sum;
      variance += features[i]! * sum;
    }
    const limit = CLIP_SIGMAS * Math.sqrt(variance);
    const error = Math.max(-limit, Math.min(limit, ms - this.predicted()));
    for (let i = 0; i < NUM_FEATURES; i++) {
      // No work has a negative cost; without the bound, correlated features trade signs.
      coefficients[i] = Math.max(0, coefficients[i]! + (gain[i]! / variance) * error);
      for (let j = 0; j < NUM_FEATURES; j++) {
        covariance[i * NUM_FEATURES + j]! -= (gain[i]! * gain[j]!) / variance;
      }
    }
  }

  private prefillCost(): { perToken: number; perPair: number } {
    return {
      perToken: this.coefficients[1]! / SCALE[1]!,
      perPair: this.coefficients[4]! / SCALE[4]!,
    };
  }

  private fill(work: StepWork): void {
    this.features[0] = 1;
    this.features[1] = work.prefillTokens / SCALE[1]!;
    this.features[2] = work.decodeRows / SCALE[2]!;
    this.features[3] = work.decodeContext / SCALE[3]!;
    this.features[4] = work.prefillPairs / SCALE[4]!;
  }

  private predicted(): number {
    let sum = 0;
    for (let i = 0; i < NUM_FEATURES; i++) sum += this.coefficients[i]! * this.features[i]!;
    return sum;
  }
}

/** (query, key) pairs of `tokens` causal rows, the first at `position`. */
export function prefillPairs(position: number, tokens: number): number {
  return tokens * position + (tokens * (tokens + 1)) / 2;
}
