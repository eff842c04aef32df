"""Prompt lookup: guess the next tokens from what followed the last few tokens before.

Answers repeat their prompt (names, code, quotations) and themselves. Where the last tokens stood
earlier in the text, what came after them then is a good guess of what comes now, and it costs no
model to make. The model then computes all guessed tokens in one step, for hardly more than the
price of one where memory is what holds it up, and keeps those that it would have chosen itself.

Source: prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding; verified as
in speculative decoding, https://arxiv.org/abs/2211.17192.
"""

from collections.abc import Sequence

LONGEST = 4
SHORTEST = 2
"""Tokens that have to stand alike. A single one says too little about what follows."""

FIRST_LENGTH = 4
LONGEST_PAUSE = 32
"""Steps without a draft, at most, after drafts that were refused whole."""


class PromptLookup:
    """Drafts for one text that grows. It keeps up with the text by itself, in O(1) a token."""

    def __init__(self, tokens: Sequence[int], most: int) -> None:
        """`tokens`: the text, which may only ever get longer. `most`: tokens of a draft."""
        self._tokens = tokens
        self._most = most
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> the position behind its newest
        self._known = 0  # n-grams that end before here are in the table
        self._length = min(FIRST_LENGTH, most)
        self._refused = 0  # drafts in a row
        self._pause = 0

    def draft(self, room: int) -> list[int]:
        """Return the guess for the next tokens: `room` of them at most, none without a reason."""
        self._read()
        length = min(self._length, room)
        if length < 1:
            return []
        if self._pause:
            self._pause -= 1
            return []
        position = self._find()
        if position is None:
            return []
        period = len(self._tokens) - position  # a text that repeats itself goes on doing so
        return [self._tokens[position + i % period] for i in range(length)]

    def learn(self, drafted: int, accepted: int) -> None:
        """Draft more after a draft that was taken whole, fewer or none after one that was not."""
        if not drafted:
            return
        if accepted:
            self._refused = 0
            whole = accepted == drafted
            self._length = min(self._most, 2 * drafted if whole else accepted + 1)
        else:
            self._refused += 1
            self._length = max(1, self._length // 2)
            self._pause = min(2**self._refused - 1, LONGEST_PAUSE)

    def _read(self) -> None:
        """Enter the n-grams that something follows. The newest of each replaces those before."""
        tokens, after = self._tokens, self._after
        for end in range(max(self._known, SHORTEST), len(tokens)):
            for n in range(SHORTEST, min(LONGEST, end) + 1):
                after[tuple(tokens[end - n : end])] = end
        self._known = len(tokens)

    def _find(self) -> int | None:
        """Return where the longest n-gram that ends the text went on before."""
        end = len(self._tokens)
        for n in range(min(LONGEST, end), SHORTEST - 1, -1):
            position = self._after.get(tuple(self._tokens[end - n : end]))
            if position is not None:
                return position
        return None
