"""The Hadamard transform in torch: an orthonormal turn that spreads a large value over all columns.

Which matrix a width has is in `onebit.hadamard`; the engine has the same, with another order of
additions.

Shape letters: T tokens or rows of weights (any leading shape), K columns.
"""

from functools import lru_cache

import torch
from torch import Tensor

from onebit import hadamard
from onebit.scheme import LinearScheme

_WIDEST = 64
"""Sylvester's matrix of a larger power of two is applied as several of at most this order."""


def transform(x_TK: Tensor, signs: Tensor | None = None, transpose: bool = False) -> Tensor:
    """Return H diag(signs) x for each row x, in float32; with `transpose`, diag(signs) H^T x.

    H is orthonormal, so that each is the other's inverse, and the gradient of each. Plain torch
    operations: autograd goes through.

    Args:
        x_TK: any float dtype, any device; the maths is done in float32.
        signs: (K,) of +-1; None is ones.
        transpose: whether to go back.

    Source: BitNet v2, equations 4-6, https://arxiv.org/abs/2504.18415
    """
    K = x_TK.shape[-1]
    x = x_TK.float()
    if signs is not None and not transpose:
        x = x * signs
    matrices = _factors(K)
    y: Tensor = x.reshape(-1, *(len(matrix) for matrix in matrices))
    with torch.autocast(x.device.type, enabled=False):  # its products would be of bfloat16
        for axis, matrix in enumerate(matrices, 1):
            turn = matrix.to(y.device)
            y = (y.movedim(axis, -1) @ (turn if transpose else turn.T)).movedim(-1, axis)
    y = y.reshape(x.shape) * hadamard.block(K) ** -0.5
    return y * signs if signs is not None and transpose else y


def signs_of(scheme: LinearScheme, columns: int, device: torch.device | None = None) -> Tensor:
    """Return the signs (K,) of a scheme's Hadamard matrix: ones where it has no random ones."""
    return torch.from_numpy(hadamard.signs(scheme.signs, columns)).to(device)


def turned(w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return W diag(signs) H^T under hadamard "both": what a layer rounds, as its input is turned.

    (W diag(s) H^T)(H diag(s) x) is W x. Under any other scheme, the weights as they are.
    """
    if scheme.hadamard != "both":
        return w_NK
    signs = signs_of(scheme, w_NK.shape[-1], w_NK.device) if scheme.signs else None
    return transform(w_NK, signs)


@lru_cache
def _factors(n: int) -> tuple[Tensor, ...]:
    """Return factors of a block, all small: the power of two in pieces."""
    *odd, power = hadamard.orders(n)
    pieces = []
    while power > _WIDEST:
        pieces.append(_WIDEST)
        power //= _WIDEST
    matrices = [hadamard.matrix(m) for m in odd]
    matrices += [hadamard.sylvester(piece) for piece in (*pieces, power)]
    return tuple(torch.tensor(matrix) for matrix in matrices)
