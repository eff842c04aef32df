"""One sequence with its recurrent state, kept from call to call.

A state is all of the past at once: it goes on, and cannot go back. So what is held of a text is of
use where the text goes on with the whole of it; and before tokens that may be wrong, a draft's, the
state is copied, to begin there again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onebit.runtime.cache import CachedSequence, common_prefix

if TYPE_CHECKING:
    from onebit.kernels.cpu import Decoder


class StateSequence(CachedSequence):
    """Tokens, and the decoder's state after them; and a copy of an earlier one.

    The tokens of the copy are the first of those held, as many as its native length says.
    """

    cuts = False

    def __init__(self, decoder: "Decoder") -> None:
        super().__init__(decoder, 1, 16)  # of keys and values, which there are none of
        self._copy = decoder.new_cache(1, 16)

    @property
    def size_bytes(self) -> int:
        """Memory of it, which does not grow with its tokens."""
        return self.cache.size_bytes + self._copy.size_bytes

    def expect_guesses(self, new: int) -> bool:
        """Copy the state. Behind more than one new token, guesses would make these be computed
        again and again: they have to wait."""
        if new == 1:
            self._copy.copy_prefix(self.cache, self.cache.length)
        return new == 1

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` are held and can be gone on from: not all of them, as what
        comes after the last is computed from it."""
        return self._usable(tokens, common_prefix(self._tokens, tokens))

    def copy_prefix(self, other: CachedSequence, length: int) -> None:
        """Hold the first `length` tokens of another sequence, in place of what is held."""
        assert isinstance(other, StateSequence)
        self.forget()
        source = other.cache if other.cache.length == length else other._copy
        self.cache.copy_prefix(source, length)
        self._tokens.extend(other._tokens[:length])

    def _usable(self, tokens: Sequence[int], held: int) -> int:
        """Return at which of its two states it can go on, by the tokens taken in; 0 for none.

        A native length that is not that of the tokens is of a call that was interrupted.
        """
        for length in (self.cache.length, self._copy.length):
            whole = length == len(self._tokens) or length == self._copy.length
            if whole and length <= held and length < len(tokens):
                return length
        return 0

    def _go_back(self, tokens: Sequence[int], held: int) -> int:
        length = self._usable(tokens, held)
        if length != self.cache.length:
            self._keep(length)
        del self._tokens[length:]
        return length

    def _keep(self, length: int) -> None:
        if length and length == self._copy.length:
            self.cache.copy_prefix(self._copy, length)
        else:
            self._copy.length = self.cache.length = 0
        del self._tokens[self.cache.length :]
