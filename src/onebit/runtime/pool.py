"""A few sequences in memory, those in use and those that may be of use again.

What a finished sequence leaves behind stays until its place is needed, the one that was used least
lately first. A new prompt is given the place that costs least to begin in: it takes over a finished
sequence that it goes on with, or copies the keys and values of the longest beginning that it shares
with any other, which costs a fraction of computing them.
"""

from collections.abc import Callable, Collection, Sequence

from onebit.errors import OptionError
from onebit.runtime.cache import CachedSequence


class CachePool:
    """Sequences to begin prompts in. They are made when first needed, `most` of them at most."""

    def __init__(self, new_sequence: Callable[[], CachedSequence], most: int) -> None:
        """The first sequence is made at once, so that one exists if this returns."""
        self._new_sequence = new_sequence
        self._sequences = [new_sequence()]  # used least lately first
        self.most = most
        """Less than was asked for once there was no memory for as many."""

    def __len__(self) -> int:
        """Return how many exist."""
        return len(self._sequences)

    @property
    def sequence_bytes(self) -> int:
        """Memory of one."""
        return self._sequences[0].size_bytes

    @property
    def cuts(self) -> bool:
        """Whether of a sequence a beginning can be taken, and not the whole only."""
        return self._sequences[0].cuts

    def held(self, tokens: Sequence[int]) -> int:
        """Return the most tokens that a sequence holds of the beginning of `tokens`."""
        return max(sequence.common_prefix(tokens) for sequence in self._sequences)

    def take(
        self, tokens: Sequence[int], used: Collection[CachedSequence]
    ) -> CachedSequence | None:
        """Return a sequence that holds as much of the beginning of `tokens` as any does.

        `used`: those that must not be touched. None if there is no place beside them.
        """
        held = {s: s.common_prefix(tokens) for s in self._sequences}
        free = [s for s in self._sequences if s not in used]
        of_use = [s for s in free if 2 * held[s] >= len(s)]  # little is lost by taking one of these
        source = max(self._sequences, key=lambda s: (held[s], s in of_use))
        length = min(held[source], len(tokens) - 1)
        target = source if source in of_use else self._place(free, source if length else None)
        if target is not None:
            if length > held.get(target, 0):
                target.copy_prefix(source, length)
            self.touch(target)
        return target

    def touch(self, sequence: CachedSequence) -> None:
        """Count this one as used just now."""
        self._sequences = [*(s for s in self._sequences if s is not sequence), sequence]

    def _place(
        self, free: list[CachedSequence], keep: CachedSequence | None
    ) -> CachedSequence | None:
        """Return a place that is empty or can be emptied; that of `keep` only if it must be."""
        if len(self) < self.most:
            try:
                self._sequences.insert(0, self._new_sequence())
                return self._sequences[0]
            except OptionError:  # no memory for one more
                self.most = len(self)
        return next((s for s in free if s is not keep), free[0] if free else None)
