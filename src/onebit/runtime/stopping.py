"""Finding the text that ends an answer, in a text that arrives in pieces.

A stop text may begin in one token and end in the next, so whatever could still become one is held
back until it is decided. What has been handed out never has to be taken back.
"""

from collections.abc import Sequence


class StopTexts:
    """Passes text through until one of the stop texts appears."""

    def __init__(self, stop: Sequence[str]) -> None:
        """`stop`: texts, none of them empty."""
        self._stop = tuple(stop)
        self._held = ""
        self.found: str | None = None
        """The stop text that was met."""

    def feed(self, piece: str) -> str:
        """Take the next piece; return what can be handed out now, up to a stop text."""
        if self.found is not None:
            return ""
        self._held += piece
        places = [(self._held.find(text), text) for text in self._stop if text in self._held]
        if places:
            end, self.found = min(places, key=lambda place: place[0])
        else:
            end = len(self._held) - self._undecided()
        out, self._held = self._held[:end], self._held[end:]
        return out

    def flush(self) -> str:
        """Return what was held back; the text is over and no stop text came of it."""
        out, self._held = self._held, ""
        return "" if self.found is not None else out

    def _undecided(self) -> int:
        """Return the length of the longest end of the held text that begins a stop text."""
        longest = min(len(self._held), max((len(text) for text in self._stop), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(text.startswith(self._held[-length:]) for text in self._stop):
                return length
        return 0
