"""Writing after short and long texts: a MatMul-free model beside a b1.58 transformer of equal size.

    python benchmarks/matmulfree_context.py [--shape matmulfree-370m] [--contexts 1024,8192,65536]
        [--kv-bits 16] [--threads 2] [--tokens 32] [--rounds 5] [--body t1_6] [--save FOLDER]

Weights are random, and matrix by matrix there are as many on both sides, ternary but for the
embedding; the twin attends with heads of 64 numbers, one of keys and values for each of queries.
First both models are held to
themselves: a text read whole, token by token and beside others gives the same logits, bit for bit.
Then each reads one text as long as the longest context, and what it remembers after each context is
set aside; what is written after it must be what the model itself would go on with, and after the
shortest the text read again in other pieces must lead to the same bits. Only then rounds begin: in
turns, each model writes some tokens after each context. Medians over the rounds are reported.

Memory is all matrices, as the kernels hold them, and what is remembered of one sequence of that
context; of a state `LLM` and `Batch` keep two copies more, to go on from. The transformer reads
65,536 tokens in minutes to an hour, so that is done once.

With --save, FOLDER gets matmulfree-context-<shape>.json and .png.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit import LLM, SCHEMES, Architecture
from onebit.errors import OnebitError
from onebit.eval import shapes, speed
from onebit.eval.machine import Machine
from onebit.eval.random_model import random_model
from onebit.kernels import cpu, ops
from onebit.runtime.cache import CHUNK
from onebit.scheme import Scheme

MATMULFREE, TWIN = "MatMul-free", "transformer"
OTHER_CHUNK = 100
"""Tokens that are read at once where the same bits are to come of other pieces."""

Logits = NDArray[np.float32]


@dataclass
class Point:
    """One model after one context."""

    model: str
    context: int
    memory_bytes: int
    """Of all matrices, and ..."""
    sequence_bytes: int
    """... of what is remembered of one sequence."""
    read_tokens_per_s: float
    """From the context before to this one."""
    rounds_tokens_per_s: list[float] = field(default_factory=list)

    @property
    def tokens_per_s(self) -> float:
        return statistics.median(self.rounds_tokens_per_s)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"tokens_per_s": self.tokens_per_s}


class Place:
    """What a model remembers after a context, to go on from again and again."""

    def __init__(self, decoder: cpu.Decoder, memory: cpu.Memory, logits_V: Logits) -> None:
        self._decoder, self._memory, self._logits_V = decoder, memory, logits_V
        self._length = memory.length
        self._before: cpu.Memory | None = None
        if isinstance(memory, cpu.State):  # it cannot go back
            self._before = decoder.new_cache(1, 16)
            self._before.copy_prefix(memory, self._length)

    def write(self, tokens: int) -> tuple[list[int], Logits, float]:
        """Continue greedily; return the tokens, the last logits, and the seconds."""
        if self._before is None:
            self._memory.length = self._length
        else:
            self._memory.copy_prefix(self._before, self._length)
        written: list[int] = []
        logits_V = self._logits_V
        start_s = time.perf_counter()
        for _ in range(tokens):
            written.append(int(logits_V.argmax()))
            newest = np.array(written[-1:], np.int32)
            logits_V = self._decoder.forward(newest, self._memory, "last")[0]
        return written, logits_V, time.perf_counter() - start_s


class Reader:
    """A model that reads one text, and leaves a `Place` after each context."""

    def __init__(self, name: str, llm: LLM, kv_bits: int, contexts: list[int], tokens: int) -> None:
        self._name, self._llm, self._kv_bits = name, llm, kv_bits
        self._contexts, self._tokens = contexts, tokens
        self._text = np.array(speed.random_prompt(llm, contexts[-1]), np.int32)
        self.places: list[tuple[Point, Place]] = []

    def read(self) -> Iterator[str]:
        """Read the text, place by place; yield what was done.

        Raises:
            OnebitError: a place does not go on as the model itself does.
        """
        decoder = self._llm.decoder
        memory = self._new(self._contexts[-1])
        at = 0
        for context in self._contexts:
            start_s = time.perf_counter()
            logits_V = self._read(memory, at, context, CHUNK)
            rate = (context - at) / (time.perf_counter() - start_s)
            kept = memory
            if context != self._contexts[-1]:
                kept = self._new(context)
                kept.copy_prefix(memory, context)
            place = Place(decoder, kept, logits_V)
            if at == 0:
                self._check(place)
            size = self._llm.size_bytes
            point = Point(self._name, context, size, kept.size_bytes, rate)
            self.places.append((point, place))
            at = context
            yield f"{self._name}: {context} tokens read, the last at {rate:.1f} tokens/s"

    def _new(self, context: int) -> cpu.Memory:
        return self._llm.decoder.new_cache(context + self._tokens, self._kv_bits)

    def _read(self, memory: cpu.Memory, begin: int, end: int, chunk: int) -> Logits:
        """Take text[begin:end] in; return the last logits."""
        for first in range(begin, end - 1, chunk):
            part = self._text[first : min(first + chunk, end - 1)]
            self._llm.decoder.forward(part, memory, "none")
        return self._llm.decoder.forward(self._text[end - 1 : end], memory, "last")[0]

    def _check(self, place: Place) -> None:
        again = self._new(self._contexts[0])
        other = Place(
            self._llm.decoder, again, self._read(again, 0, self._contexts[0], OTHER_CHUNK)
        )
        one, first_V, _ = place.write(self._tokens)
        for found in (place.write(self._tokens), other.write(self._tokens)):
            if found[0] != one or not np.array_equal(found[1], first_V):
                raise OnebitError(
                    f"{self._name}: {self._tokens} tokens after {self._contexts[0]} are not the "
                    "same when written again, or after the text read in other pieces. The engine "
                    "is wrong here; nothing was timed."
                )


def table(points: list[Point]) -> str:
    lines = ["model            context   tokens/s   ms/token   a sequence, MB   all, MB  reading/s"]
    for point in points:
        rate, size = point.tokens_per_s, point.sequence_bytes
        lines.append(
            f"{point.model:13}{point.context:11,}{rate:11.2f}{1e3 / rate:11.2f}{size / 1e6:17,.3f}"
            f"{(point.memory_bytes + size) / 1e6:10,.1f}{point.read_tokens_per_s:12.1f}"
        )
    return "\n".join(lines)


def draw(points: list[Point], title: str, path: Path) -> None:
    """Draw speed and memory against context."""
    from matplotlib.figure import Figure  # no pyplot: nothing global, no display

    ink, muted = "#1f2328", "#8b949e"
    figure = Figure(figsize=(9, 3.8), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, color in ((MATMULFREE, "#d1495b"), (TWIN, "#4c78a8")):
        own = [point for point in points if point.model == name]
        contexts = [point.context for point in own]
        left.plot(contexts, [p.tokens_per_s for p in own], color=color, marker="o", label=name)
        sizes = [(p.memory_bytes + p.sequence_bytes) / 1e9 for p in own]
        right.plot(contexts, sizes, color=color, marker="o")
    left.set_title(title, color=ink, loc="left", fontsize=10)
    left.set_ylabel("tokens written a second", color=ink)
    right.set_ylabel("weights and one sequence, GB", color=ink)
    left.legend(frameon=False)
    contexts = sorted({point.context for point in points})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(contexts, [f"{n:,}" for n in contexts])
        axes.set_xlabel("tokens of context", color=ink)
        axes.set_ylim(bottom=0)
        axes.grid(color=muted, alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def pair(shape: Architecture) -> dict[str, tuple[Architecture, Scheme]]:
    """Return the two models by name. Published transformers have a float head; the twin's is as
    small as the other's, so that what differs is the layers."""
    body = SCHEMES["bitnet-b1.58"].linear("q_proj")
    return {
        MATMULFREE: (shape, SCHEMES["matmulfree"]),
        TWIN: (shapes.transformer_twin(shape), Scheme("b1.58-head", {"body": body, "head": body})),
    }


