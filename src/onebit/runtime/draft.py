"""Prompt lookup: guess the next tokens from what followed the last few tokens before.

Answers repeat their prompt (names, code, quotations) and themselves. Where the last tokens stood
earlier in the text, what came after them then is a good guess of what comes now, and it costs no
model to make. The model then computes all guessed tokens in one step, for hardly more than the
price of one where memory is what holds it up, and keeps those that it would have chosen itself.

Source: prompt lookup decoding, https://github.com/apoorvumang/prompt-lookup-decoding; verified as
in speculative decoding, https://arxiv.org/abs/2211.17192.
"""

from collections.abc import Sequence

SHORTEST, LONGEST = 2, 4
"""Tokens that have to stand alike, and those that are looked for at first."""
LONGEST_MATCH = 8
"""Tokens up to which it counts how many more stand alike before them."""

FIRST_CHANCES = (0.0, 0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""How often a guess is right after a match of 0, 1, 2 ... tokens, as long as nothing is known."""
PATIENCE = 16
"""Guesses over which that is averaged."""
WORTH_A_TRY = 0.5
"""A token is drafted if it is right that often. A step costs 0.1 to 0.5 of a step more for each."""


class PromptLookup:
    """Drafts for one text that grows. It keeps up with the text by itself, in O(1) a token.

    It guesses at every step, and drafts a guess only where such guesses have come true: a text that
    does not repeat itself is computed as if there were no drafts.
    """

    def __init__(self, tokens: Sequence[int], most: int) -> None:
        """`tokens`: the text, which may only ever get longer. `most`: tokens of a draft."""
        self._tokens = tokens
        self._most = most
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> the position behind its newest
        self._known = 0  # n-grams that end before here are in the table
        self._chances = list(FIRST_CHANCES)
        self._guess: list[int] = []
        self._guessed_at = self._match = 0

    def draft(self, room: int) -> list[int]:
        """Return the guess for the next tokens: `room` of them at most, none without a reason."""
        self._learn()
        self._read()
        self._guess = []
        position = self._find()
        if position is None:
            return []
        end = len(self._tokens)
        self._guessed_at, self._match = end, self._length_of_match(position)
        length = self._promising(min(self._most, room))
        period = end - position  # a text that repeats itself goes on doing so
        self._guess = [self._tokens[position + i % period] for i in range(max(length, 1))]
        return self._guess[:length]

    def _promising(self, most: int) -> int:
        """Return how many tokens are likely enough to be right, all those before them included."""
        chance = 1.0
        for length in range(most):
            chance *= self._chances[min(self._match + length, LONGEST_MATCH)]
            if chance < WORTH_A_TRY:
                return length
        return max(most, 0)

    def _learn(self) -> None:
        """Compare the last guess with what came, drafted or not."""
        came = self._tokens[self._guessed_at : self._guessed_at + len(self._guess)]
        for i, token in enumerate(came):
            match = min(self._match + i, LONGEST_MATCH)
            right = token == self._guess[i]
            self._chances[match] += (right - self._chances[match]) / PATIENCE
            if not right:
                return

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

    def _length_of_match(self, position: int) -> int:
        """Return how many tokens before `position` are those that end the text."""
        end = len(self._tokens)
        for n in range(min(position, LONGEST_MATCH)):
            if self._tokens[position - 1 - n] != self._tokens[end - 1 - n]:
                return n
        return min(position, LONGEST_MATCH)
