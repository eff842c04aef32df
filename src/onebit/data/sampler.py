"""Which windows of a token file a training step sees: shuffled, repeatable, resumable.

Each pass over the file (an epoch) cuts it at a new random offset into windows that share nothing,
and shuffles them. Offset and order come from (seed, epoch) alone, so the whole future of a sampler
is three numbers: seed, epoch, position.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onebit.data.blocks import TokenFile
from onebit.errors import OptionError, ShapeError


class Sampler:
    """Draws batches of windows of T + 1 tokens: T inputs, and for each the token that follows."""

    def __init__(self, file: TokenFile, length: int, batch_size: int, seed: int = 0) -> None:
        """
        Args:
            file: what to draw from.
            length: T.
            batch_size: B, windows of a batch.
            seed: 0 or more.

        Raises:
            ShapeError: the file has fewer than `length` + 1 tokens.
            OptionError: a number is out of range.
        """
        if length < 1 or batch_size < 1 or seed < 0:
            raise OptionError(
                f"sampler: length {length}, batch_size {batch_size}, seed {seed}; "
                "accepted: at least 1, 1 and 0."
            )
        if len(file) < length + 1:
            raise ShapeError(
                f"{file.path}: {len(file)} tokens do not make one window of {length} + 1. "
                "Give more text or shorter windows."
            )
        self._file, self._length, self._batch_size, self._seed = file, length, batch_size, seed
        self._epoch, self._position = 0, 0
        self._order = self._draw()

    def _draw(self) -> NDArray[np.int64]:
        """Return where this epoch's windows begin, in order of use."""
        chance = np.random.Generator(np.random.Philox(key=[self._seed, self._epoch]))
        spare = len(self._file) - self._length - 1
        offset = int(chance.integers(min(self._length, spare + 1)))
        windows = (len(self._file) - 1 - offset) // self._length
        return chance.permutation(windows).astype(np.int64) * self._length + offset

    def next_batch(self) -> NDArray[np.int64]:
        """Return the next windows, (B, T + 1) int64; a new epoch begins where one ends.

        Raises:
            FormatError: the file is damaged there.
        """
        parts, missing = [], self._batch_size
        while missing:
            if self._position == len(self._order):
                self._epoch, self._position = self._epoch + 1, 0
                self._order = self._draw()
            part = self._order[self._position : self._position + missing]
            self._position += len(part)
            missing -= len(part)
            parts.append(part)
        return self._file.batch(np.concatenate(parts), self._length)

    def state(self) -> dict[str, int]:
        """Return what `load_state` needs to go on from here; fit for JSON."""
        return {"seed": self._seed, "epoch": self._epoch, "position": self._position}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of a sampler with the same file, length and seed.

        Raises:
            OptionError: the state is of another seed, or impossible.
        """
        seed, epoch, position = (state.get(key) for key in ("seed", "epoch", "position"))
        whole = all(type(n) is int and 0 <= n < 1 << 63 for n in (seed, epoch, position))
        if not whole or seed != self._seed:
            raise OptionError(
                f"sampler: the state {dict(state)!r:.120} is not of seed {self._seed}. "
                "Resume with the recipe that the run began with."
            )
        self._epoch = int(epoch or 0)
        self._order = self._draw()
        if int(position or 0) > len(self._order):
            raise OptionError(
                f"sampler: position {position} is past the {len(self._order)} windows of an epoch. "
                "Resume with the same text and window length."
            )
        self._position = int(position or 0)
