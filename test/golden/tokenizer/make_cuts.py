"""Writes cuts.txt: where reference regular expressions cut the texts of corpus.json.

Run: python make_cuts.py     Needs: tokenizers (whose Split uses the Oniguruma engine).

A line is "= HEX" (a text in UTF-8), followed by one line a pre-tokenizer: its name and the byte
length of each piece. Lone surrogates are left out: they are U+FFFD before anything is cut.
"""
import json
import re
from pathlib import Path

from tokenizers import Regex, pre_tokenizers

HERE = Path(__file__).parent
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": HEAD + r"\p{N}{1,3}" + REST,
    "qwen2": HEAD + r"\p{N}" + REST,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}"
    + REST.replace(r"[\r\n]*", r"[\r\n/]*"),
}


def main():
    splits = {k: pre_tokenizers.Split(Regex(p), "isolated") for k, p in PATTERNS.items()}
    splits["smollm"] = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(PATTERNS["gpt2"]), "isolated")]
    )
    texts = json.loads((HERE / "corpus.json").read_text())
    lines = []
    for text in texts:
        if text == "" or re.search("[\ud800-\udfff]", text):
            continue
        lines.append("= " + text.encode().hex())
        for name, split in splits.items():
            pieces = [piece for piece, _ in split.pre_tokenize_str(text)]
            assert "".join(pieces) == text
            lines.append(name + " " + " ".join(str(len(p.encode())) for p in pieces))
    (HERE / "cuts.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
