"""A norm, the rounding behind it and the product, as one: of the input, only x is kept.

    y = codes . codes_w^T * scales        codes, scale = int8_absmax(turn(rms(x)))

Apart, the three keep x for the norm, the codes of the rounded input, and the codes of the weights,
for the gradients. All of this follows from x and the weights, so here it is made again instead, in
two passes over x and two over the weights; the product, which takes the time, is not. Layers of one
input then keep it once, however many they are.

With d = dy . w_hat, turned back:  dx, dnorm are the norm's gradients of d,  dw = dy^T . x_hat.
These are the gradients of the three apart, on the native kernels to the bit.

Source: algorithm 1 of MatMul-free LM, https://arxiv.org/abs/2406.02528; it keeps the norm's factors
too, which come for nothing when the norm is made again.

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onebit import quant
from onebit.nn import codes_product, hadamard, native_codes, rms_norm
from onebit.nn.rms_norm import RMSNorm
from onebit.quant import activation
from onebit.scheme import LinearScheme


def serves(scheme: LinearScheme) -> bool:
    """Whether `product` takes a layer of this scheme: b1.58's rules behind an RMSNorm."""
    turns_weights = scheme.hadamard == "both"
    return scheme.norm == "rms" and not turns_weights and codes_product.is_b158(scheme)


def product(x_TK: Tensor, norm: RMSNorm, w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the product, (T, N), with gradients to x, the norm's weight and w.

    Args:
        x_TK: the input before the norm; it is kept.
        norm: its weight, (K,), and epsilon.
        w_NK: the weights that are rounded; they are kept, where they are.
        scheme: one that `serves` is true of.
    """
    operands = x_TK, norm.weight, w_NK, norm.eps, scheme
    y: Tensor = _Product.apply(*operands)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_TK: Tensor, norm_K: Tensor, w_NK: Tensor, eps: float, scheme: LinearScheme
    ) -> Tensor:
        ctx.save_for_backward(x_TK, norm_K, w_NK)
        ctx.eps, ctx.scheme, ctx.out = eps, scheme, codes_product.output_dtype(x_TK)
        y_TK, _ = _turned(x_TK, norm_K, eps, scheme)
        if codes_product.rounds(scheme, y_TK):
            return codes_product.ternary_products(y_TK, [(w_NK, scheme)])[0]
        a, q = activation.rounded(y_TK, scheme.activation), quant.quantize_weight(w_NK, scheme)
        scale_w = q.scale_NG[:, 0] if scheme.weight_scale == "row" else q.scale_NG[0, 0]
        return codes_product.product(y_TK, w_NK, a.codes, a.scale, q.codes_NK, scale_w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TN: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast(dy_TN.device.type, enabled=False):
            return *_gradients(ctx, dy_TN), None, None


def _gradients(ctx: Any, dy_TN: Tensor) -> tuple[Tensor | None, ...]:
    x_TK, norm_K, w_NK = ctx.saved_tensors
    scheme: LinearScheme = ctx.scheme
    exact = torch.bfloat16 if ctx.out == torch.bfloat16 else torch.float32
    dy_TN = dy_TN.reshape(-1, dy_TN.shape[-1]).to(exact)
    y_TK, r_T = _turned(x_TK, norm_K, ctx.eps, scheme)
    dw_NK = None
    if ctx.needs_input_grad[2]:
        dw_NK = (dy_TN.T @ _rounded_input(y_TK, scheme, exact)).to(w_NK.dtype)
    del y_TK
    if not any(ctx.needs_input_grad[:2]):
        return None, None, dw_NK
    d_TK = (dy_TN @ _rounded_weight(w_NK, scheme, exact)).to(x_TK.dtype).view(x_TK.shape)
    if scheme.hadamard != "none":
        d_TK = hadamard.turn(d_TK, scheme.signs, transpose=True)
    return *rms_norm.gradients(x_TK, norm_K, r_T, d_TK, ctx.needs_input_grad[:2]), dw_NK


def _turned(
    x_TK: Tensor, norm_K: Tensor, eps: float, scheme: LinearScheme
) -> tuple[Tensor, Tensor]:
    """Return what is rounded, (T, K), and the norm's factors."""
    y_TK, r_T = rms_norm.normalized(x_TK, norm_K, eps)
    return y_TK if scheme.hadamard == "none" else hadamard.turn(y_TK, scheme.signs), r_T


def _rounded_input(y_TK: Tensor, scheme: LinearScheme, dtype: torch.dtype) -> Tensor:
    """Return the values of the rounded input, (T, K) with all leading dimensions in one."""
    if native_codes.serves(y_TK, dtype):
        tokens = native_codes.absmax_tokens(y_TK)
        return native_codes.values(tokens.codes_TK, tokens.scale_T, dtype)
    x_hat_TK = activation.dequantize(activation.rounded(y_TK, scheme.activation))
    return x_hat_TK.reshape(-1, y_TK.shape[-1]).to(dtype)


def _rounded_weight(w_NK: Tensor, scheme: LinearScheme, dtype: torch.dtype) -> Tensor:
    """Return the values of the rounded weights, (N, K)."""
    if native_codes.serves(w_NK, dtype):
        scale = codes_product.absmean(w_NK, scheme)
        weights = native_codes.ternary_weights(w_NK, scale)
        return native_codes.values(weights.codes_NK, weights.scale, dtype)
    return quant.values(quant.quantize_weight(w_NK, scheme), scheme).to(dtype)
