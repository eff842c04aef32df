"""The Hadamard turn of a layer's input, with its gradient.

On a CPU, float32 goes through the engine's own operation, so that what trains and what runs have
the same bits; elsewhere, and where the extension is not built, through plain torch.

Shape letters: T tokens (any leading shape), K features.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onebit import hadamard
from onebit.nn import native
from onebit.quant.hadamard import transform


def turn(x_TK: Tensor, seed: int = 0, transpose: bool = False) -> Tensor:
    """Return H diag(signs) x for each row, or diag(signs) H^T x; H is orthonormal.

    Args:
        x_TK: any float dtype; the maths is done in float32, the result is of the input's dtype.
        seed: of the signs; 0 for none.
        transpose: whether to go back.

    Source: BitNet v2, section 2 (H-BitLinear; its backward pass turns back),
        https://arxiv.org/abs/2504.18415
    """
    y: Tensor = _Turn.apply(x_TK, seed, transpose)  # type: ignore[no-untyped-call]
    return y


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, seed: int, transpose: bool) -> Tensor:
        ctx.turn = seed, transpose
        return _turned(x_TK, seed, transpose)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TK: Tensor) -> tuple[Tensor | None, ...]:
        seed, transpose = ctx.turn
        return _turned(dy_TK, seed, not transpose), None, None


def _turned(x_TK: Tensor, seed: int, transpose: bool) -> Tensor:
    K = x_TK.shape[-1]
    signs_K = _signs(seed, K, x_TK.device) if seed else None
    ops = native.find() if x_TK.device.type == "cpu" else None
    if ops is None:
        return transform(x_TK, signs_K, transpose).to(x_TK.dtype)
    rows_TK = x_TK.detach().float().reshape(-1, K).numpy()
    y = ops.hadamard(rows_TK, None if signs_K is None else signs_K.numpy(), transpose)
    return torch.from_numpy(y).view(x_TK.shape).to(x_TK.dtype)


@lru_cache(64)
def _signs(seed: int, K: int, device: torch.device) -> Tensor:
    return torch.from_numpy(hadamard.signs(seed, K)).to(device)
