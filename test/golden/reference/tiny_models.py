"""Makes test/golden/models/<family>/: random checkpoints with what transformers says about them.

    tiny_models.py [family...]

Random weights are wide enough that the most likely token is clear; norms and biases are random
too, so that a forgotten one shows. Shapes are the smallest that use each family's own parts:
llama3 rope scaling, Qwen2's biases, Qwen3's head norms, Mistral's window (8, prompts are longer),
Gemma 3's local and global layers with a softmax scale that is not head_dim^-0.5. Configurations
are written as checkpoints on the hub have them, where transformers' own spelling has moved on.
expected.json is computed in fp32 from the saved folder.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
    MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM,
)

import tiny_tokenizers

OUT = Path(__file__).resolve().parent.parent / "models"
TEXTS = Path(__file__).resolve().parent.parent / "texts"
NUM_TOP = 5
NUM_GREEDY = 24

SHAPE = dict(
    hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=512, initializer_range=0.3, rms_norm_eps=1e-5, attn_implementation="eager",
)
LLAMA3_SCALING = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)


def llama(vocab):
    config = LlamaConfig(
        vocab_size=vocab, num_hidden_layers=2, head_dim=16, tie_word_embeddings=False,
        rope_parameters={"rope_theta": 10000.0, **LLAMA3_SCALING}, **SHAPE,
    )
    hub = {"rope_theta": 10000.0, "rope_scaling": LLAMA3_SCALING}
    return LlamaForCausalLM(config), torch.bfloat16, hub, dict(max_shard_size="150KB")


def qwen2(vocab):
    config = Qwen2Config(
        vocab_size=vocab, num_hidden_layers=2, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **SHAPE,
    )
    hub = {"rope_theta": 1000000.0, "use_sliding_window": False, "sliding_window": 32, "max_window_layers": 1}
    return Qwen2ForCausalLM(config), torch.float16, hub, {}


def qwen3(vocab):
    config = Qwen3Config(
        vocab_size=vocab, num_hidden_layers=3, head_dim=32, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **SHAPE,
    )
    return Qwen3ForCausalLM(config), torch.bfloat16, None, {}


def mistral(vocab):
    config = MistralConfig(
        vocab_size=vocab, num_hidden_layers=2, sliding_window=8, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **{**SHAPE, "intermediate_size": 96},
    )
    return MistralForCausalLM(config), torch.float32, {"rope_theta": 10000.0}, {}


def gemma3(vocab):
    config = Gemma3TextConfig(
        vocab_size=vocab, num_hidden_layers=4, head_dim=32, tie_word_embeddings=True,
        sliding_window=16, sliding_window_pattern=2, query_pre_attn_scalar=24,
        bos_token_id=2, eos_token_id=1, pad_token_id=0,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
        **{**SHAPE, "num_key_value_heads": 1},
    )
    hub = {
        "rope_theta": 1000000.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "rope_local_base_freq": 10000.0, "sliding_window_pattern": 2,
    }
    return Gemma3ForCausalLM(config), torch.bfloat16, hub, {}


FAMILIES = {
    "llama": (llama, tiny_tokenizers.llama),
    "qwen2": (qwen2, tiny_tokenizers.qwen),
    "qwen3": (qwen3, tiny_tokenizers.qwen),
    "mistral": (mistral, tiny_tokenizers.mistral),
    "gemma3": (gemma3, tiny_tokenizers.gemma),
}


def randomize_small_parameters(model, generator):
    """Norms around 1 (0 for Gemma, which adds 1) and biases around 0, all different."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            noise = torch.randn(parameter.shape, generator=generator) * 0.3
            parameter.data = parameter.data + noise
    embedding = model.get_input_embeddings().weight
    embedding.data = torch.randn(embedding.shape, generator=generator) * 0.3


def save_folder(folder, family):
    make_model, make_tokenizer = FAMILIES[family]
    torch.manual_seed(sum(map(ord, family)))
    tokenizer, bos, eos = make_tokenizer()
    model, dtype, hub, save_options = make_model(tokenizer.get_vocab_size())
    randomize_small_parameters(model, torch.Generator().manual_seed(7))
    model.tie_weights()
    if bos is not None:
        model.config.bos_token_id = tokenizer.token_to_id(bos)
    model.config.eos_token_id = tokenizer.token_to_id(eos)
    model.generation_config.bos_token_id = model.config.bos_token_id
    model.generation_config.eos_token_id = model.config.eos_token_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.to(dtype).save_pretrained(folder, **save_options)
    for path in folder.glob("*.safetensors"):
        path.chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {"bos_token": bos, "eos_token": eos, "tokenizer_class": "PreTrainedTokenizerFast"}
    if family == "llama":
        tokenizer_config["chat_template"] = CHAT_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2) + "\n")
    if hub is not None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        for key in ("rope_parameters", "layer_types", "_sliding_window_pattern"):
            config.pop(key, None)
        config["torch_dtype"] = config.pop("dtype")
        path.write_text(json.dumps({**config, **hub}, indent=2, sort_keys=True) + "\n")
    return tokenizer


def prompt_texts():
    source = (TEXTS / "python-source.txt").read_text()
    prose = (TEXTS / "python-reference.txt").read_text()
    return [source[600:760], prose[300:620], source[4000:4100] + prose[2000:2200], "naïve café 日本 🙂 " + prose[100:220]]


def top_of(logits):
    values, ids = torch.log_softmax(logits.double(), -1).topk(NUM_TOP)
    return [ids.tolist(), [round(value, 4) for value in values.tolist()]]


def expect(model, tokenizer, text):
    ids = tokenizer.encode(text).ids
    assert 40 <= len(ids) <= 300, len(ids)
    logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    log_p = torch.log_softmax(logits.double(), -1)
    logprobs = [round(log_p[i, ids[i + 1]].item(), 4) for i in range(len(ids) - 1)]
    greedy, top, sequence = [], [], list(ids)
    for _ in range(NUM_GREEDY):
        top.append(top_of(model(torch.tensor([sequence]), use_cache=False).logits[0, -1]))
        greedy.append(top[-1][0][0])
        sequence.append(greedy[-1])
    return {
        "text": text, "ids": ids, "logprobs": logprobs, "prompt_top": [top_of(row) for row in logits[:-1]],
        "tokens": greedy, "top": top,
    }


def main():
    for family in sys.argv[1:] or FAMILIES:
        folder = OUT / family
        tokenizer = save_folder(folder, family)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        print(family, type(model).__name__, {k: getattr(model.config, k, None) for k in ("rope_parameters", "layer_types", "sliding_window")})
        with torch.inference_mode():
            cases = [expect(model, tokenizer, text) for text in prompt_texts()]
        gaps = [top[1][0] - top[1][1] for case in cases for top in case["prompt_top"]]
        print("  top-two gap quartiles", torch.tensor(gaps).quantile(torch.tensor([0.05, 0.25, 0.5, 0.75])).tolist())
        lines = ",\n".join(json.dumps(case, ensure_ascii=False, separators=(",", ":")) for case in cases)
        (folder / "expected.json").write_text(f"[\n{lines}\n]\n")
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"  {size} bytes:", sorted(path.name for path in folder.iterdir()))
        assert size < 500_000


if __name__ == "__main__":
    main()
