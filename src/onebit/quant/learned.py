"""Weights on a grid whose step is a parameter, trained beside them: LSQ and SEQ.

LSQ, integers of b bits: code = clamp(round(w / step), -2^(b-1), 2^(b-1) - 1), scale = step.
SEQ, ternary: code = clamp(round(1.5 w / step), -1, 1), scale = 2/3 step; the levels -2/3, 0 and 2/3
divide -step ... step evenly, with the thresholds at a third.

Gradients, of w_hat = code * scale with the rounding taken for the identity:

    d w_hat / d w    = 1 inside the range of the codes, 0 where they are clipped
    d w_hat / d step = w_hat / step - w / step inside, the code where clipped

(where SEQ clips, w_hat / step is 2/3 and the published code has 1; with it steps end nearer to the
best one: docs/methods/ternary.md). That of a step is multiplied by 1 / sqrt(weights it serves *
largest code), without which many weights would move it much faster than they move themselves.

Sources: Esser et al., Learned Step Size Quantization, equations 1-3, section 2.2,
    https://arxiv.org/abs/1902.08153; Liu et al., ParetoQ, section 4, https://arxiv.org/abs/2502.02631.

Shape letters: N out features, K in features, S shares of k weights each, as in `codes.py`.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from onebit.errors import OptionError, ShapeError
from onebit.quant import codes
from onebit.quant.codes import EPSILON, Codes
from onebit.scheme import LinearScheme
from onebit.tensors import step_shape


class Grid(NamedTuple):
    """The values that a step spans: (least ... most) * scale * step."""

    least: int
    most: int
    scale: float = 1.0
    """A code's value in steps."""
    inside: float | None = None
    """The gradient passes where |w / step| is below this; None: between the extreme codes."""


SEQ = Grid(-1, 1, 2 / 3, 0.99)
SEQ_START = 2.3
"""Step over mean |w| at the start: 1.5 times the best ternary level of Gaussian weights."""


def lsq(bits: int) -> Grid:
    """Return the grid of LSQ for 2 to 8 bits."""
    return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def grid_of(scheme: LinearScheme) -> Grid:
    """Return the grid of a scheme with a learned step.

    Raises:
        OptionError: its rule learns no step, or not for these weights.
    """
    if (scheme.weight, scheme.weight_rule) == ("ternary", "seq"):
        return SEQ
    if scheme.weight.startswith("int") and scheme.weight_rule == "lsq":
        return lsq(int(scheme.weight.removeprefix("int")))
    raise OptionError(
        f'scheme: weight "{scheme.weight}" with weight_rule "{scheme.weight_rule}" learns no step; '
        'accepted: "lsq" with int2 ... int8, "seq" with ternary.'
    )


