"""One sequence with its keys and values, kept from call to call.

A chat sends the whole conversation at every turn, and all but its end was computed before. So the
tokens that the cache holds are remembered, and only what differs is computed again.

Shape letters: T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onebit.kernels.cpu import Decoder

CHUNK = 132
"""Most tokens in one native call, which Ctrl-C has to wait for. As many go through the decoder's
layers together, so a long prompt is read no slower than in one call."""


class CachedSequence:
    """Tokens, and the decoder's keys and values for them.

    Every method says the whole sequence it is about, so callers that take turns cannot disturb one
    another; they only recompute more. Interrupting one leaves the object usable: `_tokens` never
    claims more than was computed, and the native length is set to what is kept before each use.
    """

    cuts = True
    """Whether a beginning of what is held can be gone on from."""

    def __init__(self, decoder: "Decoder", capacity: int, kv_bits: int) -> None:
        """`capacity`: tokens it can hold; `kv_bits`: bits of a stored key or value."""
        self._decoder = decoder
        self.cache = decoder.new_cache(capacity, kv_bits)
        self._tokens: list[int] = []
        self._owner: object = None
        self._agreed = 0  # tokens of the owner's that are known to be those held

    def __len__(self) -> int:
        return len(self._tokens)

    @property
    def size_bytes(self) -> int:
        """Memory of it."""
        return self.cache.size_bytes

    def expect_guesses(self, new: int) -> bool:
        """Get ready to take in guessed tokens behind `new` ones, in one native call.

        Returns:
            Whether it can forget them again if they turn out wrong.
        """
        return True

    def begin(self, tokens: Sequence[int], owner: object = None) -> int:
        """Keep what is held of `tokens` (at least one) and drop the rest.

        Args:
            tokens: the sequence that is wanted.
            owner: whose tokens they are, if they only ever get longer: what was compared in the
                owner's last call is then not compared again. None where nothing is promised.

        Returns:
            How many of them do not have to be computed. The last one always has to: its logits are
            what comes next.
        """
        agreed = self._agreed if owner is not None and owner is self._owner else 0
        self._owner = None
        length = self._go_back(tokens, common_prefix(self._tokens, tokens, agreed))
        self._agreed, self._owner = length, owner
        return length

    def extend(self, tokens: Sequence[int]) -> None:
        """Say that the decoder has appended these to `cache`."""
        self._tokens.extend(tokens)

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of `tokens` are held, and can be gone on from."""
        return common_prefix(self._tokens, tokens)

    def copy_prefix(self, other: "CachedSequence", length: int) -> None:
        """Hold the first `length` tokens of another sequence, in place of what is held."""
        self.forget()
        self.cache.copy_prefix(other.cache, length)
        self._tokens.extend(other._tokens[:length])

    def after(
        self, tokens: Sequence[int], draft: Sequence[int] = (), owner: object = None
    ) -> tuple[NDArray[np.float32], int]:
        """Make the sequence be `tokens` (at least one), computing only what differs.

        Args:
            tokens: the sequence.
            draft: guesses of the tokens to come. They are computed too, and are held until the next
                call says what came.
            owner: see `begin`.

        Returns:
            The logits after the last token and after each drafted one, (1 + drafted, V), and how
            many of the tokens did not have to be computed.
        """
        reused, newest = self.begin(tokens, owner), len(tokens) - 1
        parts = list(_even_parts(tokens[reused : newest if draft else newest + 1], CHUNK))
        last = tokens[newest:] if draft else parts.pop()
        for part in parts:
            self._forward(part, "none")
        if draft:
            self.expect_guesses(1)
        logits_RV = self._forward([*last, *draft], "all" if draft else "last")
        return logits_RV, reused

    def logits(self, tokens: Sequence[int], chunk: int) -> Iterator[NDArray[np.float32]]:
        """Compute `tokens` from scratch; yield the logits after each, (chunk, V) at a time."""
        self.forget()
        for part in _chunks(tokens, chunk):
            yield self._forward(part, "all")

    def forget(self) -> None:
        """Drop everything held."""
        self._owner = None
        self._keep(0)

    def _go_back(self, tokens: Sequence[int], held: int) -> int:
        """Hold the longest part that can be of the first `held` of `tokens`, but not all of these;
        return its length."""
        length = min(held, len(tokens) - 1)
        self._keep(length)
        return length

    def _keep(self, length: int) -> None:
        del self._tokens[length:]
        self.cache.length = length

    def _forward(self, tokens: Sequence[int], logits: str) -> NDArray[np.float32]:
        out = self._decoder.forward(np.asarray(tokens, np.int32), self.cache, logits)
        self.extend(tokens)
        return out


def common_prefix(a: Sequence[int], b: Sequence[int], known: int = 0) -> int:
    """Return how many tokens two sequences begin with alike; the first `known` are."""
    shorter = min(len(a), len(b))
    if a[known:shorter] == b[known:shorter]:  # the usual case, at the speed of C
        return shorter
    return next(i for i in range(known, shorter) if a[i] != b[i])


def _even_parts(tokens: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    """Yield parts of about equal size: all weights are read for each, however few its tokens."""
    count = -(-len(tokens) // most)
    return _chunks(tokens, -(-len(tokens) // count)) if count else iter(())


def _chunks(tokens: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