def compare(args: argparse.Namespace, folder: Path) -> list[Point]:
    """Write both models, check them, and time them in turns."""
    readers = []
    for name, (shape, scheme) in pair(shapes.find(args.shape)).items():
        path = folder / f"{name}.gguf"
        random_model(path, shape, "t1_6", "q8_0", scheme=scheme)
        llm = LLM(path, threads=args.threads, context=64, body=args.body)
        speed.check(llm)
        readers.append(Reader(name, llm, args.kv_bits, args.contexts, args.tokens))
    for reader in readers:
        for line in reader.read():
            note(line)
    places = [place for reader in readers for place in reader.places]
    for round_ in range(args.rounds):
        for point, place in places:
            point.rounds_tokens_per_s.append(args.tokens / place.write(args.tokens)[2])
        note(f"round {round_ + 1} of {args.rounds}")
    return [point for point, _ in places]


def numbers(text: str) -> list[int]:
    found = sorted({int(word) for word in text.split(",")})
    if found[0] < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has a context without tokens")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="matmulfree-370m")
    parser.add_argument("--contexts", type=numbers, default=[1024, 8192, 65536])
    parser.add_argument("--kv-bits", type=int, default=16)
    parser.add_argument("--threads", type=int, default=ops.default_threads())
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--body", default="auto")
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)  # now, not after an hour

    machine = Machine.here()
    with tempfile.TemporaryDirectory() as folder:
        points = compare(args, Path(folder))
    print(f"{args.shape}, keys and values of {args.kv_bits} bits, {args.threads} threads, ", end="")
    print(f"{machine.processor}, {machine.isa}\n{table(points)}")
    if args.save:
        name = f"matmulfree-context-{args.shape}"
        options = {key: value for key, value in vars(args).items() if key != "save"}
        found = {
            "day": date.today().isoformat(),
            "machine": asdict(machine),
            "options": options,
            "points": [point.to_dict() for point in points],
        }
        (args.save / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        title = f"{args.shape} and its transformer twin, b1.58"
        draw(points, title, args.save / f"{name}.png")


if __name__ == "__main__":
    main()
