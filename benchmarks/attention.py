"""Attention of one layer in the shape of BitNet 2B4T: time per token, by context and kv_bits.

    python benchmarks/attention.py [--kv-bits 16,8,4,3] [--contexts 128,512,2048,8192,32768]

20 query heads, 5 key/value heads of 128 numbers, one thread. First the results are held to float64
NumPy. Then the newest 128 tokens of each context are asked for together (prefill), and the newest
alone (decode); the least time of half a second of runs counts. GFLOP/s are those of float
attention, 4 * heads * head_dim for each position that a token sees, whatever the codes need.
"""

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray

from onebit.eval.machine import Machine
from onebit.kernels import cpu, ops

HEADS, KV_HEADS, HEAD_DIM = 20, 5, 128
LAYERS = 30
CHUNK = 128
# Largest error, of the largest output, for normal keys and values: what rounding them costs.
TOLERANCE = {32: 1e-5, 16: 3e-3, 8: 0.03, 4: 0.4, 3: 0.8}

Floats = NDArray[np.float32]


def random_layer(
    n: int, queries: int, kv_bits: int
) -> tuple[cpu.Attention, Floats, Floats, Floats]:
    """Return a layer that holds n positions, with the queries, keys and values."""
    rng = np.random.default_rng(n)
    layer = cpu.Attention(HEADS, KV_HEADS, HEAD_DIM, n, kv_bits)
    k, v = rng.standard_normal((2, n, KV_HEADS, HEAD_DIM), np.float32)
    layer.write(k, v)
    return layer, rng.standard_normal((queries, HEADS, HEAD_DIM), np.float32), k, v


def error(kv_bits: int) -> float:
    """Return the largest error, of the largest output, against float64."""
    layer, q, k, v = random_layer(300, 40, kv_bits)
    group = HEADS // KV_HEADS
    scores = np.einsum("thd,nhd->htn", q, np.repeat(k, group, axis=1), dtype="f8") / HEAD_DIM**0.5
    scores[:, np.arange(300) > np.arange(260, 300)[:, None]] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    y = np.einsum("htn,nhd->thd", p, np.repeat(v, group, axis=1), dtype="f8")
    return float(np.abs(layer.attend(q) - y).max() / np.abs(y).max())


def seconds(layer: cpu.Attention, q: Floats) -> float:
    """Return the least time of a call, over about half a second."""
    best, spent = float("inf"), 0.0
    while spent < 0.5:
        start = time.perf_counter()
        layer.attend(q)
        total = time.perf_counter() - start
        best, spent = min(best, total), spent + total
    return best


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kv-bits", type=numbers, default=[16, 8, 4, 3])
    parser.add_argument("--contexts", type=numbers, default=[128, 512, 2048, 8192, 32768])
    args = parser.parse_args()

    for kv_bits in args.kv_bits:
        found = error(kv_bits)
        print(f"{kv_bits:2} bits: largest error {found:.2g}, accepted {TOLERANCE[kv_bits]:g}")
        if not found < TOLERANCE[kv_bits]:
            sys.exit("Attention is wrong; nothing was timed.")
    print(f"\n{Machine.here().processor}, {ops.active_isa()}, one thread, all {LAYERS} layers\n")
    print("bits  context   MiB a layer   prefill ms/token  GFLOP/s   decode ms/token  GFLOP/s")
    for kv_bits in args.kv_bits:
        for n in args.contexts:
            layer, q, _, _ = random_layer(n, min(n, CHUNK), kv_bits)
            line = f"{kv_bits:4} {n:8} {layer.size_bytes / 2**20:13.2f}"
            for T in (len(q), 1):
                time_s = seconds(layer, q[-T:]) / T
                seen = n - (T - 1) / 2  # positions that a token sees, on average
                rate = 4 * HEADS * HEAD_DIM * seen / time_s / 1e9
                line += f" {time_s * LAYERS * 1e3:17.3f} {rate:8.0f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
