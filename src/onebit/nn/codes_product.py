"""The product of integer inputs and integer weights, with the straight-through gradient.

Forward, the sums run over whole numbers, which float32 holds exactly up to 2^24 (K to 132,000), so
they are the sums that the packed model computes; the scales are applied once, after. Backward, the
rounding is taken for the identity:

    y = (codes_x . codes_w^T) * (scale_x * scale_w)
    dx = dy . w_hat        w_hat = codes_w * scale_w
    dw = dy^T . x_hat      x_hat = codes_x * scale_x

These are the gradients of F.linear on straight-through operands, for fewer passes over them.

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class CodesProduct(torch.autograd.Function):
    """Call `product`; this carries its two passes."""

    @staticmethod
    def forward(
        ctx: Any,
        x_TK: Tensor,
        w_NK: Tensor,
        codes_x_TK: Tensor,
        scale_x: Tensor | None,
        codes_w_NK: Tensor,
        scale_w: Tensor,
    ) -> Tensor:
        out, exact = _dtypes(x_TK)
        codes_x_TK = codes_x_TK.to(exact)
        ctx.save_for_backward(codes_x_TK, scale_x, codes_w_NK, scale_w)
        ctx.dtypes = x_TK.dtype, w_NK.dtype
        with torch.autocast(x_TK.device.type, enabled=False):
            y_TN = F.linear(codes_x_TK, codes_w_NK.to(exact))
        return y_TN.mul_(scale_w if scale_x is None else scale_x * scale_w).to(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TN: Tensor) -> tuple[Tensor | None, ...]:
        codes_x_TK, scale_x, codes_w_NK, scale_w = ctx.saved_tensors
        exact = codes_x_TK.dtype
        dx_dtype, dw_dtype = ctx.dtypes
        dx_TK = dw_NK = None
        with torch.autocast(dy_TN.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                w_hat_NK = codes_w_NK * (scale_w if scale_w.ndim == 0 else scale_w[:, None])
                dx_TK = (dy_TN.to(exact) @ w_hat_NK.to(exact)).to(dx_dtype)
            if ctx.needs_input_grad[1]:
                dy_TN = dy_TN if scale_x is None else dy_TN * scale_x
                N, K = codes_w_NK.shape
                dw_NK = dy_TN.to(exact).reshape(-1, N).T @ codes_x_TK.reshape(-1, K)
                dw_NK = dw_NK.to(dw_dtype)
        return dx_TK, dw_NK, None, None, None, None


def product(
    x_TK: Tensor,
    w_NK: Tensor,
    codes_x_TK: Tensor,
    scale_x: Tensor | None,
    codes_w_NK: Tensor,
    scale_w: Tensor,
) -> Tensor:
    """Return (codes_x . codes_w^T) * (scale_x * scale_w), (T, N), with gradients to x and w.

    Args:
        x_TK: the input that was rounded; it takes the gradient.
        w_NK: the weights that were rounded; they take the gradient.
        codes_x_TK: whole numbers in a float dtype; or, with `scale_x` None, the float input itself.
        scale_x: float32, (T, 1) or ones; None when the input is not rounded.
        codes_w_NK: int8.
        scale_w: float32, () or (N,).
    """
    operands = x_TK, w_NK, codes_x_TK, scale_x, codes_w_NK, scale_w
    y: Tensor = CodesProduct.apply(*operands)  # type: ignore[no-untyped-call]
    return y


def _dtypes(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes of the output and of the product.

    bf16 holds codes up to 256 exactly. float16 does too, but not their sums, which pass 65504.
    """
    device = x.device.type
    out = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return out, torch.bfloat16 if out == torch.bfloat16 else torch.float32
