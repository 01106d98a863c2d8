/**
 * RoPE parameters of a config.json, in all spellings: rope_theta + rope_scaling (type or rope_type),
 * Gemma 3's rope_local_base_freq, and `rope_parameters` of transformers 5, flat or by layer type.
 */
import type { JsonFields } from './json-file.js';
import type { RopeParameters } from './rope.js';

export interface RopeContext {
  headDim: number;
  maxPosition: number;
  defaultTheta: number;
}

/** Parameters of the layers of one type ('full_attention' or 'sliding_attention'). */
export function hfRope(
  config: JsonFields,
  layerType: string,
  context: RopeContext,
): RopeParameters {
  const modern = config.child('rope_parameters');
  const nested = modern?.child(layerType) ?? null;
  const isNested =
    modern?.get('full_attention') !== undefined || modern?.get('sliding_attention') !== undefined;
  const fields = nested ?? (isNested ? null : (modern ?? config.child('rope_scaling') ?? null));
  const theta = fields?.number('rope_theta') ?? config.number('rope_theta') ?? context.defaultTheta;
  return parameters(config, fields, theta, context);
}

/** Gemma 3: global layers take rope_theta and rope_scaling, local ones rope_local_base_freq alone. */
export function gemmaRope(
  config: JsonFields,
  layerType: string,
  context: RopeContext,
): RopeParameters {
  const local = layerType === 'sliding_attention';
  const nested = config.child('rope_parameters')?.child(layerType) ?? null;
  const fields = nested ?? (local ? null : (config.child('rope_scaling') ?? null));
  const outer = local ? config.number('rope_local_base_freq') : config.number('rope_theta');
  const theta = fields?.number('rope_theta') ?? outer ?? context.defaultTheta;
  return parameters(config, fields, theta, context);
}

function parameters(
  config: JsonFields,
  fields: JsonFields | null,
  theta: number,
  context: RopeContext,
): RopeParameters {
  const partial =
    fields?.number('partial_rotary_factor') ?? config.number('partial_rotary_factor') ?? 1;
  const dim = Math.trunc(context.headDim * partial);
  const result: RopeParameters = {
    type: fields?.text('rope_type') ?? fields?.text('type') ?? 'default',
    theta,
    dim,
  };
  if (!fields || result.type === 'default') return result;
  // Older files carry the trained length beside the scaling rather than in it.
  const original =
    config.integer('original_max_position_embeddings', 1) ??
    fields.integer('original_max_position_embeddings', 1) ??
    context.maxPosition;
  result.originalMaxPosition = original;
  const factor =
    fields.number('factor') ??
    (result.type === 'yarn' ? context.maxPosition / original : undefined);
  assign(result, 'factor', factor);
  assign(result, 'lowFreqFactor', fields.number('low_freq_factor'));
  assign(result, 'highFreqFactor', fields.number('high_freq_factor'));
  assign(result, 'attentionFactor', fields.number('attention_factor'));
  assign(result, 'betaFast', fields.number('beta_fast'));
  assign(result, 'betaSlow', fields.number('beta_slow'));
  assign(result, 'mscale', fields.number('mscale'));
  assign(result, 'mscaleAllDim', fields.number('mscale_all_dim'));
  assign(result, 'truncate', fields.flag('truncate'));
  return result;
}

function assign<K extends keyof RopeParameters>(
  target: RopeParameters,
  key: K,
  value: RopeParameters[K] | undefined,
): void {
  if (value !== undefined) target[key] = value;
}
