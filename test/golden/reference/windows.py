"""The measuring text cut into windows of token ids, the same for every engine.

The ids come from llama.cpp's tokenizer reading the same file (its vocabulary is the model's own);
each window begins with BOS where the file asks for one.
"""

import json
from pathlib import Path

from llama_cpp import Llama

TEXTS = Path(__file__).resolve().parent.parent / "texts"
TEXT_FILES = ("python-source.txt", "python-reference.txt")
WINDOW = 512
WINDOWS_PER_TEXT = 4


def open_vocabulary(model_path):
    return Llama(str(model_path), vocab_only=True, verbose=False)


def bos_prefix(llama):
    return [llama.token_bos()] if llama.metadata.get("tokenizer.ggml.add_bos_token") == "true" else []


def text_ids(llama, name):
    text = (TEXTS / name).read_bytes()
    return llama.tokenize(text, add_bos=False, special=False)


def make_windows(model_path):
    llama = open_vocabulary(model_path)
    prefix = bos_prefix(llama)
    size = WINDOW - len(prefix)
    windows = []
    for name in TEXT_FILES:
        ids = text_ids(llama, name)
        for index in range(min(WINDOWS_PER_TEXT, len(ids) // size)):
            windows.append(prefix + ids[index * size : (index + 1) * size])
    return windows


def load_or_make_windows(model_path, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "windows.json"
    if not path.exists():
        path.write_text(json.dumps(make_windows(model_path)))
    return json.loads(path.read_text())
