"""Two arms compared, seed by seed: equal seeds have equal first weights and equal order of text."""

import math
import statistics
from dataclasses import dataclass

from benchmarks.bitnet.numbers import Numbers


@dataclass(frozen=True)
class Difference:
    """Bits per byte of one arm less those of another."""

    mean: float
    """Over the seeds that both have; positive where the first arm is worse."""
    low: float
    high: float
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether the seeds agree on the sign, and the mean is beyond their spread of it.

        With one seed nothing is clear.
        """
        agree = self.low > 0 or self.high < 0
        return self.seeds > 1 and agree and abs(self.mean) > (self.high - self.low) / 2


def difference(numbers: Numbers, first: str, second: str) -> Difference | None:
    """Return how the first arm differs from the second; None where one is missing or diverged."""
    arms = numbers["arms"]
    if first not in arms or second not in arms:
        return None
    a, b = arms[first]["bits_per_byte"], arms[second]["bits_per_byte"]
    pairs = [(a[seed], b[seed]) for seed in a if seed in b]
    found = [x - y for x, y in pairs if x is not None and y is not None]
    if not found or len(found) < len(pairs):
        return None
    return Difference(statistics.fmean(found), min(found), max(found), len(found))


def nats(numbers: Numbers, bits_per_byte: float) -> float:
    """Turn bits per byte into nats per token of this text."""
    return bits_per_byte * math.log(2) * float(numbers["setup"]["bytes_per_token"])


def in_words(numbers: Numbers, found: Difference) -> str:
    """Return a difference as "+0.0123 bits per byte (+0.0210 nats per token)"."""
    return f"{found.mean:+.4f} bits per byte ({nats(numbers, found.mean):+.4f} nats per token)"


def verdict(numbers: Numbers, first: str, second: str) -> str:
    """Say in a sentence how one arm compares with another, in code names."""
    arms = numbers["arms"]
    for name in (first, second):
        if name not in arms:
            return f"`{name}` was not run."
        if arms[name]["diverged"]:
            runs = len(arms[name]["bits_per_byte"])
            return f"`{name}` diverged in {arms[name]['diverged']} of {runs} runs."
    found = difference(numbers, first, second)
    assert found is not None  # both are there and whole
    words = in_words(numbers, found)
    if found.seeds == 1:
        return f"`{first}` against `{second}`: {words}, one seed."
    if not found.clear:
        return (
            f"`{first}` and `{second}` cannot be told apart: {words}, "
            f"{found.low:+.4f} to {found.high:+.4f} over {found.seeds} seeds."
        )
    kind = "worse" if found.mean > 0 else "better"
    return (
        f"`{first}` is {kind} than `{second}`: {words}, "
        f"{found.low:+.4f} to {found.high:+.4f} over {found.seeds} seeds."
    )
