"""RMSNorm: divide each token by its root mean square.

Shape letters: T tokens (any leading shape), K features.
"""

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
        if native_codes.serves(x_TK, x_TK.dtype):
            operands = x_TK, self.weight.float(), self.eps
            y: Tensor = _NormalizeNatively.apply(*operands)  # type: ignore[no-untyped-call]
            return y
        operands = x_TK.float(), self.weight.float(), self.eps
        y = _Normalize.apply(*operands)  # type: ignore[no-untyped-call]
        return y.to(x_TK.dtype)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class _Normalize(torch.autograd.Function):
    """Written by hand, it keeps only x and one number per token, and takes half the time.

    With r = 1 / sqrt(mean(x^2) + eps), h = x r and g = dy * w:  dx = (g - h mean(g h)) r.
    """

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, w_K: Tensor, eps: float) -> Tensor:
        r_T1 = (x_TK.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
        ctx.save_for_backward(x_TK, w_K, r_T1)
        return (x_TK * r_T1).mul_(w_K)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TK: Tensor) -> tuple[Tensor | None, ...]:
        x_TK, w_K, r_T1 = ctx.saved_tensors
        h_TK = x_TK * r_T1
        product_TK = dy_TK * h_TK
        dx_TK = None
        if ctx.needs_input_grad[0]:
            slope_T1 = (product_TK * w_K).mean(dim=-1, keepdim=True)
            dx_TK = (dy_TK * w_K).sub_(h_TK.mul_(slope_T1)).mul_(r_T1)
        dw_K = product_TK.reshape(-1, w_K.numel()).sum(dim=0) if ctx.needs_input_grad[1] else None
        return dx_TK, dw_K, None


class _NormalizeNatively(torch.autograd.Function):
    """The same by the kernels, in one pass over each tensor; x may be bfloat16."""

    @staticmethod
    def forward(ctx: Any, x_TK: Tensor, w_K: Tensor, eps: float) -> Tensor:
        x_Tk, w_K = x_TK.reshape(-1, x_TK.shape[-1]).contiguous(), w_K.contiguous()
        y_Tk, r_T = torch.empty_like(x_Tk), torch.empty(len(x_Tk))
        arrays = array(x_Tk), array(w_K), eps, array(y_Tk), array(r_T)
        ops = native.need("RMSNorm")
        ops.rms_norm(*arrays, torch.get_num_threads())
        ctx.save_for_backward(x_Tk, w_K, r_T)
        return y_Tk.view(x_TK.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TK: Tensor) -> tuple[Tensor | None, ...]:
        x_Tk, w_K, r_T = ctx.saved_tensors
        dy_Tk = dy_TK.reshape(x_Tk.shape).contiguous()
        dx_Tk, dw_K = torch.empty_like(x_Tk), torch.empty_like(w_K)
        read = array(x_Tk), array(w_K), array(r_T), array(dy_Tk)
        ops = native.need("RMSNorm")
        ops.rms_norm_backward(*read, array(dx_Tk), array(dw_K), torch.get_num_threads())
        return dx_Tk.view(dy_TK.shape), dw_K, None
