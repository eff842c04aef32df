"""The product of integer inputs and integer weights, with the straight-through gradient.

Forward, the sums run over whole numbers and are exact, so they are the sums that the packed model
computes; the scales are applied once, after. Backward, the rounding is taken for the identity:

    y = (codes_x . codes_w^T) * (scale_x * scale_w)
    dx = dy . w_hat        w_hat = codes_w * scale_w
    dw = dy^T . x_hat      x_hat = codes_x * scale_x

These are the gradients of F.linear on straight-through operands, for fewer passes over them.

On a CPU the sums are those of the native kernels, on int8; only codes and scales are kept for the
gradients. Elsewhere they are torch's, on floats that hold whole numbers: float32 exactly up to 2^24
(K to 132,000).

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onebit import quant
from onebit.nn import native_codes
from onebit.nn.native_codes import Tokens, Weights
from onebit.quant import Codes
from onebit.quant.activation import Activations
from onebit.scheme import LinearScheme


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


class NativeProduct(torch.autograd.Function):
    """The same by the native kernels. In bfloat16 the values meet the gradient, rounded once."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, w_NK: Tensor, tokens: Tokens, weights: Weights) -> Tensor:
        out, _ = _dtypes(x_TK)
        ctx.save_for_backward(tokens.codes_TK, tokens.scale_T, weights.codes_NK, weights.scale)
        ctx.dtypes = x_TK.dtype, w_NK.dtype
        y_TN = native_codes.multiply(tokens, weights, out)
        return y_TN.view(*x_TK.shape[:-1], len(w_NK))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TN: Tensor) -> tuple[Tensor | None, ...]:
        codes_x_TK, scale_T, codes_w_NK, scale_w = ctx.saved_tensors
        dx_dtype, dw_dtype = ctx.dtypes
        dx_TK = dw_NK = None
        leading, dy_TN = dy_TN.shape[:-1], dy_TN.reshape(-1, dy_TN.shape[-1])
        with torch.autocast("cpu", enabled=False):
            if ctx.needs_input_grad[0]:
                w_hat_NK = native_codes.values(codes_w_NK, scale_w, dy_TN.dtype)
                dx_TK = (dy_TN @ w_hat_NK).to(dx_dtype).view(*leading, -1)
            if ctx.needs_input_grad[1]:
                x_hat_TK = native_codes.shared_values(codes_x_TK, scale_T, dy_TN.dtype)
                dw_NK = (dy_TN.T @ x_hat_TK).to(dw_dtype)
        return dx_TK, dw_NK, None, None


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
        codes_x_TK: whole numbers within -127 ... 127 in a float dtype; or, with `scale_x` None, the
            float input itself.
        scale_x: float32, (T, 1) or ones; None when the input is not rounded.
        codes_w_NK: int8.
        scale_w: float32, () or (N,).
    """
    if scale_x is None or not native_codes.serves(x_TK, _dtypes(x_TK)[0]):
        operands = x_TK, w_NK, codes_x_TK, scale_x, codes_w_NK, scale_w
        y: Tensor = CodesProduct.apply(*operands)  # type: ignore[no-untyped-call]
        return y
    tokens = native_codes.tokens_of(Activations(codes_x_TK, scale_x))
    N, one_scale = len(codes_w_NK), scale_w.ndim == 0
    q = Codes(codes_w_NK, scale_w.reshape(-1, 1).expand(N, 1).contiguous())
    return _native(x_TK, w_NK, tokens, native_codes.weights_of(q, one_scale))


def rounds(scheme: LinearScheme, x_TK: Tensor) -> bool:
    """Whether `ternary_product` takes a layer of this scheme and this input.

    It takes BitNet b1.58's rules, on which most of the family stands; others are rounded by torch
    and go to `product`.
    """
    return (
        (scheme.weight, scheme.weight_rule) == ("ternary", "absmean")
        and scheme.weight_scale in ("tensor", "row")
        and scheme.activation == "int8_absmax"
        and scheme.parts == 1
        and native_codes.serves(x_TK, _dtypes(x_TK)[0])
    )


def ternary_product(x_TK: Tensor, w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the product of an input by "int8_absmax" and ternary weights by "absmean".

    Both are rounded natively, in one pass each, to the integers of `quant`; `rounds` is true.

    Args:
        x_TK: the input after norm and Hadamard turn.
        w_NK: the weights that are rounded, turned if the scheme turns them.
        scheme: its `weight_scale` is "tensor" or "row".
    """
    rows = w_NK.detach().float().reshape(len(w_NK) if scheme.weight_scale == "row" else 1, -1)
    weights = native_codes.ternary_weights(w_NK, quant.ternary.absmean(rows))
    return _native(x_TK, w_NK, native_codes.absmax_tokens(x_TK), weights)


def _native(x_TK: Tensor, w_NK: Tensor, tokens: Tokens, weights: Weights) -> Tensor:
    y: Tensor = NativeProduct.apply(x_TK, w_NK, tokens, weights)  # type: ignore[no-untyped-call]
    return y


def _dtypes(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes of the output and of the product.

    bf16 holds codes up to 256 exactly. float16 does too, but not their sums, which pass 65504.
    """
    device = x.device.type
    out = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return out, torch.bfloat16 if out == torch.bfloat16 else torch.float32
