"""Writes expected-smollm2.json and expected-gemma3.json: what reference tokenizers give for corpus.json.

Run: python make_expected.py SMOLLM2.gguf GEMMA3.gguf
Needs: gguf, tokenizers, sentencepiece; llama-cpp-python for the second opinion (see README.md).

The references read vocabulary, merges and scores from the GGUF files, nothing else of ours:
- SmolLM2: Hugging Face `tokenizers` (BPE, digits apart, ByteLevel).
- Gemma 3: `sentencepiece` (BPE, byte fallback) on a model proto made of the file's pieces; it knows
  no control tokens in text, so "special" ids are its answers on the text between them.
Lone surrogates become U+FFFD first, as every JavaScript runtime encodes them.
"""
import json
import re
import sys
from pathlib import Path

import gguf
import sentencepiece
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

HERE = Path(__file__).parent


def read(path):
    fields = gguf.GGUFReader(path).fields
    keys = ["tokens", "token_type", "merges", "scores"]
    found = {k: fields["tokenizer.ggml." + k].contents() for k in keys if "tokenizer.ggml." + k in fields}
    return found


def smollm2(path):
    file = read(path)
    vocab = {t: i for i, t in enumerate(file["tokens"])}
    merges = [tuple(m.split(" ")) for m in file["merges"]]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    special = [t for t, kind in zip(file["tokens"], file["token_type"]) if kind == 3]
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])

    def encode(text, parse_special):
        tok.encode_special_tokens = not parse_special
        return tok.encode(text, add_special_tokens=False).ids

    return encode


def gemma3(path):
    file = read(path)
    types = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 6}  # GGUF numbers piece types as SentencePiece does
    proto = pb.ModelProto()
    for text, kind, score in zip(file["tokens"], file["token_type"], file["scores"]):
        piece = proto.pieces.add()
        piece.piece = text.replace(" ", "\u2581") if kind == 4 else text
        piece.type = 2 if text == "<unk>" else types[kind]
        piece.score = score
    proto.trainer_spec.model_type = 2  # BPE
    proto.trainer_spec.byte_fallback = True
    proto.trainer_spec.vocab_size = len(file["tokens"])
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    control = {t: i for i, (t, kind) in enumerate(zip(file["tokens"], file["token_type"])) if kind == 3}
    pattern = re.compile("|".join(re.escape(t) for t in sorted(control, key=len, reverse=True)))

    def encode(text, parse_special):
        if not parse_special:
            return processor.encode(text)
        ids, start = [], 0
        for match in pattern.finditer(text):
            ids += processor.encode(text[start : match.start()]) + [control[match.group()]]
            start = match.end()
        return ids + processor.encode(text[start:])

    return encode


def second_opinion(path, texts, expected):
    """Compares with llama.cpp; its differences are printed, not written."""
    try:
        import llama_cpp
    except ImportError:
        print("no llama-cpp-python: second opinion skipped")
        return
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    different = 0
    for text, row in zip(texts, expected):
        for special, key in ((False, "text"), (True, "special")):
            theirs = model.tokenize(text.encode(), add_bos=False, special=special)
            if theirs != row[key]:
                different += 1
                print("llama.cpp differs on", ascii(text)[:60], key, theirs[:12], row[key][:12])
    print(different, "differences")


def main():
    raw = json.loads((HERE / "corpus.json").read_text())
    texts = [re.sub("[\ud800-\udfff]", "\ufffd", t) for t in raw]
    for name, make, path in (("smollm2", smollm2, sys.argv[1]), ("gemma3", gemma3, sys.argv[2])):
        encode = make(path)
        rows = [{"text": encode(t, False), "special": encode(t, True)} for t in texts]
        second_opinion(path, texts, rows)
        lines = []
        for row in rows:
            pair = [row["text"]] if row["text"] == row["special"] else [row["text"], row["special"]]
            lines.append(json.dumps(pair, separators=(",", ":")))
        (HERE / f"expected-{name}.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main()
