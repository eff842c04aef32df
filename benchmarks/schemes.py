"""Time of a token by scheme, beside plain b1.58 of the same shape: what the family's rules cost.

    python benchmarks/schemes.py [--shapes 2048x8192,2560x6912] [--layers 4] [--threads 1,2]

Random weights, a gated unit with squared ReLU, a small vocabulary, so that the layers are what is
timed. First the logits of every scheme are held to those of the scalar instruction set, bit for
bit, in one step and token by token. Then all schemes write a token in turn, round after round, in
a new order each time. Printed are the first decile of a scheme's times, for on a shared machine
others only ever add to them, and its ratio to that of b1.58.
"""

import argparse
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from onebit import SCHEMES, Architecture, hadamard
from onebit.eval.machine import Machine
from onebit.kernels import cpu, ops
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme, Scheme
from onebit.tensors import Linear, linears, norms

PLAIN = "bitnet-b1.58"
OTHERS = ("bitnet-v2-a8", "bitnet-v2-a4", "bitnet-a4.8", "bitnet-a4.8-fp4", "bitnet-b1")
CONTEXT = 16
CHECKED = np.array([5, 1, 40, 7, 7, 60], np.int32)
ACCEPTED = 1.10


@dataclass
class Model:
    """A decoder of one scheme, and a cache that it writes to."""

    decoder: cpu.Decoder
    cache: cpu.Cache

    def logits(self, together: bool) -> np.ndarray[Any, Any]:
        """Return those of the checked tokens, in one step or in as many as there are."""
        cache = self.decoder.new_cache(len(CHECKED), 16)
        pieces = [CHECKED] if together else np.split(CHECKED, len(CHECKED))
        return np.concatenate([self.decoder.forward(p, cache, "all") for p in pieces])

    def token_s(self) -> float:
        """Return the seconds that one token takes after a short context."""
        self.cache.length = CONTEXT
        token = CHECKED[:1]
        start = time.perf_counter()
        self.decoder.forward(token, self.cache, "last")
        return time.perf_counter() - start


def shape(text: str, layers: int) -> Architecture:
    """Return the architecture of a text as "2048x8192": hidden and gated width."""
    hidden, gated = map(int, text.split("x"))
    head = 128 if hidden % 128 == 0 else 64
    return Architecture(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=gated,
        num_hidden_layers=layers,
        num_attention_heads=hidden // head,
        num_key_value_heads=hidden // head,
        head_dim=head,
        hidden_act="relu2",
    )


class Weights:
    """Random codes of a shape; models of the same kind of weights share them."""

    def __init__(self, architecture: Architecture) -> None:
        self.architecture = architecture
        self.rng = np.random.default_rng(0)
        self.matrices: dict[tuple[str, str], cpu.Matrix] = {}

    def matrix(self, linear: Linear, kind: str) -> cpu.Matrix:
        """Return the matrix of a layer with weights "ternary", "binary" or "fp"."""
        key = linear.name, kind
        if key not in self.matrices:
            self.matrices[key] = self._new(linear.N, linear.K, kind)
        return self.matrices[key]

    def _new(self, N: int, K: int, kind: str) -> cpu.Matrix:
        if kind == "fp":
            return ops.repack_floats(self.rng.standard_normal((N, K), np.float32))
        codes = self.rng.integers(-1, 2, (N, K), np.int8)
        if kind == "binary":
            codes = np.where(codes > 0, np.int8(1), np.int8(-1))
        return ops.repack(Unpacked(codes, np.full((N, 1), K**-0.5, np.float32)))

    def model(self, scheme: Scheme) -> Model:
        """Return a decoder of these weights by a scheme."""
        a = self.architecture
        fields = {**a.native(), "q_bits": scheme.q_bits}
        decoder = cpu.Decoder(fields)
        for linear in linears(a):
            how = scheme.linear(linear.name)
            matrix = self.matrix(linear, how.weight)
            decoder.set_matrix(linear.name, matrix, how.activation, **inside(how, linear.K))
        for name, size in norms(a):
            decoder.set_norm(name, np.ones(size, np.float32))
        decoder.finish()
        cache = decoder.new_cache(CONTEXT + 1, 16)
        decoder.forward(np.arange(CONTEXT, dtype=np.int32), cache, "none")
        return Model(decoder, cache)


def inside(how: LinearScheme, K: int) -> dict[str, Any]:
    """Return what a layer does to its input before it rounds it."""
    return {
        "norm": np.ones(K, np.float32) if how.norm == "rms" else None,
        "layer_norm": how.norm == "layer",
        "hadamard": hadamard.signs(how.signs, K) if how.hadamard != "none" else None,
    }


def is_right(model: Model) -> bool:
    """Whether every instruction set that is asked gives the bits of scalar."""
    before = os.environ.get("ONEBIT_ISA")
    mine = model.logits(True), model.logits(False)
    os.environ["ONEBIT_ISA"] = "scalar"
    expected = model.logits(True)
    if before is None:
        del os.environ["ONEBIT_ISA"]
    else:
        os.environ["ONEBIT_ISA"] = before
    return bool(np.isfinite(expected).all()) and all((y == expected).all() for y in mine)


def compare(models: dict[str, Model], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a token of each model, round by round."""
    times: dict[str, list[float]] = {name: [] for name in models}
    names, chance = list(models), random.Random(0)
    for _ in range(rounds + 1):
        chance.shuffle(names)
        for name in names:
            times[name].append(models[name].token_s())
    return {name: found[1:] for name, found in times.items()}  # the first warms up


def main() -> None:
    """Check, time and print every shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shapes", default="2048x8192,2560x6912")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--threads", default="1,2")
    args = parser.parse_args()
    print(f"{Machine.here().processor}, {ops.active_isa()}\n")
    slow = False
    for text in args.shapes.split(","):
        weights = Weights(shape(text, args.layers))
        models = {name: weights.model(SCHEMES[name]) for name in (PLAIN, *OTHERS)}
        for name, model in models.items():
            if not is_right(model):
                sys.exit(f"{name} is wrong at {text}; nothing was timed.")
        for threads in map(int, args.threads.split(",")):
            ops.set_threads(threads)
            times = compare(models, args.rounds)
            print(f"{text}, {args.layers} layers, {threads} thread(s): ms a token, to {PLAIN}")
            for name, found in times.items():
                mine, plain = (statistics.quantiles(t, n=10)[0] for t in (found, times[PLAIN]))
                slow |= mine > ACCEPTED * plain
                print(f"  {name:16} {1e3 * mine:8.3f}  {mine / plain:6.3f}")
            print()
    if slow:
        sys.exit(f"A scheme takes more than {ACCEPTED:g} of {PLAIN}.")


if __name__ == "__main__":
    main()
