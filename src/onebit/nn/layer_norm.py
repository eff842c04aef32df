"""LayerNorm without weights: the norm inside a BitLinear of BitNet b1.

On a CPU it goes through the engine's own operation, as the Hadamard turn does, so that what trains
and what runs have the same bits; elsewhere, and where the extension is not built, through torch.

Shape letters: T tokens (any leading shape), K features, G parts of the features, of k each.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from onebit.nn import native


class LayerNorm(nn.Module):
    """y = (x - mean(x)) / sqrt(var(x) + eps), in float32 whatever the input is.

    Source: BitNet, section 2.1, and section 2.3 for the parts, https://arxiv.org/abs/2310.11453
    """

    def __init__(self, eps: float, parts: int = 1) -> None:
        """Build the norm; each of the `parts` of a token has its own mean and variance."""
        super().__init__()
        self.eps = eps
        self.parts = parts

    def forward(self, x_TK: Tensor) -> Tensor:
        *tokens, K = x_TK.shape
        x_TGk = x_TK.float().reshape(*tokens, self.parts, K // self.parts)
        cpu = x_TK.device.type == "cpu" and not torch.compiler.is_compiling()
        if cpu and native.find() is not None:
            y_TGk: Tensor = _NormalizeNatively.apply(x_TGk, self.eps)  # type: ignore[no-untyped-call]
        else:
            y_TGk = F.layer_norm(x_TGk, x_TGk.shape[-1:], eps=self.eps)
        return y_TGk.view(x_TK.shape).to(x_TK.dtype)

    def extra_repr(self) -> str:
        return f"eps={self.eps}" + (f", parts={self.parts}" if self.parts > 1 else "")


class _NormalizeNatively(torch.autograd.Function):
    """The engine's values, with torch's gradient of the same formula in one pass.

    With r = 1 / sqrt(var(x) + eps) and h = (x - mean(x)) r:  dx = (dy - mean(dy) - h mean(dy h)) r.
    """

    @staticmethod
    def forward(ctx: Any, x_TGk: Tensor, eps: float) -> Tensor:
        ctx.eps = eps
        ctx.save_for_backward(x_TGk)
        rows = x_TGk.detach().reshape(-1, x_TGk.shape[-1]).numpy()
        y = native.need("LayerNorm").layer_norm(rows, eps)
        return torch.from_numpy(y).view(x_TGk.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_TGk: Tensor) -> tuple[Tensor | None, ...]:
        (x_TGk,) = ctx.saved_tensors
        k = x_TGk.shape[-1:]
        _, mean, r = torch.native_layer_norm(x_TGk, k, None, None, ctx.eps)
        operands = dy_TGk.contiguous(), x_TGk, k, mean, r, None, None, (True, False, False)
        return torch.ops.aten.native_layer_norm_backward(*operands)[0], None
