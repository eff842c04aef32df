"""The order of the rows of q and k, which GGUF files of architecture "llama" permute.

RoPE turns pairs of a head's rows. Hugging Face pairs row i with row i + D/2; llama.cpp's "llama"
pairs row 2i with row 2i + 1, so its converter moves the rows. Other architectures are not moved.
Rows move as they are stored: packed bytes, scales per row and biases, nothing is decoded.

D: width of a head.
"""

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onebit.errors import ShapeError

Scalar = TypeVar("Scalar", bound=np.generic)


def permute(rows: NDArray[Scalar], heads: int) -> NDArray[Scalar]:
    """Return `rows` (N, ...) in the order of GGUF's "llama"; they are in Hugging Face's.

    Raises:
        ShapeError: N rows do not make `heads` heads of an even width.
    """
    return rows[np.argsort(_order(rows, heads))]


def unpermute(rows: NDArray[Scalar], heads: int) -> NDArray[Scalar]:
    """Return `rows` (N, ...) in Hugging Face's order; they are in that of GGUF's "llama".

    Raises:
        ShapeError: N rows do not make `heads` heads of an even width.
    """
    return rows[_order(rows, heads)]


def _order(rows: NDArray[Any], heads: int) -> NDArray[np.intp]:
    """Return for each row in Hugging Face's order where it lies in GGUF's."""
    N = rows.shape[0]
    if heads < 1 or N % (2 * heads):
        raise ShapeError(f"{N} rows of q or k do not make {heads} heads of an even width.")
    return np.arange(N).reshape(heads, N // heads // 2, 2).swapaxes(1, 2).reshape(N)
