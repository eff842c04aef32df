"""Operands of a BitLinear's product as the native kernels take them: codes and factors as tensors,
which the gradients need, beside the same codes in the order in which the product reads them.

Shape letters: T tokens (any leading shape), N out features, K in features.
"""

from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from onebit.quant import Codes
from onebit.quant.activation import Activations

try:
    from onebit.kernels import ops
except ImportError:  # the extension is not built; `serves` then says no
    ops = None  # type: ignore[assignment]

FLOATS = (torch.float32, torch.bfloat16)


class Tokens(NamedTuple):
    """An input: value = code * scale."""

    codes_TK: Tensor
    """int8, (T, K) with all leading dimensions in one."""
    scale_T: Tensor
    """float32."""
    laid_out: "ops.TokenCodes"


class Weights(NamedTuple):
    """Weights: value = code * scale."""

    codes_NK: Tensor
    """int8."""
    scale: Tensor
    """float32, one number, or N."""
    laid_out: "ops.Matrix"


def serves(x_TK: Tensor, out: torch.dtype) -> bool:
    """Whether the kernels take this input, and give an output of this dtype.

    Others go by torch: other devices and dtypes, no tokens at all, a graph that is being compiled,
    CPUs for which there are no kernels but the reference, and where the extension is not built.
    """
    return (
        ops is not None
        and x_TK.device.type == "cpu"
        and x_TK.dtype in FLOATS
        and out in FLOATS
        and x_TK.numel() > 0
        and x_TK.shape[-1] <= ops.MAX_COLUMNS
        and not torch.compiler.is_compiling()
        and ops.active_isa() != "scalar"
    )


def absmax_tokens(x_TK: Tensor) -> Tokens:
    """Round an input by "int8_absmax"; the same integers as `quant.activation.int8_absmax`."""
    x_Tk = x_TK.detach().reshape(-1, x_TK.shape[-1]).contiguous()
    codes_TK = torch.empty(x_Tk.shape, dtype=torch.int8)
    scale_T = torch.empty(len(x_Tk), dtype=torch.float32)
    arrays = array(x_Tk), array(codes_TK), array(scale_T)
    laid_out = ops.TokenCodes.quantize(*arrays, torch.get_num_threads())
    return Tokens(codes_TK, scale_T, laid_out)


def tokens_of(a: Activations) -> Tokens:
    """Lay out codes with a scale for each token, or one for all, which torch has rounded."""
    codes_TK = a.codes.reshape(-1, a.codes.shape[-1]).to(torch.int8).contiguous()
    scale_T = a.scale.reshape(-1).expand(len(codes_TK)).contiguous()
    arrays = array(codes_TK), array(scale_T)
    return Tokens(codes_TK, scale_T, ops.TokenCodes.of_codes(*arrays, torch.get_num_threads()))


def ternary_weights(w_NK: Tensor, scale: Tensor) -> Weights:
    """Round weights to ternary codes by a given scale: round(w * (1 / scale)) within -1 ... 1.

    Args:
        w_NK: weights; the maths is done in float32.
        scale: float32, one number or N.
    """
    w_NK, scale = w_NK.detach().float().contiguous(), scale.reshape(-1).contiguous()
    codes_NK = torch.empty(w_NK.shape, dtype=torch.int8)
    arrays = array(w_NK), array(scale), array(codes_NK)
    return Weights(codes_NK, scale, ops.ternarize(*arrays, torch.get_num_threads()))


def weights_of(q: Codes, one_scale: bool) -> Weights:
    """Lay out codes with a scale for each row, or one for all."""
    matrix = ops.Matrix.from_codes("i8", array(q.codes_NK.contiguous()), array(q.scale_NG))
    scale = q.scale_NG[:1, 0] if one_scale else q.scale_NG[:, 0]
    return Weights(q.codes_NK, scale.contiguous(), matrix)


def multiply(tokens: Tokens, weights: Weights, out: torch.dtype) -> Tensor:
    """Return the product of codes, scaled once, (T, N)."""
    y_TN = torch.empty(len(tokens.codes_TK), len(weights.codes_NK), dtype=out)
    tokens.laid_out.product(weights.laid_out, array(y_TN), torch.get_num_threads())
    return y_TN


def values(codes: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return codes * scale, which has one number or one for each row, rounded once to the dtype."""
    y = torch.empty(codes.shape, dtype=dtype)
    ops.dequantize_rows(array(codes), array(scale), array(y), torch.get_num_threads())
    return y


def array(x: Tensor) -> NDArray[Any]:
    """Return the memory of a tensor; of bfloat16, its bits."""
    y: NDArray[Any] = (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).detach().numpy()
    return y
