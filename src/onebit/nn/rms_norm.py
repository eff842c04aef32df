"""RMSNorm: divide each token by its root mean square.

Shape letters: T tokens (any leading shape), K features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onebit.nn import native, native_codes
from onebit.nn.native_codes import array


class RMSNorm(nn.Module):
    """y = (x * (1 / sqrt(mean(x^2) + eps))) * weight, in float32 whatever the input is.

    Source: Zhang and Sennrich, equation 4, https://arxiv.org/abs/1910.07467
    """

    def __init__(self, features: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x_TK: Tensor) -> Tensor:
        y: Tensor = _Normalize.apply(x_TK, self.weight, self.eps)  # type: ignore[no-untyped-call]
        return y

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class _Normalize(torch.autograd.Function):
    """Written by hand, it keeps only x and one number per token, and takes half the time."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, w_K: Tensor, eps: float) -> Tensor:
        y_TK, r_T = normalized(x_TK, w_K, eps)
        ctx.save_for_backward(x_TK, w_K, r_T)
        return y_TK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TK: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, w_K, r_T = ctx.saved_tensors
        return *gradients(x_TK, w_K, r_T, dy_TK, ctx.needs_input_grad[:2]), None


def normalized(x_TK: Tensor, w_K: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return y, of the input's dtype, and r = 1 / sqrt(mean(x^2) + eps), float32 (T,).

    On a CPU by the kernels, in one pass over each tensor. Neither knows of gradients.
    """
    x_Tk, w_K = _rows(x_TK), w_K.detach().float().contiguous()
    if not native_codes.serves(x_TK, x_TK.dtype):
        r_T = (x_Tk.float().square().mean(dim=-1) + eps).rsqrt()
        y_Tk = (x_Tk.float() * r_T[:, None]).mul_(w_K).to(x_TK.dtype)
        return y_Tk.view(x_TK.shape), r_T
    y_Tk, r_T = torch.empty_like(x_Tk), torch.empty(len(x_Tk))
    arrays = array(x_Tk), array(w_K), eps, array(y_Tk), array(r_T)
    native.need("RMSNorm").rms_norm(*arrays, torch.get_num_threads())
    return y_Tk.view(x_TK.shape), r_T


def gradients(
    x_TK: Tensor,
    w_K: Tensor,
    r_T: Tensor,
    dy_TK: Tensor,
    needed: Sequence[bool] = (True, True),
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of x and w, each of its dtype, from that of y; None for one not needed.

    With h = x r and g = dy * w:  dx = (g - h mean(g h)) r,  dw = sum over tokens of dy * h. The
    kernels make both in one pass over x and dy, the same numbers whatever is needed.
    """
    of_x, of_w = needed
    if not (of_x or of_w):
        return None, None
    x_Tk, dy_Tk, weight_K = _rows(x_TK), _rows(dy_TK), w_K.detach().float().contiguous()
    if not native_codes.serves(x_TK, x_TK.dtype):
        h_Tk, dy_Tk, r_T1 = x_Tk.float() * r_T[:, None], dy_Tk.float(), r_T[:, None]
        product_Tk = dy_Tk * h_Tk
        dw_K = product_Tk.sum(dim=0).to(w_K.dtype) if of_w else None
        if not of_x:
            return None, dw_K
        slope_T1 = (product_Tk * weight_K).mean(dim=-1, keepdim=True)
        dx_Tk = (dy_Tk * weight_K).sub_(h_Tk.mul_(slope_T1)).mul_(r_T1).to(x_TK.dtype)
        return dx_Tk.view(x_TK.shape), dw_K
    dx_Tk, dw_K = torch.empty_like(x_Tk), torch.empty_like(weight_K)
    read = array(x_Tk), array(weight_K), array(r_T), array(dy_Tk)
    ops = native.need("RMSNorm")
    ops.rms_norm_backward(*read, array(dx_Tk), array(dw_K), torch.get_num_threads())
    return dx_Tk.view(x_TK.shape) if of_x else None, dw_K.to(w_K.dtype) if of_w else None


def _rows(x_TK: Tensor) -> Tensor:
    """Return the same numbers as (T, K) that lie one after another, with no gradient."""
    return x_TK.detach().reshape(-1, x_TK.shape[-1]).contiguous()
