"""Writes test/golden/accuracy/<name>.json: what transformers in fp32 says about a GGUF file.

    fixtures.py NAME MODEL.gguf MEASURED_FOLDER

MEASURED_FOLDER is accuracy.py's, for llama.cpp's distance from the reference. The file holds
- greedy: 20 prompts, each with 64 greedy tokens and, for each, the five most likely ids and their
  log-probabilities. End tokens are not treated as ends.
- text: log-probability of each next token of a text (longer than Gemma's window of 512), and the
  five most likely ids; beside it llama.cpp's mean distance on the same tokens, as a yardstick.
"""

import hashlib
import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import torch
from llama_cpp import Llama

from accuracy import compare_rows
from load_gguf import load
from windows import bos_prefix, open_vocabulary, text_ids

OUT = Path(__file__).resolve().parent.parent / "accuracy"
NUM_NEW = 64
NUM_TOP = 5
TEXT_TOKENS = {"smollm2": 640, "gemma3": 1100}

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
    "Once upon a time, in a village at the edge of a great forest,",
    "The three primary colors are",
    "#include <stdio.h>\n\nint main(void) {\n",
    "List of the planets of the solar system, from the Sun outward:\n1.",
    "In 1969, Neil Armstrong",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "La Révolution française commence en",
    "Der schnelle braune Fuchs springt über",
    "import numpy as np\n\ndef softmax(x):\n    \"\"\"Numerically stable softmax.\"\"\"\n",
    "Q: What is 17 + 25?\nA:",
    "Photosynthesis is the process by which",
    "<!DOCTYPE html>\n<html>\n<head>\n<title>",
    "To be, or not to be, that is the question:",
    "The mitochondria is",
    "Ingredients:\n- 2 cups of flour\n- 1 cup of sugar\n",
    "{\"name\": \"Alice\", \"age\": 30, \"city\":",
    "A linked list is a data structure in which",
]
CHAT_PROMPTS = [
    "What is the capital of Italy?",
    "Write a haiku about the sea.",
    "Explain recursion in one sentence.",
    "Give me three uses of a paperclip.",
]
CHATML = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
    "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)


def make_prompts(llama):
    """(text, ids). Models with a chat template get some prompts rendered with it."""
    prefix = bos_prefix(llama)
    chat = CHAT_PROMPTS if "tokenizer.chat_template" in llama.metadata else []
    plain = PROMPTS[: len(PROMPTS) - len(chat)]
    prompts = [(text, prefix + llama.tokenize(text.encode(), add_bos=False)) for text in plain]
    for question in chat:
        text = CHATML.format(question)
        prompts.append((text, llama.tokenize(text.encode(), add_bos=False, special=True)))
    return prompts


def top_of(logits):
    """(ids, log-probabilities rounded to 1e-4) of the most likely tokens of one row."""
    values, ids = torch.log_softmax(logits.double(), -1).topk(NUM_TOP)
    return ids.tolist(), [round(value, 4) for value in values.tolist()]


def greedy(model, ids):
    cache, step_ids, tokens, top = None, torch.tensor([ids]), [], []
    for _ in range(NUM_NEW):
        output = model(step_ids, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        top_ids, top_logprobs = top_of(output.logits[0, -1])
        tokens.append(top_ids[0])
        top.append([top_ids, top_logprobs])
        step_ids = torch.tensor([[top_ids[0]]])
    return tokens, top


def text_section(model, model_path, ids):
    """In slices of 128 rows: in double precision a whole text of Gemma's rows takes gigabytes."""
    targets = torch.tensor(ids[1:])
    logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    engine = Llama(str(model_path), n_ctx=len(ids), n_batch=512, logits_all=True, verbose=False)
    engine.eval(ids)
    other = torch.from_numpy(engine.scores[: len(ids) - 1])
    logprobs, errors, compared = [], [], []
    for start in range(0, len(targets), 128):
        rows = slice(start, min(start + 128, len(targets)))
        pick = (torch.arange(rows.stop - rows.start), targets[rows])
        log_p = torch.log_softmax(logits[rows].double(), -1)[pick]
        log_q = torch.log_softmax(other[rows].double(), -1)[pick]
        logprobs.append(log_p)
        errors.append((log_q - log_p).abs())
        compared.append(compare_rows(logits[rows], other[rows]))
    kl, agree, square = (torch.cat(column) for column in zip(*compared))
    return {
        "ids": ids,
        "logprobs": [round(value, 4) for value in torch.cat(logprobs).tolist()],
        "top": logits.topk(NUM_TOP, -1).indices.tolist(),
        "llama": {
            "mean_target_error": round(torch.cat(errors).mean().item(), 6),
            "mean_kl": round(kl.mean().item(), 6),
            "top1_agreement": round(agree.double().mean().item(), 5),
        },
    }


def measured(folder):
    base = np.memmap(folder / "reference.f32", dtype="<f4", mode="r")
    windows = json.loads((folder / "windows.json").read_text())
    base = base.reshape(sum(map(len, windows)), -1)
    other = np.memmap(folder / "llama.f32", dtype="<f4", mode="r").reshape(base.shape)
    parts = [compare_rows(base[i : i + 64], other[i : i + 64]) for i in range(0, len(base), 64)]
    kl, agree, square = (torch.cat(column) for column in zip(*parts))
    return {
        "tokens": len(base),
        "mean_kl": round(kl.mean().item(), 6),
        "top1_agreement": round(agree.double().mean().item(), 5),
        "rms_logit_error": round(square.mean().sqrt().item(), 5),
    }


def write(path, fixture):
    """One prompt a line: diffs stay readable and the file small."""
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    prompts = ",\n".join("  " + compact(prompt) for prompt in fixture.pop("greedy"))
    head = ",\n".join(f" {compact(key)}: {compact(value)}" for key, value in fixture.items())
    path.write_text(f'{{\n{head},\n "greedy": [\n{prompts}\n ]\n}}\n')


def main():
    name, model_path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(2)
    version = importlib.metadata.version
    model, _ = load(model_path)
    vocabulary = open_vocabulary(model_path)
    fixture = {
        "source": {
            "file": model_path.name,
            "sha256": hashlib.sha256(model_path.read_bytes()).hexdigest(),
            "reference": f"transformers {version('transformers')}, torch {version('torch')}, fp32, eager attention",
            "weights": f"dequantized with gguf {version('gguf')}",
            "yardstick": f"llama-cpp-python {version('llama_cpp_python')}, CPU, f16 KV cache",
            "script": "test/golden/reference/fixtures.py",
        },
        "llama": measured(folder),
    }
    with torch.inference_mode():
        ids = bos_prefix(vocabulary) + text_ids(vocabulary, "python-source.txt")
        fixture["text"] = text_section(model, model_path, ids[: TEXT_TOKENS[name]])
        fixture["greedy"] = []
        for text, ids in make_prompts(vocabulary):
            tokens, top = greedy(model, ids)
            fixture["greedy"].append({"text": text, "ids": ids, "tokens": tokens, "top": top})
            print(repr(vocabulary.detokenize(tokens).decode(errors="replace")[:70]))
    OUT.mkdir(exist_ok=True)
    write(OUT / f"{name}.json", fixture)


if __name__ == "__main__":
    main()
