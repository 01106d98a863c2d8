"""How far an engine's logits lie from transformers in fp32 on the same dequantized weights.

    accuracy.py reference MODEL.gguf FOLDER   writes FOLDER/windows.json, reference.f32
    accuracy.py llama     MODEL.gguf FOLDER [q8_0]   writes llama.f32 with llama.cpp, f16 KV
                                              cache; llama-q8_0.f32 with one of that type
    accuracy.py compare   FOLDER NAME...      prints the table, one line a NAME.f32

A .f32 file holds [windows * 512, vocab_size] little-endian floats: logits, or log-probabilities;
only differences after softmax and centering are compared, so either does. bench/accuracy.ts
writes longhaul.f32.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from load_gguf import load
from windows import load_or_make_windows

LLAMA_THREADS = 2


def write_rows(path, blocks):
    """Writes atomically: a stopped run leaves no file that looks complete."""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as out:
        for block in blocks:
            np.ascontiguousarray(block, dtype="<f4").tofile(out)
    partial.rename(path)


def reference(model_path, folder):
    windows = load_or_make_windows(model_path, folder)
    model, _ = load(model_path)

    def blocks():
        with torch.inference_mode():
            for window in windows:
                yield model(torch.tensor([window]), use_cache=False).logits[0].float().numpy()

    write_rows(folder / "reference.f32", blocks())


def llama(model_path, folder, kv_type=None):
    import llama_cpp
    from llama_cpp import Llama

    windows = load_or_make_windows(model_path, folder)
    engine = Llama(
        str(model_path), n_ctx=512, n_batch=512, logits_all=True, n_threads=LLAMA_THREADS,
        n_threads_batch=LLAMA_THREADS, verbose=False, **kv_settings(llama_cpp, kv_type),
    )

    def blocks():
        for window in windows:
            engine.reset()
            engine.eval(window)
            yield engine.scores[: len(window)]

    write_rows(folder / ("llama.f32" if kv_type is None else f"llama-{kv_type}.f32"), blocks())


def kv_settings(llama_cpp, kv_type):
    """llama.cpp's default cache (f16), or both K and V in a GGML type such as q8_0."""
    if kv_type is None:
        return {}
    ggml_type = getattr(llama_cpp, f"GGML_TYPE_{kv_type.upper()}")
    return {"type_k": ggml_type, "type_v": ggml_type, "flash_attn": True}


def compare_rows(expected, actual):
    """Per row: KL(expected || actual) in nats, same argmax, mean square of centered differences."""
    expected = torch.from_numpy(np.array(expected)).double()
    actual = torch.from_numpy(np.array(actual)).double()
    log_p = torch.log_softmax(expected, dim=-1)
    log_q = torch.log_softmax(actual, dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    agree = expected.argmax(-1) == actual.argmax(-1)
    difference = actual - expected
    difference -= difference.mean(-1, keepdim=True)
    return kl, agree, difference.square().mean(-1)


def compare(folder, names):
    windows = json.loads((folder / "windows.json").read_text())
    num_rows = sum(len(window) for window in windows)
    base = np.memmap(folder / "reference.f32", dtype="<f4", mode="r").reshape(num_rows, -1)
    print(f"{num_rows} tokens, {len(windows)} windows, vocabulary {base.shape[1]}")
    for name in names:
        other = np.memmap(folder / f"{name}.f32", dtype="<f4", mode="r").reshape(base.shape)
        parts = [compare_rows(base[i : i + 64], other[i : i + 64]) for i in range(0, num_rows, 64)]
        kl, agree, square = (torch.cat(column) for column in zip(*parts))
        print(
            f"{name:12} mean KL {kl.mean():.6f}  median {kl.median():.6f}  99% {kl.quantile(0.99):.5f}"
            f"  top-1 {100 * agree.double().mean():.3f} %  RMS logit error {square.mean().sqrt():.5f}"
        )


def main():
    command, *arguments = sys.argv[1:]
    torch.set_num_threads(2)
    if command == "compare":
        compare(Path(arguments[0]), arguments[1:])
    else:
        model_path, folder, *settings = arguments
        {"reference": reference, "llama": llama}[command](Path(model_path), Path(folder), *settings)


if __name__ == "__main__":
    main()
