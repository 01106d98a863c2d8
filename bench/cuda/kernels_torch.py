#!/usr/bin/env python3
"""PyTorch's figures for the rows of kernels_bench: scaled_dot_product_attention, copies, products.

    kernels_torch.py --rows kernels.jsonl --out torch.jsonl [--seconds 120] [--cpu]

Reads which rows kernels_bench measured and measures the same shapes, under the same names. Keys and
values of attention are contiguous per sequence: PyTorch has no paged cache. Time is that of CUDA
events around many calls whose operands take turns, together larger than the second-level cache.
--cpu runs every row once on tiny shapes, to try the script where there is no GPU.
"""
import argparse
import json
import re
import sys
import time

import torch
import torch.nn.functional as functional
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128
# Torch has no 8-bit caches; its bf16 is what they compete with.
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "q8": torch.bfloat16, "fp8": torch.bfloat16}


class Bench:
    def __init__(self, cpu):
        self.cpu = cpu
        self.device = "cpu" if cpu else "cuda"
        cache = 0 if cpu else torch.cuda.get_device_properties(0).L2_cache_size
        self.l2 = max(3 * cache, 128 << 20)

    def operands(self, num_bytes):
        return 2 if self.cpu else min(256, max(1, -(-self.l2 // num_bytes)))

    def random(self, *shape, dtype=torch.bfloat16):
        return torch.randn(*shape, device=self.device, dtype=torch.float32).to(dtype)

    def seconds(self, operands, call):
        """(median, min, max) of one call, in seconds; call(i) uses operand i % operands."""
        call(0)
        if self.cpu:
            begin = time.perf_counter()
            call(1)
            return (time.perf_counter() - begin,) * 3
        for i in range(3):
            call(i)
        calls = operands

        def batch():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for i in range(calls):
                call(i % operands)
            end.record()
            end.synchronize()
            return start.elapsed_time(end) * 1e-3

        first = batch()
        # Python queues a call in some ten microseconds; a graph takes that out of short ones.
        run = batch
        if first / calls < 1e-3:
            calls = max(operands, min(400, int(2e-3 / (first / calls)) + 1))
            run = self.graphed(calls, operands, call) or batch
        times, total = [], 0.0
        while len(times) < 5 or (total < 0.12 and len(times) < 50):
            times.append(run())
            total += times[-1]
        times = sorted(t / calls for t in times)
        return times[len(times) // 2], times[0], times[-1]

    def graphed(self, calls, operands, call):
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                for i in range(calls):
                    call(i % operands)
        except RuntimeError:
            torch.cuda.synchronize()
            return None

        def run():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) * 1e-3

        run()
        return run


def attention(q, k, v, causal):
    return functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def decode(bench, batch, context, dtype, head_dim, heads, kv_heads):
    num_bytes = 2 * batch * kv_heads * context * head_dim * 2
    operands = bench.operands(num_bytes)
    k = bench.random(operands, batch, kv_heads, context, head_dim, dtype=dtype)
    v = bench.random(operands, batch, kv_heads, context, head_dim, dtype=dtype)
    q = bench.random(batch, heads, 1, head_dim, dtype=dtype)
    times = bench.seconds(operands, lambda i: attention(q, k[i], v[i], False))
    return times, num_bytes, "GB/s"


def prefill(bench, rows, depth, dtype):
    q = bench.random(1, HEADS, rows, HEAD_DIM, dtype=dtype)
    k = bench.random(1, KV_HEADS, depth + rows, HEAD_DIM, dtype=dtype)
    v = bench.random(1, KV_HEADS, depth + rows, HEAD_DIM, dtype=dtype)
    if depth == 0:
        times = bench.seconds(1, lambda i: attention(q, k, v, True))
    else:
        # Causal at a depth is the lower right triangle.
        from torch.nn.attention.bias import causal_lower_right

        mask = causal_lower_right(rows, depth + rows)
        kg, vg = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
        times = bench.seconds(
            1, lambda i: functional.scaled_dot_product_attention(q, kg, vg, attn_mask=mask))
    pairs = depth * rows + rows * (rows + 1) / 2
    return times, 4.0 * HEAD_DIM * HEADS * pairs, "TFLOP/s"


def copy(bench):
    size = (1 << 16) if bench.cpu else (1 << 30)
    source = bench.random(size // 2)
    target = torch.empty_like(source)
    return bench.seconds(1, lambda i: target.copy_(source)), 2 * size, "GB/s"


def dense(bench, rows, out, cols):
    operands = bench.operands(2 * (rows * cols + out * cols))
    x = bench.random(rows, cols)
    w = bench.random(operands, out, cols)
    times = bench.seconds(operands, lambda i: torch.matmul(x, w[i].T))
    return times, 2.0 * rows * out * cols, "TFLOP/s"


def gemv(bench, rows, out, cols):
    """bf16 of the same shape: torch has no kernels for these quantized formats."""
    operands = bench.operands(2 * out * cols)
    x = bench.random(rows, cols)
    w = bench.random(operands, out, cols)
    times = bench.seconds(operands, lambda i: torch.matmul(x, w[i].T))
    return times, 2.0 * out * cols, "GB/s"


# Names as kernels_bench gives them.
DECODE = re.compile(r"^decode (\d+) x (\d+) (\w+)(?: hd(\d+))?$")
PREFILL = re.compile(r"^prefill (\d+)(?: at (\d+))? (\w+)$")
DENSE = re.compile(r"^dense (\d+) x (\d+) x (\d+) bf16$")
GEMV = re.compile(r"^gemv \w+ (\d+) x (\d+) x (\d+)$")


def measure(bench, section, name):
    """A row's figures, or None where PyTorch has nothing like it."""
    if section == "machine" and name == "copy":
        return copy(bench)
    if (match := DENSE.match(name)) and section == "machine":
        return dense(bench, *map(int, match.groups()))
    if (match := GEMV.match(name)) and section == "matmul":
        return gemv(bench, *map(int, match.groups()))
    if section != "attention":
        return None
    if match := DECODE.match(name):
        batch, context, dtype, head_dim = match.groups()
        head_dim = int(head_dim or HEAD_DIM)
        heads, kv_heads = (8, 4) if head_dim == 256 else (HEADS, KV_HEADS)
        return decode(bench, int(batch), int(context), DTYPES[dtype], head_dim, heads, kv_heads)
    if match := PREFILL.match(name):
        rows, depth, dtype = match.groups()
        return prefill(bench, int(rows), int(depth or 0), DTYPES[dtype])
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    if not options.cpu and not torch.cuda.is_available():
        sys.exit("kernels_torch.py: this PyTorch sees no GPU")
    bench = Bench(options.cpu)
    # On a CPU the math backend serves every dtype and shape; on a GPU flash or nothing.
    backend = [SDPBackend.MATH] if options.cpu else [SDPBackend.FLASH_ATTENTION]
    begin = time.monotonic()
    with open(options.rows, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    with open(options.out, "w", encoding="utf-8") as out, torch.inference_mode():
        out.write(json.dumps({"machine": "torch", "value": torch.__version__}) + "\n")
        for row in rows:
            if "us" not in row:
                continue
            entry = {"section": row["section"], "name": row["name"]}
            if time.monotonic() - begin > options.seconds:
                entry["skipped"] = "out of time"
            else:
                try:
                    with sdpa_kernel(backend):
                        result = measure(bench, row["section"], row["name"])
                except (RuntimeError, torch.cuda.OutOfMemoryError) as error:
                    entry["skipped"] = str(error).split("\n")[0][:200]
                else:
                    if result is None:
                        continue
                    times, amount, unit = result
                    scale = 1e-9 if unit == "GB/s" else 1e-12
                    entry.update(us=times[0] * 1e6, us_min=times[1] * 1e6, us_max=times[2] * 1e6,
                                 rate=amount / times[0] * scale, unit=unit)
            out.write(json.dumps(entry) + "\n")
            out.flush()
            if not options.cpu:
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
