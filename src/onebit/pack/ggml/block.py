"""What the formats of ggml share: each row is cut into blocks, and a block is a row of its own.

A block holds codes and one or two float16 factors. Blocks are unpacked some thousands at a time, so
the temporaries stay small beside the tensor.

Shape letters: B blocks, b bytes of a block, k columns of a block, g scales of a block.
"""

from abc import abstractmethod
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from onebit.errors import FormatError, InputError, ShapeError
from onebit.pack.format import CHUNK, DAMAGED, Bytes, Format, slices
from onebit.pack.unpacked import Unpacked

_Float = TypeVar("_Float", np.float16, np.float32)


class BlockFormat(Format):
    """Blocks of `columns` weights in `block_bytes` bytes, with their factors inside."""

    scale_inside = True
    packs = False
    block_bytes: ClassVar[int]
    factors: ClassVar[tuple[int, ...]] = (0,)
    """Where the float16 factors stand in a block, in bytes."""
    groups: ClassVar[int] = 1
    """Scales of a block, each for `columns // groups` columns in a row."""

    @abstractmethod
    def _decode(self, blocks_Bb: Bytes, factors_Bf: NDArray[np.float32]) -> Unpacked:
        """Return codes (B, k), scales (B, g) and minima (B, g) of blocks, each taken as a row."""

    def _size_bytes(self, N: int, K: int) -> int:
        return N * (K // self.columns) * self.block_bytes

    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        blocks_Bb = data.reshape(-1, self.block_bytes)
        B = len(blocks_Bb)
        codes_Bk = np.empty((B, self.columns), np.int8)
        scale_Bg = np.empty((B, self.groups), np.float32)
        minimum_Bg = np.empty_like(scale_Bg) if self.has_minimum else None
        for part in slices(B, CHUNK // self.columns):
            factors_Bf = self._read_factors(blocks_Bb[part], part.start, K)
            self._check_blocks(blocks_Bb[part], part.start, K)
            codes_Bk[part], scale_Bg[part], minimum = self._decode(blocks_Bb[part], factors_Bf)
            if minimum_Bg is not None:
                minimum_Bg[part] = minimum
        minimum_NG = None if minimum_Bg is None else minimum_Bg.reshape(N, -1)
        return Unpacked(codes_Bk.reshape(N, K), scale_Bg.reshape(N, -1), minimum_NG)

    def _read_factors(self, blocks_Bb: Bytes, first: int, K: int) -> NDArray[np.float32]:
        halves = [blocks_Bb[:, at : at + 2].copy().view("<f2") for at in self.factors]
        factors_Bf = np.concatenate(halves, axis=1).astype(np.float32)
        finite = np.isfinite(factors_Bf).all(axis=1)
        if not finite.all():
            row, block = divmod(first + int(finite.argmin()), K // self.columns)
            raise FormatError(
                f"{self.name}: block {block} of row {row} has a scale or minimum that is not "
                f"finite. {DAMAGED}"
            )
        return factors_Bf

    def _check_blocks(self, blocks_Bb: Bytes, first: int, K: int) -> None:
        """Refuse bytes that mean nothing; most formats give every byte a meaning."""

    def _spread(self, factor_NG: NDArray[_Float], K: int) -> NDArray[_Float]:
        """Return factors of any grouping of the columns as (B, g).

        Raises:
            ShapeError: a factor changes within what has one in this format.
        """
        group, own = K // factor_NG.shape[1], self.columns // self.groups
        if group % own:
            raise ShapeError(
                f"{self.name}: a scale for {group} columns does not go into blocks of {own}. "
                f"Quantize with groups of a multiple of {own}, "
                "or with a scale per row or tensor."
            )
        return np.repeat(factor_NG, group // own, axis=1).reshape(-1, self.groups)


class WritableBlockFormat(BlockFormat):
    """A block format that onebit writes too, with one scale (and minimum) in float16 a block."""

    packs = True

    @abstractmethod
    def _encode(self, codes_Bk: NDArray[np.int8]) -> Bytes:
        """Return the bytes of the codes, without those of the factors."""

    def _pack(self, weights: Unpacked) -> Bytes:
        codes_NK, scale_NG, minimum_NG = weights
        K = codes_NK.shape[1]
        codes_Bk = codes_NK.reshape(-1, self.columns)
        blocks_Bb = np.zeros((len(codes_Bk), self.block_bytes), np.uint8)
        given = [("scale", scale_NG), ("minimum", minimum_NG)]
        for at, (word, factor_NG) in zip(self.factors, given, strict=False):
            if factor_NG is not None:
                half_B = self._halves(word, factor_NG, K)
                blocks_Bb[:, at : at + 2] = half_B[:, None].view(np.uint8)
        after = 2 * len(self.factors)
        codes_at = slice(after, None) if self.factors[0] == 0 else slice(0, self.factors[0])
        for part in slices(len(codes_Bk), CHUNK // self.columns):
            blocks_Bb[part, codes_at] = self._encode(codes_Bk[part])
        return blocks_Bb.reshape(-1)

    def _halves(self, word: str, factor_NG: NDArray[np.float32], K: int) -> NDArray[np.float16]:
        """Return the float16 factor of each block, (B,)."""
        with np.errstate(over="ignore"):
            half_NG = factor_NG.astype("<f2")
        lost = ~np.isfinite(half_NG) | ((half_NG == 0) & (factor_NG != 0))
        if lost.any():
            raise InputError(
                f"{self.name}: the {word} {factor_NG[lost][0]:g} does not fit the format's float16"
                "; accepted: 0, and magnitudes from 6e-8 to 65504. Choose a format that keeps its "
                "scale apart, in float32."
            )
        return self._spread(half_NG, K).reshape(-1)
