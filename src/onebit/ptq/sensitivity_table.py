"""Sensitivity as a table: for every layer and way of holding it, what it takes and what it costs.

table = sensitivity_table.read("sensitivity.json")
table.of_roles("w3a16-g64", "fisher")               # which projections suffer
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onebit.errors import FormatError, OptionError
from onebit.io.atomic import write_bytes
from onebit.io.json_file import read_json
from onebit.scheme import role_of

MEASURES = ("weight", "output", "trace", "fisher", "loss")


@dataclass(frozen=True)
class Entry:
    """One layer, rounded in one way."""

    layer: str
    word: str
    """The scheme or block format, as a plan says it."""
    shape: tuple[int, int]
    size_bytes: int
    """With scales and zero-points."""
    weight: float
    """The five measures; `sensitivity` says what they are. None was not taken."""
    output: float
    trace: float | None = None
    fisher: float | None = None
    loss: float | None = None
    time_s: float = 0.0
    """Of rounding."""

    def cost(self, measure: str) -> float:
        """Return one of `MEASURES`.

        Raises:
            OptionError: there is no such measure, or it was not taken.
        """
        value = getattr(self, measure) if measure in MEASURES else None
        if value is None:
            raise OptionError(
                f"sensitivity: {measure!r:.40} of {self.layer} was not measured; accepted: "
                f"{', '.join(m for m in MEASURES if getattr(self, m) is not None)}."
            )
        return float(value)


@dataclass
class Sensitivity:
    """All entries, and how they were measured."""

    entries: list[Entry]
    made: dict[str, Any] = field(default_factory=dict)
    """Method, tokens, base loss, seconds."""

    def of_layers(self) -> dict[str, list[Entry]]:
        """Return layer -> its entries, in the order of the model."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.layer, []).append(entry)
        return found

    def of_roles(self, word: str, measure: str) -> dict[str, float]:
        """Return role -> the sum of a measure over its layers when all are held as `word`."""
        found: dict[str, float] = {}
        for entry in self.entries:
            if entry.word == word:
                role = role_of(entry.layer)
                found[role] = found.get(role, 0.0) + entry.cost(measure)
        return found

    def write(self, path: str | Path) -> None:
        """Write the table as JSON.

        Raises:
            FileError: the system refused.
        """
        data = {"made": self.made, "entries": [asdict(entry) for entry in self.entries]}
        write_bytes(path, json.dumps(data, indent=1, allow_nan=False).encode())


def read(path: str | Path) -> Sensitivity:
    """Return the table in a JSON file.

    Raises:
        MissingError, FormatError, FileError: there is none, or it is damaged.
    """
    data = read_json(Path(path))
    try:
        entries = [
            Entry(**entry | {"shape": (int(entry["shape"][0]), int(entry["shape"][1]))})
            for entry in data["entries"]
        ]
        return Sensitivity(entries, dict(data["made"]))
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise FormatError(f"{path}: is no sensitivity table ({error!r:.80}).") from error
