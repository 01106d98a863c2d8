/** A model found and read: shape, tensors, tokenizer. What serve hands to native and tokenizer. */
import type { NativeModel, NativeTokenizerSpec } from '../binding/addon.js';

export interface TokenizerDescription {
  spec: NativeTokenizerSpec;
  bosTokenId: number | null;
  eosTokenIds: number[];
  addBos: boolean;
  addEos: boolean;
  /** Unicode normalization a text needs before it is encoded; absent = none. */
  normalization?: 'NFC';
  /** Jinja source; null when the model has none. */
  chatTemplate: string | null;
  /** Text of bos/eos as chat templates want them. */
  bosToken: string;
  eosToken: string;
}

export interface ModelDescription {
  /** Short name for /v1/models when --served-model-name is not given. */
  name: string;
  /** 'gguf', 'huggingface' or 'synthetic'. */
  format: string;
  native: NativeModel;
  tokenizer: TokenizerDescription;
  /** sha256 over config and tensor table (names, shapes, dtypes, sizes): identifies K/V. */
  fingerprint: string;
  /** Defaults of generation_config.json / GGUF, where present. */
  defaults: { temperature?: number; topP?: number; topK?: number; repetitionPenalty?: number };
}
