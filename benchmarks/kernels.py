"""The products by themselves, beside the limits of the machine: multiplications and memory.

    python benchmarks/kernels.py [--rounds 7] [--threads 1 2] [--layouts t2 t1_6 b1 i4 i8]

Results are held to kernels/reference.py first. Then every round measures the peak of the
multiplication that the kernels are built on and the bandwidth of DRAM, and right after each what
is compared with it: products of 128 tokens with one matrix after the other of a 2B4T layer, and
products of 1 and 8 tokens with more matrices than any cache holds. Shares are taken within a
round; medians are printed. Groups of 32 columns (i4 and i8 also as "i4/32", "i8/32") have a scale
each, of weights and of activations.
"""

import argparse
import statistics
from collections.abc import Iterator

import numpy as np

from onebit.kernels import cpu, machine, ops, reference
from onebit.pack import Unpacked

SHAPES = ((2560, 2560), (640, 2560), (6912, 2560), (2560, 6912))  # of a layer of 2B4T
TOKENS = 128
STREAM = (6912, 2560)
STREAM_BYTES = 256 << 20
CODES = {"b1": (-1, 1), "t1_6": (-1, 1), "t2": (-1, 1), "i4": (-8, 7), "i8": (-128, 127)}


def matrix(name: str, N: int, K: int) -> tuple[ops.Matrix, Unpacked]:
    """Return random weights, repacked and as they were; "i4/32" has groups of 32 columns."""
    layout, _, group = name.partition("/")
    rng = np.random.default_rng(N + K)
    low, high = CODES[layout]
    codes_NK = rng.integers(low, high + 1, (N, K), dtype=np.int8)
    if layout == "b1":
        codes_NK[codes_NK == 0] = 1
    scale_NG = rng.uniform(0.1, 2, (N, K // int(group) if group else 1)).astype(np.float32)
    weights = Unpacked(codes_NK, scale_NG)
    return ops.repack(weights, layout), weights


def activation(name: str) -> str:
    return "fp_int8" if "/" in name else "int8_absmax"


def inputs(T: int, K: int) -> np.ndarray:
    return np.random.default_rng(T).standard_normal((T, K)).astype(np.float32)


def check(name: str) -> None:
    """Compare with the reference to the bit, or stop."""
    packed, weights = matrix(name, 53, 2560)
    for T in (1, 2, 8, 13, 30):
        x = inputs(T, 2560)
        expected = reference.linear(weights, x, activation(name))
        np.testing.assert_array_equal(ops.linear(packed, x, activation(name)), expected)


def median(values: list[float]) -> float:
    return statistics.median(values)


class Shares:
    """A speed and the limit beside it, of every round."""

    def __init__(self) -> None:
        self.speeds: list[float] = []
        self.limits: list[float] = []

    def add(self, speed: float, limit: float) -> None:
        self.speeds.append(speed)
        self.limits.append(limit)

    def line(self) -> str:
        share = median([s / m for s, m in zip(self.speeds, self.limits, strict=True)])
        speed, limit = median(self.speeds) / 1e9, median(self.limits) / 1e9
        return f"{speed:8.1f} of {limit:8.1f}  {share:6.1%}"


def many_tokens(name: str, threads: int, rounds: int) -> Iterator[str]:
    """Products of many tokens: operations a second, of the peak."""
    for N, K in SHAPES:
        w, _ = matrix(name, N, K)
        x, shares = inputs(TOKENS, K), Shares()
        operations = 2 * N * K * TOKENS
        for _ in range(rounds):
            peak = machine.measure_int8_peak(threads, 0.02)
            repeats = [w] * max(1, int(0.03 * (peak or 1e11) / operations))
            time_s = cpu.time_products(repeats, x, activation(name))
            shares.add(operations * len(repeats) / time_s, peak or float("nan"))
        yield f"{name:6} {threads} threads, {TOKENS} tokens, {N} x {K}: Gop/s {shares.line()}"


def from_memory(name: str, threads: int, rounds: int) -> Iterator[str]:
    """Products of few tokens: bytes of weights a second, of the bandwidth."""
    N, K = STREAM
    first, _ = matrix(name, N, K)
    many = [first] + [matrix(name, N, K)[0] for _ in range(STREAM_BYTES // first.size_bytes)]
    size_bytes = sum(w.size_bytes for w in many)
    for T in (1, 8):
        x, shares = inputs(T, K), Shares()
        for _ in range(rounds):
            bandwidth = machine.measure_read_bandwidth(threads, time_s=0.05)
            shares.add(size_bytes / cpu.time_products(many, x, activation(name)), bandwidth)
        yield f"{name:6} {threads} threads, {T} tokens, {N} x {K}: GB/s  {shares.line()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--layouts", nargs="+", default=[*CODES, "i4/32", "i8/32"])
    options = parser.parse_args()
    for name in options.layouts:
        check(name)
    print(f"{ops.active_isa()}: results equal the reference", flush=True)
    for threads in options.threads:
        ops.set_threads(threads)
        for measure in (many_tokens, from_memory):
            for name in options.layouts:
                for line in measure(name, threads, options.rounds):
                    print(line, flush=True)


if __name__ == "__main__":
    main()
