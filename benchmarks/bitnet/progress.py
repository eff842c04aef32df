"""How far the whole is, in one line: on a terminal in place, elsewhere a line every half minute."""

import time
from collections.abc import Mapping
from typing import TextIO

_EVERY_S = 30.0


class Line:
    """Shows runs done, the share of the whole, time left and the runs under way."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._begin: tuple[float, float] | None = None
        self._next_s = 0.0
        self._open = False

    def show(self, done: int, total: int, shares: Mapping[str, float], measuring: int) -> None:
        """Show the state, if it is time to.

        Args:
            done: runs that are finished; `total` how many there will be.
            shares: of each run under way, how much is done.
            measuring: models that are being measured.
        """
        now_s = time.monotonic()
        have = done + sum(shares.values())
        if self._begin is None:
            self._begin = now_s, have
        terminal = self._stream.isatty()
        if now_s < self._next_s and not terminal:
            return
        self._next_s = now_s + _EVERY_S
        begin_s, had = self._begin
        left = left_s(now_s - begin_s, have - had, total - have)
        words = [f"{done} of {total} runs, {have / max(total, 1):.0%}, {describe(left)} left"]
        words += [f"{name} {share:.0%}" for name, share in shares.items()]
        words += ["measuring"] * measuring
        text = "  ".join(words)
        self._stream.write(f"\r\x1b[K{text[:150]}" if terminal else f"{text}\n")
        self._stream.flush()
        self._open = terminal

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._open:
            self._stream.write("\n")


def left_s(spent_s: float, done: float, left: float) -> float | None:
    """Return the seconds that `left` runs take when `done` took `spent_s`; None if none is told."""
    return spent_s / done * left if done > 0.02 else None


def describe(seconds: float | None) -> str:
    """Return a time as h:mm."""
    if seconds is None:
        return "some time"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h"
