#!/usr/bin/env python3
"""Writes rope.json: inverse frequencies and attention factors as transformers computes them.

Run with transformers and torch installed:  python3 test/golden/rope/make_rope.py
Each case holds a config.json's fields and what LlamaRotaryEmbedding (or Gemma 3's) starts with.
Values are float32 results of float32 arithmetic: compare with a relative tolerance near 1e-6.
"""
import copy
import json
import pathlib

import torch
import transformers
from transformers import Gemma3TextConfig, LlamaConfig
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

SHAPE = dict(hidden_size=256, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=6,
             intermediate_size=64, vocab_size=64)
LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
LLAMA = [
    ('default', dict(max_position_embeddings=2048)),
    ('theta 500000, head_dim 128', dict(rope_theta=500000.0, head_dim=128)),
    ('linear, v4 spelling', dict(rope_theta=10000.0, rope_scaling=dict(type='linear', factor=4.0))),
    ('linear, v5 spelling', dict(rope_parameters=dict(rope_type='linear', factor=4.0, rope_theta=10000.0))),
    ('llama3 8x', dict(rope_theta=500000.0, max_position_embeddings=131072, head_dim=128,
                       rope_scaling=dict(rope_type='llama3', **LLAMA3))),
    ('llama3 32x, v5', dict(max_position_embeddings=131072,
                            rope_parameters=dict(rope_type='llama3', rope_theta=500000.0,
                                                 **dict(LLAMA3, factor=32.0)))),
    ('yarn 4x', dict(rope_theta=1000000.0, max_position_embeddings=131072, head_dim=128,
                     rope_scaling=dict(rope_type='yarn', factor=4.0,
                                       original_max_position_embeddings=32768))),
    ('yarn betas, attention factor', dict(rope_theta=10000.0, max_position_embeddings=65536,
                                          rope_scaling=dict(rope_type='yarn', factor=16.0, beta_fast=16.0,
                                                            beta_slow=2.0, attention_factor=0.75,
                                                            original_max_position_embeddings=4096))),
    ('yarn mscale', dict(rope_theta=10000.0, max_position_embeddings=163840,
                         rope_scaling=dict(rope_type='yarn', factor=40.0, mscale=1.0, mscale_all_dim=0.8,
                                           original_max_position_embeddings=4096))),
    ('yarn not truncated', dict(rope_theta=150000.0, max_position_embeddings=131072,
                                rope_scaling=dict(rope_type='yarn', factor=32.0, truncate=False,
                                                  original_max_position_embeddings=4096))),
]
GEMMA = [
    ('gemma 3 without scaling', dict()),
    ('gemma 3 v4 spelling', dict(rope_theta=1000000.0, rope_local_base_freq=20000.0,
                                 rope_scaling=dict(rope_type='linear', factor=8.0))),
    ('gemma 3 v5 spelling', dict(rope_parameters=dict(
        full_attention=dict(rope_type='linear', factor=8.0, rope_theta=1000000.0),
        sliding_attention=dict(rope_type='default', rope_theta=10000.0)))),
]


def case(name, architecture, fields, ropes):
    return dict(name=name, config=dict(architectures=[architecture], **fields), ropes=ropes)


def rope(inv_freq, factor):
    return dict(inv_freq=[float(x) for x in inv_freq.to(torch.float64)], attention_factor=float(factor))


def main():
    cases = []
    for name, fields in LLAMA:
        config = LlamaConfig(**SHAPE, **copy.deepcopy(fields))
        module = LlamaRotaryEmbedding(config)
        written = dict(SHAPE, max_position_embeddings=config.max_position_embeddings)
        cases.append(case(name, 'LlamaForCausalLM', {**written, **fields},
                          [rope(module.inv_freq, module.attention_scaling)]))
    for name, fields in GEMMA:
        config = Gemma3TextConfig(**SHAPE, head_dim=64, **copy.deepcopy(fields))
        module = Gemma3RotaryEmbedding(config)
        ropes = [rope(getattr(module, f'{kind}_inv_freq'), getattr(module, f'{kind}_attention_scaling'))
                 for kind in ('full_attention', 'sliding_attention')]
        cases.append(case(name, 'Gemma3ForCausalLM', dict(SHAPE, head_dim=64, **fields), ropes))
    out = dict(made_with=f'transformers {transformers.__version__}, torch {torch.__version__}', cases=cases)
    path = pathlib.Path(__file__).with_name('rope.json')
    path.write_text(json.dumps(out, indent=1) + '\n')
    print(path, len(cases), 'cases')


if __name__ == '__main__':
    main()
