"""What a person watching a run sees: a bar on a terminal, plain lines in a log file.

Everything goes to standard error; results belong to standard output.
"""

import sys
import time
from typing import Any, Protocol, TextIO

_PLAIN_EVERY_S = 5.0


class Progress(Protocol):
    """What the training loop tells whoever watches."""

    def say(self, text: str) -> None:
        """Something was begun or finished."""

    def step(
        self, step: int, share: float, loss: float, rate_tokens_per_s: float, left_s: float
    ) -> None:
        """`step` steps and this share of the run are done."""

    def close(self) -> None:
        """There is nothing more to tell."""


class Silent:
    """Tells nothing: the library's default."""

    def say(self, text: str) -> None:
        """Ignore it."""

    def step(
        self, step: int, share: float, loss: float, rate_tokens_per_s: float, left_s: float
    ) -> None:
        """Ignore it."""

    def close(self) -> None:
        """Nothing to do."""


class Plain:
    """One line now and then."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._next_s = 0.0

    def say(self, text: str) -> None:
        """Print the text."""
        print(text, file=self._stream, flush=True)

    def step(
        self, step: int, share: float, loss: float, rate_tokens_per_s: float, left_s: float
    ) -> None:
        """Print a line, unless the last one is fresh."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _PLAIN_EVERY_S
            self.say(f"{share:4.0%}  {describe(step, loss, rate_tokens_per_s, left_s)}")

    def close(self) -> None:
        """Nothing to do."""


class Bar:
    """A bar that moves, and lines above it."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._rich = RichProgress(
            TextColumn("{task.percentage:3.0f}%"),
            BarColumn(bar_width=24),
            TextColumn("{task.description}"),
            console=Console(file=stream),
        )
        self._task: Any = None

    def say(self, text: str) -> None:
        """Print the text above the bar."""
        self._rich.console.print(text, markup=False, highlight=False)

    def step(
        self, step: int, share: float, loss: float, rate_tokens_per_s: float, left_s: float
    ) -> None:
        """Move the bar."""
        if self._task is None:
            self._task = self._rich.add_task("", total=1.0)
            self._rich.start()
        text = describe(step, loss, rate_tokens_per_s, left_s)
        self._rich.update(self._task, completed=share, description=text)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._rich.stop()


def describe(step: int, loss: float, rate_tokens_per_s: float, left_s: float) -> str:
    """Return the state of a run in one line."""
    minutes, seconds = divmod(round(left_s), 60)
    return (
        f"step {step}  loss {loss:.3f}  {rate_tokens_per_s:,.0f} tokens/s  "
        f"{minutes}:{seconds:02d} left"
    )


def on(stream: TextIO | None = None) -> Progress:
    """Return what fits the stream (standard error by default): a bar on a terminal, else lines."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Plain(stream)
