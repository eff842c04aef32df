"""What a benchmark found: lines of numbers, one number a round, and their medians."""

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

LESS_IS_BETTER = ("s", "MB")


@dataclass
class Line:
    """One thing that was measured, on a number of threads."""

    name: str
    threads: int
    unit: str
    """"tokens/s", "GB/s", "GOP/s", "s" or "MB"."""
    values: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    """Of the roofline measured in the same round, 0 to about 1: the least time that the bytes read
    and the operations done can take here, over the time taken. Empty where neither bounds it."""
    token_bytes: int | None = None
    """Read from memory for each token: weights, keys and values."""
    against: list[float | None] = field(default_factory=list)
    """The rival's, of the same rounds; None where it was not asked."""
    base: str = ""
    """What `factors` are relative to: another line, or "file"."""
    factors: list[float] = field(default_factory=list)
    """The values over those of `base` in the same rounds."""

    @property
    def value(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.values)

    @property
    def spread(self) -> float:
        """Half of what lies between the slowest and the fastest round, over the median."""
        return (max(self.values) - min(self.values)) / 2 / self.value

    @property
    def share(self) -> float | None:
        """The median share of the roofline."""
        return statistics.median(self.shares) if self.shares else None

    @property
    def rival(self) -> float | None:
        """The rival's median."""
        found = [value for value in self.against if value is not None]
        return statistics.median(found) if found else None

    @property
    def ratio(self) -> float | None:
        """How many times better than the rival: the median of the rounds' ratios."""
        pairs = [(a, b) for a, b in zip(self.values, self.against, strict=False) if b is not None]
        if not pairs:
            return None
        less = self.unit in LESS_IS_BETTER
        return statistics.median(b / a if less else a / b for a, b in pairs)

    @property
    def factor(self) -> float | None:
        """The median of the factors."""
        return statistics.median(self.factors) if self.factors else None

    def relative_to(self, base: "Line") -> None:
        """Take the factors to another line of as many rounds."""
        self.base = base.name
        self.factors = [a / b for a, b in zip(self.values, base.values, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the medians with the rounds they come from."""
        medians = ("value", "spread", "share", "rival", "ratio", "factor")
        return asdict(self) | {name: getattr(self, name) for name in medians}
