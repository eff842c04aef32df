"""What a quantization did and what it cost: a row for each layer, totals, JSON and a page.

    row = Row("model.layers.0.mlp.up_proj", "gptq", "int3 zero_point group:64", (1536, 576), ...)
    report = Report("smollm2", "small.gguf", method="gptq", scheme="w3a16-g64", rows=[row])
    report.write("small.report.json")          # and small.report.html beside it

Errors are shares of a whole, not squares of it: weight error is |W - Ŵ| / |W| (Frobenius), output
error is the same of W x over the calibration tokens, sqrt(tr(D A Dᵀ) / tr(W A Wᵀ)) with D = W - Ŵ
and A = E[x xᵀ]. Sizes are bytes as they lie in the file, factors counted.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from onebit.errors import FormatError, InputError
from onebit.io.atomic import write_bytes
from onebit.io.json_file import read_json

VERSION = 1
"""Of the JSON; a reader refuses a later one."""


@dataclass(frozen=True)
class Row:
    """One linear layer."""

    layer: str
    """Its module's name, for instance "model.layers.3.mlp.up_proj"."""
    method: str
    """What rounded it: "gptq", "awq+rtn", ...; "kept" (codes as they were), "float" (left so)."""
    scheme: str
    """How it is held, in words: "int3 zero_point group:64", "q4_k", "f16"."""
    shape: tuple[int, int]
    """(N, K)."""
    size_bytes: int
    """In the file: codes, scales and zero-points or minima."""
    weight_error: float
    """|W - Ŵ| / |W|."""
    output_error: float | None = None
    """The same of W x over the calibration tokens; None without any."""
    time_s: float = 0.0
    """Of rounding this layer, without the passes that made its statistics."""
    note: str = ""
    """What the method had to say aloud: damping raised, dead columns, a search's result."""

    @property
    def weights(self) -> int:
        """N x K."""
        return self.shape[0] * self.shape[1]

    @property
    def bits(self) -> float:
        """Bits per weight in the file, factors counted."""
        return 8 * self.size_bytes / self.weights


@dataclass(frozen=True)
class Text:
    """Perplexity on one text, before and after."""

    name: str
    """Which text, for people."""
    before: float
    """Of the float reference: for a packed source, its dequantized weights."""
    after: float
    bits_per_byte_before: float | None = None
    bits_per_byte_after: float | None = None
    protocol: str = ""
    """`Perplexity.protocol`: what it takes to repeat the measurement."""


@dataclass
class Report:
    """All that a run of `quantize` has to tell."""

    model: str
    """The source, as it was named."""
    out: str
    """The file or folder that was written."""
    method: str
    scheme: str
    """Its name, or that of the plan."""
    rows: list[Row] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    """Bytes of the file by part: "codes", "factors", "embedding", "head", "other" (norms, biases,
    metadata). Their sum is the size of the file."""
    weights: int = 0
    """Of the whole model: every matrix, a tied head counted once."""
    texts: list[Text] = field(default_factory=list)
    calibration: dict[str, Any] = field(default_factory=dict)
    """Text, windows, tokens, seed; empty without any."""
    options: dict[str, Any] = field(default_factory=dict)
    """Those of the method that differ from the defaults."""
    time_s: float = 0.0
    """Of everything, from opening the source to the file; blocks that an earlier process did before
    it was stopped are counted."""
    peak_memory_bytes: int = 0
    """The most memory that the process held."""
    notes: list[str] = field(default_factory=list)
    """What a reader must know: layers kept, a reference that is itself dequantized."""

    @property
    def size_bytes(self) -> int:
        """Of the whole file."""
        return sum(self.parts.values())

    @property
    def bits_per_weight(self) -> float:
        """Of the whole file, embeddings, norms and metadata counted; nan without weights."""
        return 8 * self.size_bytes / self.weights if self.weights else math.nan

    @property
    def linear_bits_per_weight(self) -> float:
        """Of the layers in `rows`, scales and zero-points counted; nan without rows."""
        weights = sum(row.weights for row in self.rows)
        return 8 * sum(row.size_bytes for row in self.rows) / weights if weights else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with the sums; `from_dict` reads it back."""
        rows = [
            asdict(row) | {"weight_error": _number(row.weight_error), "bits": row.bits}
            for row in self.rows
        ]
        texts = [asdict(text) | {"after": _number(text.after)} for text in self.texts]
        totals = {
            "size_bytes": self.size_bytes,
            "bits_per_weight": _number(self.bits_per_weight),
            "linear_bits_per_weight": _number(self.linear_bits_per_weight),
        }
        return {"version": VERSION, **asdict(self), **totals, "rows": rows, "texts": texts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            FormatError: it is no report, or one of a later version.
        """
        version = data.get("version")
        if version != VERSION:
            raise FormatError(
                f"report: version {version!r:.40}; this onebit reads version {VERSION}. "
                "Read it with the onebit that wrote it."
            )
        try:
            rows = [
                Row(
                    **_known(Row, row)
                    | {"shape": (int(row["shape"][0]), int(row["shape"][1]))}
                    | {"weight_error": _value(row["weight_error"])}
                )
                for row in data["rows"]
            ]
            texts = [
                Text(**_known(Text, text) | {"after": _value(text["after"])})
                for text in data["texts"]
            ]
            return cls(**_known(cls, data) | {"rows": rows, "texts": texts})
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise FormatError(
                f"report: a part is missing or of another type ({error!r:.80})."
            ) from error

    def write(self, path: str | Path) -> None:
        """Write the report as JSON to `path`, and as a page beside it, its suffix .html.

        Raises:
            InputError: `path` does not end in .json.
            FileError: the system refused.
        """
        from onebit.ptq.report_page import page  # draws, with matplotlib

        path = Path(path)
        if path.suffix != ".json":
            raise InputError(f"{path}: a report is JSON. Give a name that ends in .json.")
        text = json.dumps(self.to_dict(), indent=1, allow_nan=False)
        write_bytes(path, (text + "\n").encode())
        write_bytes(path.with_suffix(".html"), page(self).encode())


def read(path: str | Path) -> Report:
    """Return the report in a JSON file.

    Raises:
        MissingError, FormatError, FileError: there is none, or it is damaged.
    """
    return Report.from_dict(read_json(Path(path)))


def _known(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass; sums that JSON has beside them are computed again."""
    return {f.name: data[f.name] for f in fields(kind) if f.name in data}


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no infinity (a model gone to pieces) and no nan."""
    return value if math.isfinite(value) else None


def _value(number: float | None) -> float:
    """Return what `_number` was given, of what can only be finite or infinite."""
    return math.inf if number is None else float(number)
