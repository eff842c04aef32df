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

CHUNK = 512
"""Tokens in one native call: bounds a long prompt's memory, and how long Ctrl-C has to wait."""


class CachedSequence:
    """The tokens so far and the decoder's keys and values for them.

    Every method says the whole sequence it is about, so callers that take turns cannot disturb one
    another; they only recompute more. Interrupting one leaves the object usable: `_tokens` never
    claims more than was computed, and the native length is set to what is kept before each use.
    """

    def __init__(self, decoder: "Decoder", capacity: int, kv_bits: int) -> None:
        """`capacity`: tokens it can hold; `kv_bits`: bits of a stored key or value, 16 or 32."""
        self._decoder = decoder
        self._cache = decoder.new_cache(capacity, kv_bits)
        self._tokens: list[int] = []

    def __len__(self) -> int:
        return len(self._tokens)

    def after(self, tokens: Sequence[int]) -> tuple[NDArray[np.float32], int]:
        """Make the sequence be `tokens` (at least one), computing only what differs.

        Returns:
            The logits (V,) after the last token, and how many tokens did not have to be computed.
        """
        reused = min(_common_prefix(self._tokens, tokens), len(tokens) - 1)
        self._keep(reused)
        *firsts, last = _chunks(tokens[reused:], CHUNK)
        for chunk in firsts:
            self._forward(chunk, "none")
        return self._forward(last, "last")[0], reused

    def logits(self, tokens: Sequence[int], chunk: int) -> Iterator[NDArray[np.float32]]:
        """Compute `tokens` from scratch; yield the logits after each, (chunk, V) at a time."""
        self._keep(0)
        for part in _chunks(tokens, chunk):
            yield self._forward(part, "all")

    def forget(self) -> None:
        """Drop everything held."""
        self._keep(0)

    def _keep(self, length: int) -> None:
        del self._tokens[length:]
        self._cache.length = length

    def _forward(self, tokens: Sequence[int], logits: str) -> NDArray[np.float32]:
        out = self._decoder.forward(np.asarray(tokens, np.int32), self._cache, logits)
        self._tokens.extend(tokens)
        return out


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two sequences begin with alike."""
    if a == b[: len(a)]:  # the usual case, a token more at each step, at the speed of C
        return len(a)
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))


def _chunks(tokens: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(tokens), size):
        yield tokens[start : start + size]
