"""Gates of a MatMul-free model, which keep for their gradients what they were given and no more.

Autograd would keep the result of each operation that another multiplies; all of these follow from
the inputs, at the cost of the elementwise operations again. Values and gradients are autograd's.

Shape letters: B sequences, T tokens, C channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_silu_backward = torch.ops.aten.silu_backward
_sigmoid_backward = torch.ops.aten.sigmoid_backward


def silu_times(x: Tensor, y: Tensor) -> Tensor:
    """Return silu(x) * y, of y's dtype; both are kept."""
    z: Tensor = _SiluTimes.apply(x, y)  # type: ignore[no-untyped-call]
    return z


def gated(f_BTC: Tensor, i_BTC: Tensor, bound_C: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the factors of MLGRU's recurrence, float32: what stays of the state, what is added.

        f = sigmoid(f), with bounds b:  f = b + (1 - b) f
        i = silu(i) (1 - f)

    In bfloat16 a gate near 1 would be 1, and its state would never fade.

    Args:
        f_BTC: what `f_proj` gave; kept, as the next.
        i_BTC: what `i_proj` gave.
        bound_C: below which no gate falls; None for 0.
    """
    found: tuple[Tensor, Tensor] = _Gated.apply(f_BTC, i_BTC, bound_C)  # type: ignore[no-untyped-call]
    return found


class _SiluTimes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return F.silu(x).to(y.dtype) * y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        dx: Tensor = _silu_backward((dz * y).to(x.dtype), x)
        return dx, dz * F.silu(x).to(y.dtype)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, f_BTC: Tensor, i_BTC: Tensor, bound_C: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(f_BTC, i_BTC, bound_C)
        stays_BTC = _bounded(torch.sigmoid(f_BTC.float()), bound_C)
        return stays_BTC, F.silu(i_BTC.float()) * (1 - stays_BTC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, df_BTC: Tensor, di_BTC: Tensor) -> tuple[Tensor | None, ...]:
        f_BTC, i_BTC, bound_C = ctx.saved_tensors
        open_BTC, wide_BTC = torch.sigmoid(f_BTC.float()), i_BTC.float()
        stays_BTC = _bounded(open_BTC, bound_C)
        dwide_BTC = _silu_backward(di_BTC * (1 - stays_BTC), wide_BTC).to(i_BTC.dtype)
        df_BTC = df_BTC - di_BTC * F.silu(wide_BTC)
        dbound_C = None
        if bound_C is not None:
            leading = tuple(range(df_BTC.ndim - 1))
            dbound_C = (df_BTC * (1 - open_BTC)).sum(dim=leading).to(bound_C.dtype)
            df_BTC = df_BTC * (1 - bound_C.float())
        return _sigmoid_backward(df_BTC, open_BTC).to(f_BTC.dtype), dwide_BTC, dbound_C


def _bounded(open_BTC: Tensor, bound_C: Tensor | None) -> Tensor:
    if bound_C is None:
        return open_BTC
    bound_C = bound_C.float()
    return bound_C + (1 - bound_C) * open_BTC
