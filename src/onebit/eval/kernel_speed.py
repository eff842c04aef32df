"""The ternary products alone: how near they come to what memory and multipliers allow.

Shape letters: N rows, K columns, T tokens.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onebit.kernels import ops
from onebit.kernels.ops import Matrix
from onebit.pack import Unpacked

LAYOUTS = ("t2", "t1_6")
STREAM_BYTES = 128 << 20
"""Of weights that a product of one token walks through: more than a cache holds."""
REPEATS = 5
"""The median of so many is a time."""


class Products:
    """Random ternary matrices of one width and layout."""

    def __init__(self, N: int, K: int, layout: str, stream_bytes: int = STREAM_BYTES) -> None:
        """N, K: of the matrix that many tokens meet; a single token meets taller ones. layout:
        "t2" or "t1_6"."""
        random = np.random.default_rng(0)
        codes_NK = np.array([-1, 0, 0, 1], np.int8)[random.integers(0, 4, (N, K))]
        self._x_TK = random.standard_normal((512, K)).astype(np.float32)
        self._matrix = _repack(codes_NK, layout)
        copies = max(1, -(-stream_bytes // (2 * self._matrix.size_bytes)))
        tall_NK = np.tile(codes_NK, (copies, 1))
        self._streams = (_repack(tall_NK, layout), _repack(tall_NK, layout))  # read in turn
        self.stream_bytes = sum(matrix.size_bytes for matrix in self._streams)
        """Bytes of weights that `time_gemv` reads."""

    def time_gemv(self) -> float:
        """Return the seconds to multiply each of the large matrices with one token."""
        return _median_time(
            lambda: [ops.linear(m, self._x_TK[:1], "int8_absmax") for m in self._streams]
        )

    def time_gemm(self, tokens: int) -> float:
        """Return the seconds to multiply a matrix with many tokens (512 at most), whose rounding to
        int8 is part of it."""
        x_TK = self._x_TK[:tokens]
        return _median_time(lambda: ops.linear(self._matrix, x_TK, "int8_absmax"))

    def operations(self, tokens: int) -> int:
        """Return the multiplications and additions of `time_gemm`."""
        N, K = self._matrix.shape
        return 2 * N * K * tokens


def _repack(codes_NK: NDArray[np.int8], layout: str) -> Matrix:
    scale_NG = np.full((len(codes_NK), 1), 0.05, np.float32)
    return ops.repack(Unpacked(codes_NK, scale_NG), layout)


def _median_time(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(REPEATS):
        start_s = time.perf_counter()
        run()
        times.append(time.perf_counter() - start_s)
    return statistics.median(times)
