"""Loads a GGUF file into a transformers model in fp32, with the file's own dequantized weights.

Written out by hand rather than through `from_pretrained(gguf_file=...)`, so that every step a
loader can get wrong is visible here: Q and K of llama-family files are stored with their rotary
pairs adjacent and are put back into halves, Gemma's norm weights carry the 1 that transformers
adds, output weights are tied to the embedding where the file has none, Gemma 3 rotates local
layers with base 10,000.
"""

import gguf
import numpy as np
import torch
from gguf.quants import dequantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LLAMA_LAYER_NAMES = {"ffn_norm": "post_attention_layernorm"}
GEMMA3_LAYER_NAMES = {
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}


def metadata(reader):
    """All scalar metadata of the file as a dict; arrays are left out."""
    values = {}
    for key, field in reader.fields.items():
        if field.types and field.types[0] != gguf.GGUFValueType.ARRAY:
            values[key] = field.contents()
    return values


def split_rotary_pairs(weight, num_heads):
    """[heads * (2i, 2i+1), in] as llama-family GGUF stores it -> [heads * (i, i + dim/2), in]."""
    rows, columns = weight.shape
    half = rows // num_heads // 2
    return weight.reshape(num_heads, half, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def make_model(meta):
    arch = meta["general.architecture"]
    get = lambda name, default=None: meta.get(f"{arch}.{name}", default)
    num_heads = get("attention.head_count")
    shape = dict(
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=num_heads,
        num_key_value_heads=get("attention.head_count_kv"),
        max_position_embeddings=get("context_length"),
        rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    if arch == "llama":
        config = LlamaConfig(
            vocab_size=get("vocab_size"),
            rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
            **shape,
        )
        return LlamaForCausalLM(config), LLAMA_LAYER_NAMES
    if arch == "gemma3":
        config = Gemma3TextConfig(
            vocab_size=meta["vocab_size"],
            head_dim=get("attention.key_length"),
            query_pre_attn_scalar=get("attention.key_length"),
            sliding_window=get("attention.sliding_window"),
            sliding_window_pattern=6,
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": get("rope.freq_base")},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
            **shape,
        )
        return Gemma3ForCausalLM(config), GEMMA3_LAYER_NAMES
    raise ValueError(f"no reference for architecture {arch}")


def load(path):
    """(model in fp32 on the CPU, metadata). Fails unless every weight was set exactly once."""
    reader = gguf.GGUFReader(path)
    meta = metadata(reader)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    meta["vocab_size"] = int(tensors["token_embd.weight"].shape[1])
    model, family_names = make_model(meta)
    arch = meta["general.architecture"]
    names = {**LAYER_NAMES, **family_names}
    state = {}
    for name, tensor in tensors.items():
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        part = name.split(".")
        if part[0] == "blk":
            target = f"model.layers.{part[1]}.{names[part[2]]}.{part[3]}"
        else:
            target = {
                "token_embd.weight": "model.embed_tokens.weight",
                "output_norm.weight": "model.norm.weight",
                "output.weight": "lm_head.weight",
            }[name]
        if arch == "gemma3" and "norm" in name:
            weight = weight - 1.0
        if arch == "llama" and len(part) > 2 and part[2] in ("attn_q", "attn_k"):
            heads = meta["llama.attention.head_count" + ("_kv" if part[2] == "attn_k" else "")]
            weight = split_rotary_pairs(weight, heads)
        state[target] = torch.from_numpy(np.ascontiguousarray(weight))
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    expected = model.state_dict()
    assert set(state) == set(expected), set(state) ^ set(expected)
    for key, value in expected.items():
        assert value.shape == state[key].shape, key
    model.load_state_dict(state, strict=True)
    model.tie_weights()
    return model.float().eval(), meta