def first_step(w_NK: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the step to begin with, `tensors.step_shape`, float32.

    LSQ: 2 mean |w| / sqrt(largest code). SEQ: 2.3 mean |w|.

    Raises:
        OptionError: the scheme learns no step.
        ShapeError: not a matrix, or the scheme's group does not divide K.
    """
    w_Sk = codes.split("learned.first_step", w_NK, _group(scheme, w_NK))
    return _first_step(w_Sk, grid_of(scheme)).view(step_shape(scheme, *w_NK.shape))


def quantize(w_NK: Tensor, step: Tensor, scheme: LinearScheme) -> Codes:
    """Round weights to the codes that their learned step gives.

    Args:
        w_NK: weights, any float dtype; the maths is done in float32.
        step: `tensors.step_shape`; taken for 1e-5 where it is smaller.
        scheme: one with a learned step.

    Raises:
        OptionError: the scheme learns no step.
        ShapeError: not a matrix, a group that does not divide K, or a step of another shape.
    """
    grid = grid_of(scheme)
    w_Sk = codes.split("learned.quantize", w_NK, _group(scheme, w_NK))
    return _codes(w_NK.shape, w_Sk, _step_S(step, scheme, w_NK), grid)


def fake_quantize(w_NK: Tensor, step: Tensor, scheme: LinearScheme) -> Tensor:
    """Return the weights that `quantize` stands for, with gradients for them and for the step.

    To the bit `dequantize(quantize(w, step, scheme))`, in the dtype of the weights. Arguments and
    errors as `quantize`.
    """
    _step_S(step, scheme, w_NK)  # its shape
    w_hat: Tensor = _FakeQuantize.apply(  # type: ignore[no-untyped-call]
        w_NK, step, grid_of(scheme), _group(scheme, w_NK)
    )
    return w_hat


def lsq_at_start(w_NK: Tensor, bits: int, group: int | None = None) -> Codes:
    """Round weights by LSQ with the step that training begins with; as `integer.quantize`."""
    return _at_start(w_NK, lsq(bits), group)


def seq_at_start(w_NK: Tensor, group: int | None = None) -> Codes:
    """Round weights by SEQ with the step that training begins with; as `ternary` rules."""
    return _at_start(w_NK, SEQ, group)


class _FakeQuantize(torch.autograd.Function):
    """Call `fake_quantize`; this carries its two passes."""

    @staticmethod
    def forward(ctx: Any, w_NK: Tensor, step: Tensor, grid: Grid, group: int | None) -> Tensor:
        w_Sk = codes.split("learned.fake_quantize", w_NK, group)
        step_S1 = step.detach().float().reshape(-1, 1).clamp(min=EPSILON)
        q = _codes(w_NK.shape, w_Sk, step_S1[:, 0], grid)
        ratio_Sk = w_Sk / step_S1
        if grid.inside is None:
            inside_Sk = (ratio_Sk > grid.least) & (ratio_Sk < grid.most)
        else:
            inside_Sk = ratio_Sk.abs() <= grid.inside
        passed_Sk = q.codes_NK.view_as(ratio_Sk) * grid.scale - ratio_Sk
        slope_Sk = torch.where(inside_Sk, passed_Sk, q.codes_NK.view_as(ratio_Sk))
        ctx.save_for_backward(inside_Sk, slope_Sk)
        ctx.step = step.shape, step.dtype
        ctx.pace = 1 / math.sqrt(w_Sk.shape[1] * grid.most)
        return codes.dequantize(q).to(w_NK.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_NK: Tensor) -> tuple[Tensor | None, ...]:
        inside_Sk, slope_Sk = ctx.saved_tensors
        d_Sk = d_NK.reshape(inside_Sk.shape)
        shape, dtype = ctx.step
        dw_NK = dstep = None
        if ctx.needs_input_grad[0]:
            dw_NK = (d_Sk * inside_Sk).view(d_NK.shape)
        if ctx.needs_input_grad[1]:
            dstep = (d_Sk.float() * slope_Sk).sum(dim=1).mul_(ctx.pace).view(shape).to(dtype)
        return dw_NK, dstep, None, None


def _codes(shape: torch.Size, w_Sk: Tensor, step_S: Tensor, grid: Grid) -> Codes:
    codes_Sk = w_Sk / step_S[:, None]
    if grid.scale != 1.0:
        codes_Sk /= grid.scale
    return codes.join(shape, codes_Sk.round_().clamp_(grid.least, grid.most), step_S * grid.scale)


def _first_step(w_Sk: Tensor, grid: Grid) -> Tensor:
    mean_S = w_Sk.abs().mean(dim=1)
    times = SEQ_START if grid is SEQ else 2 / math.sqrt(grid.most)
    return (mean_S * times).clamp(min=EPSILON)


def _at_start(w_NK: Tensor, grid: Grid, group: int | None) -> Codes:
    w_Sk = codes.split("learned", w_NK, group)
    return _codes(w_NK.shape, w_Sk, _first_step(w_Sk, grid), grid)


def _group(scheme: LinearScheme, w_NK: Tensor) -> int | None:
    return w_NK.shape[-1] if scheme.weight_scale == "row" else scheme.group


def _step_S(step: Tensor, scheme: LinearScheme, w_NK: Tensor) -> Tensor:
    """Return the step of each share, (S,)."""
    wanted = step_shape(scheme, *w_NK.shape)
    if tuple(step.shape) != wanted:
        raise ShapeError(
            f"learned: the step has shape {tuple(step.shape)}, and weights {tuple(w_NK.shape)} by "
            f"{scheme.weight_scale} have steps {wanted}."
        )
    return step.detach().float().reshape(-1).clamp(min=EPSILON)
