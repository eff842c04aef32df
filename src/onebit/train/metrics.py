"""metrics.jsonl: one line of JSON per logged step or evaluation, in the order they happened.

    {"step": 10, "tokens": 40960, "loss": 7.1, "lr": 0.002, ...}
    {"step": 100, "held_out_bits_per_byte": 2.31, ...}

A checkpoint remembers the file's length. Whoever goes on from it cuts the file back to that length
first, so that the lines of the steps done twice appear once.
"""

import json
import os
from pathlib import Path
from typing import Any, Self

from onebit.errors import FormatError


class Metrics:
    """The file, open for appending until the end of a `with` block."""

    def __init__(self, path: Path, size_bytes: int = 0) -> None:
        """Open `path` and cut it to `size_bytes`.

        Raises:
            FormatError: the file is shorter than that.
        """
        self._file = open(path, "ab")  # noqa: SIM115 (closed by __exit__)
        have = os.fstat(self._file.fileno()).st_size
        if have < size_bytes:
            self._file.close()
            raise FormatError(
                f"{path}: has {have} bytes, the checkpoint remembers {size_bytes}. "
                "Lines are missing; start again in another folder."
            )
        self._file.truncate(size_bytes)

    def write(self, **values: Any) -> None:
        """Append one line."""
        self._file.write(json.dumps(values).encode() + b"\n")
        self._file.flush()

    def sync(self) -> int:
        """Bring all lines to the disk and return the file's length in bytes."""
        os.fsync(self._file.fileno())
        return os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl as dicts."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
