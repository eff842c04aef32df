"""What a byte format is, and the checks that all formats share.

A format turns a matrix of codes into a flat run of bytes and back. The public methods here check
what they are given, once; a format fills in the three methods that start with an underscore and
may assume that its input is sound. Bytes come from strangers' files, so their number is compared
with the shape before anything is allocated: no array grows past a small multiple of the bytes.

Shape letters: N rows, K columns, G groups of a row that share a scale.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, NoReturn, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onebit.errors import FormatError, InputError, NotTernaryError, ShapeError, UnsupportedError
from onebit.pack.unpacked import Unpacked

Bytes: TypeAlias = NDArray[np.uint8]

DAMAGED = "The file is damaged or is in another format."
CHUNK = 1 << 20
"""Bytes or weights handled at a time, so that temporaries stay small beside the tensor."""


class Format(ABC):
    """One way to lay codes out as bytes."""

    name: ClassVar[str]
    """Its key in `FORMATS`; other projects' formats keep their spelling, in lower case."""
    scale_inside: ClassVar[bool]
    """Whether the bytes hold the scale. If not, it is stored apart and handed to `unpack`."""
    packs: ClassVar[bool] = True
    """Whether onebit writes the format; it reads all of them."""
    has_minimum: ClassVar[bool] = False
    """Whether the bytes hold a minimum, which is added to code * scale."""
    takes_minimum: ClassVar[bool] = False
    """Whether a minimum may stand beside the scale that is stored apart."""
    columns: ClassVar[int] = 1
    """The number of columns must be a multiple of this."""
    codes: ClassVar[tuple[int, int]]
    """The least and the greatest code."""

    def size_bytes(self, N: int, K: int) -> int:
        """Return how many bytes N rows of K columns take, without a scale that is stored apart.

        Raises:
            ShapeError: the format cannot hold K columns, or N or K is not positive.
        """
        self._check_shape((N, K))
        return self._size_bytes(N, K)

    def pack(self, weights: Unpacked) -> Bytes:
        """Return the bytes of `weights`, 1-D. Nothing is rounded but a scale that goes to float16.

        Raises:
            UnsupportedError: the format is one that onebit only reads.
            ShapeError: the format cannot hold this many columns, or not this many scales.
            NotTernaryError: a code is outside the format's codes.
            InputError: a scale does not fit, or there is a minimum and the format has none.
        """
        if not self.packs:
            raise self._only_read()
        codes_NK, scale_NG, minimum_NG = weights
        if codes_NK.ndim != 2 or codes_NK.dtype != np.int8:
            raise InputError(
                f"{self.name}: the codes are {codes_NK.dtype} of shape {codes_NK.shape}; "
                "accepted: int8 of shape (N, K)."
            )
        N, K = self._check_shape(codes_NK.shape)
        if minimum_NG is not None and not (self.has_minimum or self.takes_minimum):
            raise InputError(
                f"{self.name}: these weights have a minimum and the format holds none. "
                "Quantize without a zero point."
            )
        for word, factor in (("scale", scale_NG), ("minimum", minimum_NG)):
            if factor is None:
                continue
            if factor.ndim != 2 or factor.shape[0] != N or K % max(1, factor.shape[1]):
                raise ShapeError(
                    f"{self.name}: the {word} has shape {factor.shape}; "
                    f"accepted for {N} x {K} weights: ({N}, G) where G divides {K}."
                )
            if not factor.size or not np.isfinite(factor).all():
                raise InputError(
                    f"{self.name}: a {word} is missing or not finite; give finite {word}s."
                )
        self._check_codes(codes_NK)
        return self._pack(weights)

    def unpack(
        self,
        data: Bytes,
        shape: tuple[int, ...],
        scale: ArrayLike | None = None,
        minimum: ArrayLike | None = None,
        zero: Bytes | None = None,
    ) -> Unpacked:
        """Return the codes and factors that the bytes stand for.

        Args:
            data: the bytes, uint8, 1-D.
            shape: (N, K), the logical shape of the weights.
            scale: for a format whose scale is stored apart: of shape (), (1,), (N,), (N, G) or
                (1, G), to be multiplied with the codes. None for the others.
            minimum: what is added then, of the scale's shape, for i2 to i8. None adds nothing.
            zero: instead of a minimum, the codes that stand for 0, as bytes (R, B) of this format:
                R rows, one or N, of as many codes as a row has scales.

        Raises:
            ShapeError: the format cannot hold this shape, or the scale does not go with it.
            FormatError: the bytes are too few, too many or invalid, or a scale is not finite.
            InputError: the scale is missing, or given twice.
        """
        N, K, scale_NG = self.check(data, shape, scale)
        minimum_NG = self.minimum_beside(scale_NG, K, minimum, zero)
        found = self._unpack(np.ascontiguousarray(data), N, K, scale_NG)
        return found if minimum_NG is None else found._replace(minimum_NG=minimum_NG)

    def minimum_beside(
        self,
        scale_NG: NDArray[np.float32],
        K: int,
        minimum: ArrayLike | None = None,
        zero: Bytes | None = None,
    ) -> NDArray[np.float32] | None:
        """Return what stands beside the bytes and is added to code * scale, (N, G), or None.

        Args:
            scale_NG: from `check`.
            K: columns.
            minimum, zero: as for `unpack`.

        Raises:
            ShapeError, FormatError, InputError: as `unpack`.
        """
        if minimum is None and zero is None:
            return None
        word = "minimum" if zero is None else "zero"
        if not self.takes_minimum:
            raise InputError(f"{self.name}: the format takes no {word} from outside. Pass None.")
        N, G = scale_NG.shape
        if zero is None:
            minimum_NG = self._outer_factor("minimum", np.asarray(minimum), N, K)
            if minimum_NG.shape != scale_NG.shape:
                raise ShapeError(
                    f"{self.name}: the minimum has shape {np.asarray(minimum).shape}, and there "
                    f"are {N} x {G} scales; give both for the same groups."
                )
            return minimum_NG
        if minimum is not None:
            raise InputError(f"{self.name}: a minimum and a zero were given. Pass one of them.")
        R = zero.shape[0] if zero.ndim == 2 else 0
        if R not in (1, N) or zero.size != self._size_bytes(R, G):
            raise FormatError(
                f"{self.name}: the zeros are bytes of shape {zero.shape}; {N} x {G} scales take "
                f"(1 or {N}, {self._size_bytes(1, G)}). {DAMAGED}"
            )
        codes_RG = self._unpack(np.ascontiguousarray(zero).reshape(-1), R, G, scale_NG[:R]).codes_NK
        return -codes_RG.astype(np.float32) * scale_NG

    def check(
        self, data: Bytes, shape: tuple[int, ...], scale: ArrayLike | None = None
    ) -> tuple[int, int, NDArray[np.float32]]:
        """Check what `unpack` is given, all but the bytes' values.

        Returns:
            N, K and the scale (N, G), which is (N, 0) where the bytes hold it.

        Raises:
            ShapeError, FormatError, InputError: as `unpack`.
        """
        N, K = self._check_shape(shape)
        if data.ndim != 1 or data.dtype != np.uint8:
            raise InputError(
                f"{self.name}: the data is {data.dtype} of shape {data.shape}; "
                "accepted: uint8 of one dimension."
            )
        size = self._size_bytes(N, K)
        if data.size != size:
            raise FormatError(
                f"{self.name}: {N} x {K} weights take {size} bytes, and there are {data.size}. "
                + DAMAGED
            )
        return N, K, self._outer_scale(scale, N, K)

    @abstractmethod
    def _size_bytes(self, N: int, K: int) -> int: ...

    def _pack(self, weights: Unpacked) -> Bytes:
        """What a format that `packs` defines."""
        raise self._only_read()

    @abstractmethod
    def _unpack(self, data: Bytes, N: int, K: int, scale_NG: NDArray[np.float32]) -> Unpacked:
        """`scale_NG` is empty where the format holds its scale inside."""

    def _only_read(self) -> UnsupportedError:
        return UnsupportedError(
            f"{self.name}: onebit reads this format and does not write it. "
            f"It writes {', '.join(_writable())}."
        )

    def _check_shape(self, shape: tuple[int, ...]) -> tuple[int, int]:
        if len(shape) != 2 or min(shape) < 1:
            raise ShapeError(
                f"{self.name}: the shape is {shape}; accepted: (rows, columns), both at least 1."
            )
        N, K = int(shape[0]), int(shape[1])
        if K % self.columns:
            raise ShapeError(
                f"{self.name}: {K} columns do not fill whole blocks of {self.columns}. "
                f"Formats that hold {K} columns: {', '.join(_writable(K))}."
            )
        return N, K

    def _check_codes(self, codes_NK: NDArray[np.int8]) -> None:
        least, greatest = self.codes
        if codes_NK.min() < least or codes_NK.max() > greatest:
            row, column = np.argwhere((codes_NK < least) | (codes_NK > greatest))[0]
            raise NotTernaryError(
                f"{self.name}: the code at row {row}, column {column} is {codes_NK[row, column]}; "
                f"accepted: {least} to {greatest}. Quantize for this format, or choose another."
            )

    def _outer_scale(self, scale: ArrayLike | None, N: int, K: int) -> NDArray[np.float32]:
        if self.scale_inside:
            if scale is not None:
                raise InputError(
                    f"{self.name}: the bytes hold their own scale and another was given. Pass None."
                )
            return np.empty((N, 0), np.float32)
        if scale is None:
            raise InputError(f"{self.name}: the scale is stored apart from the bytes. Pass it.")
        return self._outer_factor("scale", scale, N, K)

    def _outer_factor(self, word: str, factor: ArrayLike, N: int, K: int) -> NDArray[np.float32]:
        """Return a scale or minimum that is stored apart as (N, G)."""
        given = np.asarray(factor, np.float32)
        grouped = given.ndim == 2 and given.shape[0] in (1, N) and given.shape[1] >= 1
        if not (given.size == 1 or given.shape == (N,) or (grouped and K % given.shape[1] == 0)):
            raise ShapeError(
                f"{self.name}: the {word} has shape {given.shape}; accepted for {N} x {K} weights: "
                f"(), (1,), ({N},), or ({N}, G) or (1, G) where G divides {K}."
            )
        if not np.isfinite(given).all():
            raise FormatError(
                f"{self.name}: the {word} holds a number that is not finite. {DAMAGED}"
            )
        columns = given if grouped else given.reshape(-1, 1)
        return np.array(np.broadcast_to(columns, (N, columns.shape[1])))

    def _refuse_byte(self, where: str, byte: int, why: str) -> NoReturn:
        raise FormatError(f"{self.name}: {where} is {byte:#04x}, {why}. {DAMAGED}")


def slices(count: int, step: int) -> Iterator[slice]:
    """Cut `range(count)` into slices of at most `step`."""
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _writable(K: int = 0) -> list[str]:
    """Return the formats onebit writes that can hold K columns."""
    from onebit.pack import FORMATS  # the table is made of subclasses of Format

    return [name for name, form in FORMATS.items() if form.packs and K % form.columns == 0]
