"""Which numbers a matrix really holds: its levels, its zeros, its scales.

Names and configs are not asked. A matrix is on a ternary grid when, within whatever shares a
scale, all non-zero weights have one magnitude; that magnitude is the scale. The test is exact: a
code times a scale gives the same float every time, so weights that were ever quantized still show
it, in any float type that they were stored in since.

Not recognised, and reported as "float": grids of more than three levels whose scale changes within
the matrix, once they are stored as floats.

Shape letters: N rows, K columns, G groups of a row, n rows of one chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from onebit import pack
from onebit.errors import FormatError
from onebit.io import StoredTensor
from onebit.pack import Unpacked, plain

MAX_LEVELS = 256
"""Beyond as many distinct values, a matrix is not on any grid that we look for."""

_CHUNK = 1 << 21  # weights looked at together: bounds memory, whatever the matrix
_HALF_BF16_STEP = 2.0**-9 * 1.01


@dataclass(frozen=True)
class Grid:
    """What the numbers of one matrix are."""

    kind: str
    """"ternary", "binary", "int2" ... "int8", "codebook" (few values, uneven), "float", "zero"."""
    levels: int | None
    """Distinct values that share a scale; None for more than MAX_LEVELS."""
    counts: tuple[int, ...]
    """How often each level occurs, in no order; empty for floats."""
    zeros: float
    """Share of weights that are 0."""
    sharing: str
    """What shares a scale: "tensor", "row", "group:G", or "" where there is no scale."""
    scale_NG: NDArray[np.float32] | None
    """The scales of a ternary or binary grid, 0 where a group is all zeros; and those that are
    stored beside integer codes."""
    density_NG: NDArray[np.float64] | None
    """Share of non-zero weights in each group of `scale_NG`."""
    finite: bool = True
    values: int | None = None
    """Distinct values of the whole matrix; None where they were not counted: among 32-bit floats
    more than MAX_LEVELS, and under several scales."""

    @property
    def entropy_bits(self) -> float | None:
        """Bits per weight that a perfect code for these levels would need; None for floats."""
        if not self.counts:
            return None
        p = np.array([count for count in self.counts if count], np.float64)
        p /= p.sum()
        return float(-(p * np.log2(p)).sum()) + 0.0


@dataclass
class _Units:
    """Magnitudes of the smallest groups looked at, (N, U): every wider group follows from them."""

    low_NU: NDArray[np.float32]  # smallest non-zero magnitude; inf where there is none
    high_NU: NDArray[np.float32]
    nonzero_NU: NDArray[np.int64]
    positive: int
    values: dict[float, int] | None  # distinct values and their counts, while they are few
    finite: bool


def of_tensor(tensor: StoredTensor, group: int | None = None) -> Grid:
    """Measure a stored matrix.

    Args:
        tensor: a matrix in any format we read.
        group: columns that share a scale, where something claims so; looked for among the others.

    Raises:
        FormatError: it is empty, its bytes do not unpack, or they are plain integers.
    """
    N, K = tensor.shape
    if not N * K:
        raise FormatError(f"{tensor.name}: shape [{N}, {K}] holds no weights. The file is damaged.")
    if tensor.format in plain.SIZE_BYTES:
        grid = _of_values(_plain_chunks(tensor), N, K, group)
        if plain.SIZE_BYTES[tensor.format] == 2:
            return replace(grid, values=_distinct_halves(tensor.data))
        return _counted(grid)
    if tensor.format not in pack.FORMATS:
        raise FormatError(
            f"{tensor.name}: holds {tensor.format}, and weights are floats or packed codes. "
            "The file is damaged, or packed in a way that it does not name."
        )
    form = pack.FORMATS[tensor.format]
    unpacked = form.unpack(tensor.data, (N, K), tensor.scale, tensor.minimum, tensor.zero)
    return _counted(of_unpacked(unpacked, group, apart=not form.scale_inside))


def _counted(grid: Grid) -> Grid:
    """Return a grid that says how many values there are, where its levels are all of them."""
    whole = grid.sharing == "tensor" or grid.kind == "zero"
    return replace(grid, values=grid.levels if whole or not grid.sharing else None)


def _distinct_halves(data: NDArray[np.uint8]) -> int:
    """Return how many values 16-bit floats have; -0 is 0."""
    seen = np.bincount(data.reshape(-1).view("<u2"), minlength=1 << 16) > 0
    return int(seen.sum()) - int(seen[0] and seen[1 << 15])


def of_unpacked(unpacked: Unpacked, group: int | None = None, apart: bool = False) -> Grid:
    """Measure codes and scales. Ternary is ternary, also when int8 codes or a minimum carry it.

    `apart`: the scales are stored beside the codes, as they are; integers are then what their codes
    say, from which a zero-point takes nothing away.
    """
    N, K = unpacked.codes_NK.shape
    low, high = int(unpacked.codes_NK.min()), int(unpacked.codes_NK.max())
    grid = _of_values(_unpacked_chunks(unpacked), N, K, group)
    if grid.kind not in ("float", "codebook") and not (apart and grid.kind.startswith("int")):
        return grid
    counts = np.zeros(256, np.int64)
    for codes_nK in np.array_split(unpacked.codes_NK, _parts(N, K)):
        counts += np.bincount(codes_nK.ravel().astype(np.int16) + 128, minlength=256)
    if low >= -1 and high <= 1 and unpacked.minimum_NG is None:
        return _of_codes(unpacked, counts)
    seen = tuple(int(c) for c in counts if c)
    bits = max((high - low).bit_length(), 2)
    sharing = _sharing_of(unpacked.scale_NG, K)
    scale_NG = unpacked.scale_NG if apart else None
    return Grid(f"int{bits}", len(seen), seen, grid.zeros, sharing, scale_NG, None, grid.finite)


def _of_codes(unpacked: Unpacked, counts: NDArray[np.int64]) -> Grid:
    """Ternary codes whose scales change in groups that `_of_values` does not try."""
    N, K = unpacked.codes_NK.shape
    G = unpacked.scale_NG.shape[1]
    density_NG = np.count_nonzero(unpacked.codes_NK.reshape(N, G, -1), axis=2) / (K // G)
    return Grid(
        "ternary" if counts[128] else "binary",
        3 if counts[128] else 2,
        tuple(int(c) for c in counts[127:130]),
        float(counts[128] / (N * K)),
        f"group:{K // G}",
        unpacked.scale_NG,
        density_NG,
        bool(np.isfinite(unpacked.scale_NG).all()),
    )


def _sharing_of(scale_NG: NDArray[np.float32], K: int) -> str:
    if (scale_NG == scale_NG.flat[0]).all():
        return "tensor"
    if (scale_NG == scale_NG[:, :1]).all():
        return "row"
    return f"group:{K // scale_NG.shape[1]}"


def _parts(N: int, K: int) -> int:
    return max(1, min(N, N * K // _CHUNK))


def _plain_chunks(tensor: StoredTensor) -> Iterator[NDArray[np.float32]]:
    N, K = tensor.shape
    bytes_NB = tensor.data.reshape(N, K * plain.SIZE_BYTES[tensor.format])
    for bytes_nB in np.array_split(bytes_NB, _parts(N, K)):
        yield pack.decode(tensor.format, bytes_nB.reshape(-1), (len(bytes_nB), K))


def _unpacked_chunks(unpacked: Unpacked) -> Iterator[NDArray[np.float32]]:
    N, K = unpacked.codes_NK.shape
    for rows in np.array_split(np.arange(N), _parts(N, K)):
        part = slice(rows[0], rows[-1] + 1)
        minimum_NG = unpacked.minimum_NG
        yield Unpacked(
            unpacked.codes_NK[part],
            unpacked.scale_NG[part],
            None if minimum_NG is None else minimum_NG[part],
        ).values()


def _of_values(chunks: Iterator[NDArray[np.float32]], N: int, K: int, group: int | None) -> Grid:
    unit = group if group and K % group == 0 else 32 if K % 32 == 0 else K
    seen = _look(chunks, K, unit)
    nonzero = int(seen.nonzero_NU.sum())
    zeros = 1 - nonzero / (N * K)
    if not nonzero:
        return Grid("zero", 1, (N * K,), 1.0, "", None, None)
    if not seen.finite:  # no grid has such a level
        return Grid("float", None, (), zeros, "", None, None, finite=False)
    for width in _widths(N, K, unit):
        if (grid := _two_sided(seen, N, K, width, zeros)) is not None:
            return grid
    if seen.values is None:
        return Grid("float", None, (), zeros, "", None, None)
    return _few_levels(seen.values, zeros)


def _look(chunks: Iterator[NDArray[np.float32]], K: int, unit: int) -> _Units:
    """Walk a matrix once, chunk by chunk, and keep what every later question needs."""
    low, high, nonzero, positive, finite = [], [], [], 0, True
    values: dict[float, int] | None = {}
    for w_nK in chunks:
        a_nUk = np.abs(w_nK).reshape(len(w_nK), K // unit, unit)
        finite = finite and bool(np.isfinite(a_nUk).all())
        high.append(a_nUk.max(axis=2))
        low.append(np.where(a_nUk > 0, a_nUk, np.float32(np.inf)).min(axis=2))
        nonzero.append(np.count_nonzero(a_nUk != 0, axis=2))  # of floats, NaN would warn
        positive += int(np.count_nonzero(w_nK > 0))
        values = _count_values(values, w_nK)
    return _Units(
        np.concatenate(low), np.concatenate(high), np.concatenate(nonzero), positive, values, finite
    )


def _count_values(
    values: dict[float, int] | None, w_nK: NDArray[np.float32]
) -> dict[float, int] | None:
    """Add the distinct values of `w_nK` and their counts, or give up with None: too many."""
    if values is None or len(np.unique(w_nK.ravel()[: 16 * MAX_LEVELS])) > MAX_LEVELS:
        return None
    for value, count in zip(*np.unique(w_nK, return_counts=True), strict=True):
        values[float(value)] = values.get(float(value), 0) + int(count)
    return values if len(values) <= MAX_LEVELS else None


def _widths(N: int, K: int, unit: int) -> list[int]:
    """Widths of groups to try, widest first. 0 stands for the whole matrix."""
    groups = [g for g in (256, 128, 64, unit) if g < K and K % g == 0 and g % unit == 0]
    return list(dict.fromkeys([0, K, *groups]))


def _two_sided(seen: _Units, N: int, K: int, width: int, zeros: float) -> Grid | None:
    """Return the ternary or binary grid with one scale per group of `width`, if it is one."""
    if width:
        units = width * seen.low_NU.shape[1] // K
        low_NG = seen.low_NU.reshape(N, -1, units).min(axis=2)
        high_NG = seen.high_NU.reshape(N, -1, units).max(axis=2)
        density_NG = seen.nonzero_NU.reshape(N, -1, units).sum(axis=2) / width
    else:
        low_NG, high_NG = seen.low_NU.min(keepdims=True), seen.high_NU.max(keepdims=True)
        density_NG = np.full((1, 1), 1 - zeros)
    if not ((low_NG == high_NG) | (high_NG == 0)).all():
        return None
    nonzero = int(seen.nonzero_NU.sum())
    counts = (nonzero - seen.positive, N * K - nonzero, seen.positive)
    return Grid(
        "ternary" if zeros else "binary",
        sum(count > 0 for count in counts),
        counts,
        zeros,
        "tensor" if not width else "row" if width == K else f"group:{width}",
        high_NG,
        density_NG,
    )


def _few_levels(values: dict[float, int], zeros: float) -> Grid:
    """Name a matrix of few distinct values: whole multiples of a step, or a codebook."""
    levels = np.array(sorted(values))
    counts = tuple(values.values())
    codes = levels / _step(levels)
    off = np.abs(codes - np.rint(codes))
    if np.abs(codes).max() > 128.5 or (off > 1e-3 + _HALF_BF16_STEP * np.abs(codes)).any():
        return Grid("codebook", len(levels), counts, zeros, "tensor", None, None)
    reach = int(np.rint(max(codes.max(), -codes.min() - 1, 1)))
    kind = f"int{reach.bit_length() + 1}"
    return Grid(kind, len(levels), counts, zeros, "tensor", None, None)


def _step(levels: NDArray[np.float64]) -> float:
    """Return the step that the levels could be multiples of, fitted from small levels to large:
    the large ones lie off by more than a step where 16-bit floats stored them."""
    size = np.unique(np.abs(levels))
    step = float(np.diff(np.append(0.0, size[size > 0])).min())
    for reach in (2, 4, 8, 16, 32, 64, 128):
        near = size[size < (reach + 0.5) * step]
        codes = np.rint(near / step)
        if codes.any():
            step = float((codes @ near) / (codes @ codes))
    return step
