/**
 * Confidence intervals for items that come in contexts. Items of one context share most of what
 * decides them, so the context is the unit of chance: means are taken within each context first,
 * and intervals over contexts.
 */
import type { EvalRandom } from './eval-random.js';

export interface Interval {
  mean: number;
  /** Bounds of the two-sided 95 % interval; null with fewer than two contexts. */
  low: number | null;
  high: number | null;
  /** One-sided: the true mean is below it with 95 % confidence; null as above. */
  upper_95: number | null;
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** Student's interval of the mean of `values`, one a context. Not for an empty list. */
export function studentInterval(values: readonly number[]): Interval {
  const n = values.length;
  const center = mean(values);
  if (n < 2) return { mean: center, low: null, high: null, upper_95: null };
  const variance = values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (n - 1);
  const error = Math.sqrt(variance / n);
  const twoSided = studentQuantile(0.975, n - 1) * error;
  return {
    mean: center,
    low: center - twoSided,
    high: center + twoSided,
    upper_95: center + studentQuantile(0.95, n - 1) * error,
  };
}

export interface Cluster {
  /** Contexts are drawn anew within their stratum: task and length. */
  stratum: string;
  sum: number;
  count: number;
}

/** Members of each key together, in the order in which keys first came. */
export function groupBy<T>(values: readonly T[], keyOf: (value: T) => string): T[][] {
  const groups = new Map<string, T[]>();
  for (const value of values) {
    const key = keyOf(value);
    const group = groups.get(key);
    if (group) group.push(value);
    else groups.set(key, [value]);
  }
  return [...groups.values()];
}

const RESAMPLES = 2000;

/**
 * Percentile bootstrap of the mean over all items, by drawing whole contexts with replacement
 * within each stratum. A stratum of one context says nothing about chance: bounds are null then.
 */
export function bootstrapInterval(clusters: readonly Cluster[], random: EvalRandom): Interval {
  const ratio = (sum: number, count: number): number => (count === 0 ? 0 : sum / count);
  const total = clusters.reduce((sum, cluster) => sum + cluster.sum, 0);
  const count = clusters.reduce((sum, cluster) => sum + cluster.count, 0);
  const strata = groupBy(clusters, ({ stratum }) => stratum);
  const center = ratio(total, count);
  if (strata.some((members) => members.length < 2)) {
    return { mean: center, low: null, high: null, upper_95: null };
  }
  const means = Array.from({ length: RESAMPLES }, () => {
    let sum = 0;
    let items = 0;
    for (const members of strata) {
      for (let i = 0; i < members.length; i++) {
        const drawn = random.pick(members);
        sum += drawn.sum;
        items += drawn.count;
      }
    }
    return ratio(sum, items);
  }).sort((left, right) => left - right);
  const at = (share: number): number => {
    const rank = (RESAMPLES - 1) * share;
    const below = means[Math.floor(rank)]!;
    return below + (means[Math.ceil(rank)]! - below) * (rank - Math.floor(rank));
  };
  return { mean: center, low: at(0.025), high: at(0.975), upper_95: at(0.95) };
}

/** The value a Student t of `freedom` degrees stays below with probability `p`, 0.5 <= p < 1. */
export function studentQuantile(p: number, freedom: number): number {
  let low = 0;
  let high = 1;
  while (studentCdf(high, freedom) < p) high *= 2;
  for (let i = 0; i < 100 && high - low > 1e-12 * high; i++) {
    const middle = (low + high) / 2;
    if (studentCdf(middle, freedom) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

function studentCdf(t: number, freedom: number): number {
  return 1 - incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2;
}

/** Regularized incomplete beta function by its continued fraction (DLMF 8.17.22, Lentz's method). */
function incompleteBeta(x: number, a: number, b: number): number {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  // The fraction converges fast on one side of the mean only; the other follows by symmetry.
  if (x > (a + 1) / (a + b + 2)) return 1 - incompleteBeta(1 - x, b, a);
  const front =
    Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log1p(-x)) /
    a;
  const tiny = 1e-300;
  let c = 1;
  let d = 1 / nonZero(1 - ((a + b) * x) / (a + 1), tiny);
  let fraction = d;
  for (let m = 1; m < 1000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / nonZero(1 + even * d, tiny);
    c = nonZero(1 + even / c, tiny);
    fraction *= d * c;
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / nonZero(1 + odd * d, tiny);
    c = nonZero(1 + odd / c, tiny);
    fraction *= d * c;
    if (Math.abs(d * c - 1) < 1e-15) break;
  }
  return front * fraction;
}

const nonZero = (value: number, tiny: number): number => (Math.abs(value) < tiny ? tiny : value);

/** Stirling's series after shifting the argument above 10; for x > 0. */
function logGamma(x: number): number {
  let shift = 0;
  let z = x;
  for (; z < 10; z++) shift -= Math.log(z);
  const inverse = 1 / (z * z);
  const series = (1 / 12 - inverse * (1 / 360 - inverse * (1 / 1260 - inverse / 1680))) / z;
  return shift + (z - 0.5) * Math.log(z) - z + Math.log(2 * Math.PI) / 2 + series;
}
