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

from collections.abc import Sequence
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


class NativeProducts(torch.autograd.Function):
    """The same by the native kernels, of one input with the weights of any number of layers.

    In bfloat16 the values meet the gradient, rounded once.
    """

    @staticmethod
    def forward(
        ctx: Any, x_TK: Tensor, tokens: Tokens, weights: Sequence[Weights], *w_NK: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.out, _ = _dtypes(x_TK)
        ctx.dtypes = x_TK.dtype, [w.dtype for w in w_NK]
        factors = (factor for w in weights for factor in (w.codes_NK, w.scale))
        ctx.save_for_backward(tokens.codes_TK, tokens.scale_T, *factors)
        leading = x_TK.shape[:-1]
        products = (native_codes.multiply(tokens, w, ctx.out) for w in weights)
        return tuple(y_TN.view(*leading, y_TN.shape[-1]) for y_TN in products)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dy_TN: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return NativeProducts._gradients(ctx, dy_TN)
        return NativeProducts._gradients(ctx, dy_TN)

    @staticmethod
    def _gradients(ctx: Any, dy_TN: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        codes_x_TK, scale_T, *factors = ctx.saved_tensors
        dx_dtype, dw_dtypes = ctx.dtypes
        leading = dy_TN[0].shape[:-1]
        rows_TN = [dy.reshape(-1, dy.shape[-1]) for dy in dy_TN]
        dx_TK = None
        if ctx.needs_input_grad[0]:
            for dy, codes_w_NK, scale_w in zip(rows_TN, factors[::2], factors[1::2], strict=True):
                w_hat_NK = native_codes.values(codes_w_NK, scale_w, ctx.out)
                dx_TK = dy @ w_hat_NK if dx_TK is None else dx_TK.addmm_(dy, w_hat_NK)
            dx_TK = None if dx_TK is None else dx_TK.to(dx_dtype).view(*leading, -1)
        dw_NK: list[Tensor | None] = [None] * len(rows_TN)
        if any(ctx.needs_input_grad[3:]):
            x_hat_TK = native_codes.values(codes_x_TK, scale_T, ctx.out)
            for i, (dy, dtype) in enumerate(zip(rows_TN, dw_dtypes, strict=True)):
                if ctx.needs_input_grad[3 + i]:
                    dw_NK[i] = (dy.T @ x_hat_TK).to(dtype)
        return dx_TK, None, None, *dw_NK


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
    return _native(x_TK, tokens, [native_codes.weights_of(q, one_scale)], [w_NK])[0]


def rounds(scheme: LinearScheme, x_TK: Tensor) -> bool:
    """Whether `ternary_products` takes a layer of this scheme and this input.

    It takes BitNet b1.58's rules, on which most of the family stands; others are rounded by torch
    and go to `product`.
    """
    return is_b158(scheme) and native_codes.serves(x_TK, output_dtype(x_TK))


def is_b158(scheme: LinearScheme) -> bool:
    """Whether weights and inputs are rounded by BitNet b1.58's rules, whole sums scaled once."""
    return (
        (scheme.weight, scheme.weight_rule) == ("ternary", "absmean")
        and scheme.weight_scale in ("tensor", "row")
        and scheme.activation == "int8_absmax"
        and scheme.parts == 1
    )


def ternary_products(
    x_TK: Tensor, layers: Sequence[tuple[Tensor, LinearScheme]]
) -> tuple[Tensor, ...]:
    """Return the products of an input by "int8_absmax" and ternary weights by "absmean".

    The input is rounded once for all of them, and its gradients are summed as they are made. Inputs
    and weights are rounded natively, in one pass each, to the integers of `quant`; `rounds` is true
    of every scheme.

    Args:
        x_TK: the input after norm and Hadamard turn.
        layers: the weights that are rounded, turned if the scheme turns them, and the scheme.
    """
    weights = []
    for w_NK, scheme in layers:
        weights.append(native_codes.ternary_weights(w_NK, absmean(w_NK, scheme)))
    return _native(x_TK, native_codes.absmax_tokens(x_TK), weights, [w for w, _ in layers])


def absmean(w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the scale of ternary weights, float32: one number, or one for each row."""
    rows = w_NK.detach().float().reshape(len(w_NK) if scheme.weight_scale == "row" else 1, -1)
    return quant.ternary.absmean(rows)


def output_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of a product with this input: its own, or autocast's."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _native(
    x_TK: Tensor, tokens: Tokens, weights: Sequence[Weights], w_NK: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    operands = x_TK, tokens, weights, *w_NK
    y: tuple[Tensor, ...] = NativeProducts.apply(*operands)  # type: ignore[no-untyped-call]
    return y


def _dtypes(x: Tensor) -> tuple[torch.dtype, torch.dtype]:
    """Return the dtypes of the output and of the product.

    bf16 holds codes up to 256 exactly. float16 does too, but not their sums, which pass 65504.
    """
    out = output_dtype(x)
    return out, torch.bfloat16 if out == torch.bfloat16 else torch.float32
