/**
 * RoPE inverse frequencies after scaling, computed once at load in double precision. The engine
 * only ever sees `angle = position * invFreq[i]` and one factor on cos and sin.
 *
 * Rules: linear position interpolation (Chen et al. 2023, arXiv 2306.15595), YaRN (Peng et al. 2023,
 * arXiv 2309.00071, equations 17-25), Llama 3's piecewise scaling (Llama 3.1 model card). Scalings
 * that depend on the running length ("dynamic", "longrope") are refused: cached keys would change
 * meaning while a sequence grows.
 */
import { EngineError } from '../errors.js';
import { shown } from './model-error.js';

export interface RopeParameters {
  type: string;
  theta: number;
  /** Rotated channels of a head: even. */
  dim: number;
  /** linear, llama3, yarn. */
  factor?: number;
  /** llama3, yarn: the context length the model was trained at before scaling. */
  originalMaxPosition?: number;
  /** llama3. */
  lowFreqFactor?: number;
  highFreqFactor?: number;
  /** yarn; the factor on cos and sin is derived from the others when absent. */
  attentionFactor?: number;
  betaFast?: number;
  betaSlow?: number;
  mscale?: number;
  mscaleAllDim?: number;
  /** yarn: round the ramp's ends to whole channels; true unless the model says otherwise. */
  truncate?: boolean;
  /** Per-channel divisors, dim / 2 of them (GGUF's rope_freqs tensor). */
  divisors?: Float32Array;
}

export interface Rope {
  /** [dim / 2] */
  invFreq: Float32Array;
  attentionFactor: number;
}

/** Throws ERR_MODEL_FORMAT naming `where` for an unknown type or a parameter out of range. */
export function computeRope(parameters: RopeParameters, where: string): Rope {
  const { type, theta, dim } = parameters;
  if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0) {
    throw invalid(where, 'rotated channels', 'an even number above 0', dim);
  }
  positive(where, 'theta', theta);
  const frequencies = new Float64Array(dim / 2);
  for (let i = 0; i < frequencies.length; i++) frequencies[i] = theta ** (-(2 * i) / dim);
  const attentionFactor = scale(frequencies, parameters, where, type);
  divide(frequencies, parameters.divisors, where);
  return { invFreq: Float32Array.from(frequencies), attentionFactor };
}

function scale(frequencies: Float64Array, p: RopeParameters, where: string, type: string): number {
  switch (type) {
    case 'default':
      return 1;
    case 'linear': {
      const factor = positive(where, 'factor', p.factor);
      for (let i = 0; i < frequencies.length; i++) frequencies[i]! /= factor;
      return 1;
    }
    case 'llama3':
      scaleLlama3(frequencies, p, where);
      return 1;
    case 'yarn':
      return scaleYarn(frequencies, p, where);
    default:
      throw invalid(where, 'RoPE scaling type', 'default, linear, llama3 or yarn', type);
  }
}

function scaleLlama3(frequencies: Float64Array, p: RopeParameters, where: string): void {
  const factor = positive(where, 'factor', p.factor);
  const low = positive(where, 'low_freq_factor', p.lowFreqFactor);
  const high = positive(where, 'high_freq_factor', p.highFreqFactor);
  const original = positive(where, 'original_max_position_embeddings', p.originalMaxPosition);
  for (let i = 0; i < frequencies.length; i++) {
    const frequency = frequencies[i]!;
    const turns = (original * frequency) / (2 * Math.PI);
    if (turns > high) continue;
    if (turns < low) {
      frequencies[i] = frequency / factor;
      continue;
    }
    const smooth = (turns - low) / (high - low);
    frequencies[i] = ((1 - smooth) * frequency) / factor + smooth * frequency;
  }
}

function scaleYarn(frequencies: Float64Array, p: RopeParameters, where: string): number {
  const factor = positive(where, 'factor', p.factor);
  const original = positive(where, 'original_max_position_embeddings', p.originalMaxPosition);
  const truncate = p.truncate ?? true;
  // The channel that turns `rotations` times within the original context.
  const channel = (rotations: number): number =>
    (p.dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(p.theta));
  let low = channel(positive(where, 'beta_fast', p.betaFast ?? 32));
  let high = channel(positive(where, 'beta_slow', p.betaSlow ?? 1));
  if (truncate) {
    low = Math.floor(low);
    high = Math.ceil(high);
  }
  low = Math.max(low, 0);
  high = Math.min(high, p.dim - 1);
  if (low === high) high += 0.001; // no division by zero: a step instead of a ramp
  for (let i = 0; i < frequencies.length; i++) {
    const interpolated = Math.min(1, Math.max(0, (i - low) / (high - low)));
    const frequency = frequencies[i]!;
    frequencies[i] = (frequency / factor) * interpolated + frequency * (1 - interpolated);
  }
  if (p.attentionFactor !== undefined) return p.attentionFactor;
  const magnitude = (weight: number): number =>
    factor <= 1 ? 1 : 0.1 * weight * Math.log(factor) + 1;
  if (p.mscale && p.mscaleAllDim) return magnitude(p.mscale) / magnitude(p.mscaleAllDim);
  return magnitude(1);
}

function divide(
  frequencies: Float64Array,
  divisors: Float32Array | undefined,
  where: string,
): void {
  if (!divisors) return;
  if (divisors.length !== frequencies.length) {
    throw invalid(where, 'frequency divisors', `${frequencies.length} of them`, divisors.length);
  }
  for (let i = 0; i < frequencies.length; i++) {
    frequencies[i]! /= positive(where, `frequency divisor ${i}`, divisors[i]);
  }
}

function positive(where: string, name: string, value: number | undefined): number {
  if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value;
  throw invalid(where, name, 'a number above 0', value);
}

function invalid(where: string, name: string, expected: string, found: unknown): EngineError {
  return new EngineError(
    'ERR_MODEL_FORMAT',
    `${where}: ${name}: expected ${expected}, found ${shown(found)}`,
  );
}
