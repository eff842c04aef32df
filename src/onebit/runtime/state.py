"""One sequence with its recurrent state, kept from call to call.

A state is all of the past at once: it goes on, and cannot go back. So what is held of a text is of
use where the text goes on with the whole of it; and two states are copied, to begin there again:
the one before tokens that may be wrong, a draft's, and the one after the newest prompt, which may
come again, or go on in another way.

Shape letters: V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from onebit.runtime.cache import CachedSequence, common_prefix

if TYPE_CHECKING:
    from onebit.kernels.cpu import Decoder


class StateSequence(CachedSequence):
    """Tokens, and the decoder's state after them; and copies of earlier ones.

    The tokens of a copy are the first of those held, as many as its native length says.
    """

    cuts = False

    def __init__(self, decoder: "Decoder") -> None:
        super().__init__(decoder, 1, 16)  # of keys and values, which there are none of
        self._before_guesses = decoder.new_cache(1, 16)
        self._after_prompt = decoder.new_cache(1, 16)
        self._prompt_logits_1V: NDArray[np.float32] | None = None
        self._copies = self._before_guesses, self._after_prompt

    @property
    def size_bytes(self) -> int:
        """Memory of it, which does not grow with its tokens."""
        return self.cache.size_bytes + sum(copy.size_bytes for copy in self._copies)

    def expect_guesses(self, new: int) -> bool:
        """Copy the state. Behind more than one new token, guesses would make these be computed
        again and again: they have to wait."""
        if new == 1:
            self._before_guesses.copy_prefix(self.cache, self.cache.length)
        return new == 1

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` are held and can be gone on from: not all of them, as what
        comes after the last is computed from it."""
        return self._usable(tokens, common_prefix(self._tokens, tokens))

    def copy_prefix(self, other: CachedSequence, length: int) -> None:
        """Hold the first `length` tokens of another sequence, in place of what is held."""
        assert isinstance(other, StateSequence)
        self.forget()
        source = next(c for c in (*other._copies, other.cache) if c.length == length)
        self.cache.copy_prefix(source, length)
        self._tokens.extend(other._tokens[:length])

    def after(
        self, tokens: Sequence[int], draft: Sequence[int] = (), owner: object = None
    ) -> tuple[NDArray[np.float32], int]:
        """See `CachedSequence.after`. The newest prompt again, whatever came behind it, is not
        computed at all: its state and its logits are kept.

        They are of what an owner brings first; the tokens that it chose later are no prompt.
        """
        if self._is_prompt(tokens):
            assert self._prompt_logits_1V is not None
            self._owner = None
            self._keep(len(tokens))
            self._agreed, self._owner = len(tokens), owner
            rows = [self._prompt_logits_1V]
            if draft:
                rows.append(self._forward(draft, "all"))
            return np.concatenate(rows), len(tokens)
        prompt = owner is None or owner is not self._owner
        logits_RV, reused = super().after(tokens, draft, owner)
        if prompt and not draft:
            self._prompt_logits_1V = None  # an interrupt leaves no state with another's logits
            self._after_prompt.copy_prefix(self.cache, self.cache.length)
            self._prompt_logits_1V = logits_RV.copy()
        return logits_RV, reused

    def _is_prompt(self, tokens: Sequence[int]) -> bool:
        """Whether `tokens` are those of the prompt that is kept."""
        count = self._after_prompt.length
        known = self._prompt_logits_1V is not None and count == len(tokens) > 0
        return known and common_prefix(self._tokens, tokens) == count

    def _usable(self, tokens: Sequence[int], held: int) -> int:
        """Return the length of the longest state to go on from, of the tokens taken in; 0 for none.

        A native length that is not that of the tokens is of a call that was interrupted.
        """
        lengths = [copy.length for copy in self._copies]
        if self.cache.length == len(self._tokens):
            lengths.append(self.cache.length)
        return max((n for n in lengths if n <= held and n < len(tokens)), default=0)

    def _go_back(self, tokens: Sequence[int], held: int) -> int:
        length = self._usable(tokens, held)
        if not length == self.cache.length == len(self._tokens):
            self._keep(length)
        return length

    def _keep(self, length: int) -> None:
        """Go back to a copy of this length, or to the beginning."""
        copy = next((c for c in self._copies if length and c.length == length), None)
        if copy is None:
            self.cache.length = length = 0
        else:
            self.cache.copy_prefix(copy, length)
        for other in self._copies:  # before the tokens go that say what it is a state of
            if other.length > length:
                other.length = 0
        del self._tokens[length:]
