"""The metadata of a GGUF file, its long arrays decoded when they are looked at.

A vocabulary has some 400,000 strings, and opening a model to give it token ids needs none of them.
What is read at once is where each begins and ends, and whether all of them are text.
"""

import struct
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_WINDOW = 1 << 20
"""Bytes looked at in one go."""
_POOR = 16
"""Windows in which only few strings were found, after which the walk goes on one by one."""


class Metadata(Mapping[str, Any]):
    """Keys to Python values: int, float, bool, str, or a list of one of them."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._later: dict[str, Callable[[], list[Any]]] = {}

    def set(self, key: str, value: Any) -> None:
        """Add a key with its value."""
        self._values[key] = value

    def set_later(self, key: str, make: Callable[[], list[Any]]) -> None:
        """Add a key whose value is made when somebody wants it."""
        self._values[key] = None
        self._later[key] = make

    def part(self, prefix: str) -> "Metadata":
        """Return the keys that begin with `prefix`, without making a value."""
        part = Metadata()
        for key in self._values:
            if not key.startswith(prefix):
                continue
            if key in self._later:
                part.set_later(key, partial(self.__getitem__, key))
            else:
                part.set(key, self._values[key])
        return part

    def __getitem__(self, key: str) -> Any:
        if make := self._later.get(key):  # two threads may both make it
            self._values[key] = make()
            self._later.pop(key, None)
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Metadata({dict(self)!r})"


class Strings(NamedTuple):
    """Where the strings of an array are: (count,) positions in the file, and what follows them."""

    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    end: int

    def decode(self, view: memoryview) -> list[str]:
        """Return the strings; `view` is the file."""
        pairs = zip(self.start.tolist(), self.stop.tolist(), strict=True)
        return [str(view[start:stop], "utf-8") for start, stop in pairs]

    def first_not_text(self, view: memoryview) -> int | None:
        """Return the index of the first string that is no UTF-8, or None."""
        if not len(self.start):
            return None
        first = int(self.start[0]) - 8
        run = np.frombuffer(view[first : self.end], np.uint8).copy()
        # With zeros in place of the lengths, the run is text just if each string is.
        lengths = self.start - 8 - first
        run[lengths] = 0
        for at in lengths[self.stop - self.start >= 256].tolist():
            run[at : at + 8] = 0
        try:
            str(run.data, "utf-8")
        except UnicodeDecodeError as error:
            return int(np.searchsorted(self.start, first + error.start, side="right")) - 1
        return None


def find_strings(data: NDArray[np.uint8], position: int, count: int) -> Strings | None:
    """Walk over `count` strings, each its length in 8 bytes and then its bytes.

    Nearly all have fewer than 256 bytes, so that 7 zeros follow the first byte of a length. All
    such places are found at once, and are beginnings as long as each is where the one before ends.

    Returns:
        Where they are; None where the file ends first.
    """
    starts: list[NDArray[np.int64]] = []
    stops: list[NDArray[np.int64]] = []
    poor = 0
    while count and poor < _POOR:
        window = data[position : position + _WINDOW]
        found = _short_strings(window)
        stop = found + 8 + window[found]
        n = int(np.append(stop[:-1] == found[1:], False).argmin()) + 1 if found.size else 0
        n = min(count, n)
        poor += n < 256
        if not n:
            found, stop, position = _one_by_one(data, position, 1)
        else:
            found, stop, position = (
                found[:n] + position,
                stop[:n] + position,
                position + int(stop[n - 1]),
            )
        if not found.size or position > data.size:
            return None
        starts.append(found + 8)
        stops.append(stop)
        count -= len(found)
    if count:
        found, stop, position = _one_by_one(data, position, count)
        if not found.size:
            return None
        starts.append(found + 8)
        stops.append(stop)
    if not starts:
        return Strings(np.zeros(0, np.int64), np.zeros(0, np.int64), position)
    return Strings(np.concatenate(starts), np.concatenate(stops), position)


def _one_by_one(
    data: NDArray[np.uint8], position: int, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return the lengths' places, the strings' ends and the last of those; no place if the file
    ends first."""
    view, size = data.data, data.size
    length_at = struct.Struct("<Q").unpack_from
    places, ends = [], []
    for _ in range(count):
        if position + 8 > size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), position
        places.append(position)
        position += 8 + length_at(view, position)[0]
        if position > size:
            return np.zeros(0, np.int64), np.zeros(0, np.int64), position
        ends.append(position)
    return np.array(places, np.int64), np.array(ends, np.int64), position


def _short_strings(window: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the places that may be lengths below 256; none if the first is no such place."""
    if window.size < 8 or window[1:8].any():
        return np.zeros(0, np.int64)
    zero = window == 0
    two = zero[:-1] & zero[1:]
    four = two[:-2] & two[2:]
    seven = four[1:-3] & four[4:]  # bytes 1 to 7 after each place
    return np.flatnonzero(seven)
