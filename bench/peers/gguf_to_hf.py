"""Writes a GGUF file's weights as a bf16 Hugging Face folder, for engines that read only those.

The tokenizer goes with them where transformers can convert it; a file of random weights carries a
made-up one, and a folder without it still takes token ids. Needs torch, safetensors, transformers,
gguf and accelerate. `python gguf_to_hf.py FILE FOLDER` prints the folder written below FOLDER; one
that is complete is left as it is.
"""

import os
import shutil
import sys


def save_tokenizer(path, folder):
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path)
        )
        tokenizer.save_pretrained(folder)
    except Exception as error:
        print(f"no tokenizer: {type(error).__name__}: {error}", file=sys.stderr)


def checkpoint_folder(path, folder):
    """The folder that holds the weights of `path`, written below `folder` when it is not there."""
    if os.path.isdir(path):
        return path
    target = os.path.join(folder, os.path.basename(path).removesuffix(".gguf"))
    if os.path.exists(os.path.join(target, "config.json")):
        return target
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(os.path.abspath(path)),
        gguf_file=os.path.basename(path),
        dtype=torch.bfloat16,
    )
    partial = f"{target}.partial-{os.getpid()}"
    os.makedirs(partial)
    # save_pretrained refuses what came from a GGUF file, although the weights are plain by now.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    tied = model.config.tie_word_embeddings
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    save_file(weights, os.path.join(partial, "model.safetensors"), metadata={"format": "pt"})
    # Only a model's own save_pretrained writes this; without it vLLM guesses, for Gemma 3 wrongly.
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(partial)
    save_tokenizer(path, partial)
    try:
        os.rename(partial, target)
    except OSError:  # another process was faster
        shutil.rmtree(partial)
    return target


if __name__ == "__main__":
    print(checkpoint_folder(sys.argv[1], sys.argv[2]))
