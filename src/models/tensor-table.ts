/**
 * Checks a model's tensors against its config: every canonical tensor (native/model/weights.h)
 * present, of the right shape. What is left over is refused by name, because a weight that is
 * silently ignored changes the answers.
 */
import type { NativeModelConfig, NativeTensor } from '../binding/addon.js';
import { formatError } from './model-error.js';

/** `[rows, cols]` of every tensor a config needs, by canonical name, in the order of use. */
export function expectedTensors(config: NativeModelConfig): Map<string, readonly [number, number]> {
  const hidden = config.hiddenSize;
  const query = config.numHeads * config.headDim;
  const keyValue = config.numKvHeads * config.headDim;
  const wide = config.intermediateSize;
  const expected = new Map<string, readonly [number, number]>();
  expected.set('token_embedding', [config.vocabSize, hidden]);
  for (let i = 0; i < config.layers.length; i++) {
    const set = (name: string, rows: number, cols: number): void => {
      expected.set(`layers.${i}.${name}`, [rows, cols]);
    };
    set('attention_norm', 1, hidden);
    set('q_proj', query, hidden);
    set('k_proj', keyValue, hidden);
    set('v_proj', keyValue, hidden);
    if (config.qkvBias) {
      set('q_bias', 1, query);
      set('k_bias', 1, keyValue);
      set('v_bias', 1, keyValue);
    }
    if (config.qkNorm) {
      set('q_norm', 1, config.headDim);
      set('k_norm', 1, config.headDim);
    }
    set('o_proj', hidden, query);
    if (config.postNorms) set('post_attention_norm', 1, hidden);
    set('mlp_norm', 1, hidden);
    set('gate_proj', wide, hidden);
    set('up_proj', wide, hidden);
    set('down_proj', hidden, wide);
    if (config.postNorms) set('post_mlp_norm', 1, hidden);
  }
  expected.set('output_norm', [1, hidden]);
  if (!config.tiedEmbeddings) expected.set('lm_head', [config.vocabSize, hidden]);
  return expected;
}

/** Throws ERR_MODEL_FORMAT for the first tensor that is missing, misshapen or unexpected. */
export function checkTensors(
  file: string,
  config: NativeModelConfig,
  tensors: readonly NativeTensor[],
): void {
  const missing = expectedTensors(config);
  for (const tensor of tensors) {
    const shape = missing.get(tensor.name);
    if (!shape) {
      throw formatError({
        file,
        where: `tensor ${tensor.name}`,
        offset: tensor.offset,
        expected: `only tensors that a ${config.architecture} model has`,
        found: 'one more',
      });
    }
    if (tensor.rows !== shape[0] || tensor.cols !== shape[1]) {
      throw formatError({
        file,
        where: `shape of tensor ${tensor.name}`,
        offset: tensor.offset,
        expected: `${shape[0]} x ${shape[1]}`,
        found: `${tensor.rows} x ${tensor.cols}`,
      });
    }
    missing.delete(tensor.name);
  }
  for (const [name, shape] of missing) {
    throw formatError({
      file,
      where: `tensor ${name}`,
      expected: `${shape[0]} x ${shape[1]}`,
      found: 'none',
    });
  }
}
