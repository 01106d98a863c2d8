#!/usr/bin/env python3
"""The short table at the end of a device check: kernels_bench beside PyTorch.

    kernels_report.py kernels.jsonl [torch.jsonl] [--markdown]

Share: of the measured copy bandwidth, of the best dense product, or of the time that reading
weights, keys and values once would take. Over torch: its time over ours. Targets are those of
bench/README.md; a row that misses its target ends in "below".
"""
import json
import sys

# Attention of many rows is held against PyTorch's flash attention instead of a limit.
PREFILL_OVER_TORCH = 0.8


def read(path):
    machine, rows, skipped = {}, [], []
    with open(path, encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            if "machine" in entry:
                machine[entry["machine"]] = entry["value"]
            elif "skipped" in entry:
                skipped.append(entry)
            else:
                rows.append(entry)
    return machine, rows, skipped


def time_text(us):
    return f"{us:.1f} us" if us < 1000 else f"{us / 1000:.2f} ms"


def rate_text(row):
    return "" if row["unit"].startswith("ms") else f"{row['rate']:.0f} {row['unit']}"


def target_text(row, over):
    name = row["name"]
    if row["section"] == "attention" and name.startswith("prefill ") and " at " not in name:
        if over is None:
            return f"{PREFILL_OVER_TORCH:.2f}x torch, not compared"
        return f"{PREFILL_OVER_TORCH:.2f}x torch" + ("" if over >= PREFILL_OVER_TORCH else " below")
    if row["target"] <= 0:
        return ""
    text = f"{row['target'] * 100:.0f} %"
    if row["share"] <= 0:
        return text + ", no limit"
    return text if row["share"] >= row["target"] else text + " below"


def table_rows(rows, torch_rows):
    by_name = {(row["section"], row["name"]): row for row in torch_rows}
    for row in rows:
        other = by_name.get((row["section"], row["name"]))
        over = other["us"] / row["us"] if other else None
        yield [
            row["section"],
            row["name"],
            time_text(row["us"]),
            rate_text(row),
            f"{row['share'] * 100:.0f} %" if row["share"] > 0 else "",
            time_text(other["us"]) if other else "",
            f"{over:.2f}x" if over else "",
            target_text(row, over),
        ]


HEAD = ["", "work", "time", "rate", "share", "torch", "over torch", "target"]


def plain(rows):
    widths = [max(len(row[i]) for row in [HEAD, *rows]) for i in range(len(HEAD))]
    for row in [HEAD, *rows]:
        cells = [cell.ljust(width) if i < 2 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


def markdown(rows):
    print("| " + " | ".join(HEAD) + " |")
    print("|---|---|" + "---:|" * (len(HEAD) - 2))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main():
    paths = [arg for arg in sys.argv[1:] if not arg.startswith("--")]
    flags = [arg for arg in sys.argv[1:] if arg.startswith("--")]
    if not 1 <= len(paths) <= 2 or any(flag != "--markdown" for flag in flags):
        sys.exit(__doc__)
    machine, rows, skipped = read(paths[0])
    torch_machine, torch_rows, torch_skipped = read(paths[1]) if len(paths) == 2 else ({}, [], [])
    print(", ".join(f"{key} {value}" for key, value in {**machine, **torch_machine}.items()))
    cells = list(table_rows(rows, torch_rows))
    (markdown if flags else plain)(cells)
    for who, entries in (("", skipped), ("torch: ", torch_skipped)):
        for entry in entries:
            print(f"not measured: {who}{entry['section']} {entry['name']}: {entry['skipped']}")
    below = [row for row in cells if row[-1].endswith("below")]
    print(f"{len(cells)} rows, {len(below)} below their target")


if __name__ == "__main__":
    main()
