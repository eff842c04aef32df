"""The recurrence of an MLGRU layer, h[t] = f[t] * h[t-1] + i[t] for each channel, in several forms.

    h_BTD, last_BD = recurrence(f_BTD, i_BTD)             # from zeros
    h_BTD, last_BD = recurrence(f_BTD, i_BTD, last_BD)    # goes on where it stopped

"sequential" is the definition, a token at a time, with torch's own gradients. The others are for
speed: their gradients are written by hand and keep f and h only,

    di[t] = dh[t] + f[t+1] di[t+1],    df[t] = di[t] h[t-1],    dh0 = f[0] di[0].

No form divides by products of f, as some do to make one matrix of a chunk: f may be 0 or 1.

Shape letters: B sequences, T tokens, D channels, N chunks of C tokens.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from onebit.errors import OptionError, ShapeError, UnsupportedError
from onebit.nn import native
from onebit.nn.native_codes import array

Solve = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""f, i, h0 -> h."""


def recurrence(
    f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None = None, form: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Return h of every token, (B, T, D), and of the last one, (B, D).

    Args:
        f_BTD: what is kept of the state, usually within 0..1.
        i_BTD: what is added to it.
        h0_BD: the state before the first token; None is zeros.
        form: a name in FORMS. "auto" is "native" for a CPU, "triton" for a GPU, and "chunked" where
            they cannot run.

    Returns:
        float32, in which it is computed; float64 where f is, for which there is no kernel.

    Raises:
        OptionError: there is no such form.
        ShapeError: the shapes do not fit together, or there is nothing to compute.
        UnsupportedError: "native" or "triton" cannot run here, or not on these tensors.

    Source: HGRN, https://arxiv.org/abs/2311.04823; MatMul-free LM, https://arxiv.org/abs/2406.02528
    """
    _check(f_BTD, i_BTD, h0_BD)
    dtype = torch.float64 if f_BTD.dtype == torch.float64 else torch.float32
    f_BTD, i_BTD = f_BTD.to(dtype), i_BTD.to(dtype)
    h0_BD = None if h0_BD is None else h0_BD.to(dtype)
    if form == "auto":
        form = _best(f_BTD)
    if form == "sequential":
        return _sequential(f_BTD, i_BTD, h0_BD)
    if form not in _FORMS:
        raise OptionError(f"recurrence: form is {form!r}; accepted: {', '.join(FORMS)}.")
    found: tuple[Tensor, Tensor]
    found = _Recurrence.apply(f_BTD, i_BTD, h0_BD, _FORMS[form])  # type: ignore[no-untyped-call]
    return found


class _Form(NamedTuple):
    forward: Solve
    backward: Callable[..., tuple[Tensor, Tensor, Tensor | None]]
    """f, h, h0, dh, dlast -> df, di, dh0."""


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None, form: _Form
    ) -> tuple[Tensor, Tensor]:
        h_BTD = form.forward(f_BTD, i_BTD, h0_BD)
        ctx.form = form
        ctx.save_for_backward(f_BTD, h_BTD, h0_BD)
        return h_BTD, h_BTD[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dh_BTD: Tensor, dlast_BD: Tensor) -> tuple[Tensor | None, ...]:
        f_BTD, h_BTD, h0_BD = ctx.saved_tensors
        return *ctx.form.backward(f_BTD, h_BTD, h0_BD, dh_BTD, dlast_BD), None


def _sequential(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> tuple[Tensor, Tensor]:
    h_BD = torch.zeros_like(i_BTD[:, 0]) if h0_BD is None else h0_BD
    states = []
    for f_BD, moved_BD in zip(f_BTD.unbind(1), i_BTD.unbind(1), strict=True):
        h_BD = f_BD * h_BD + moved_BD
        states.append(h_BD)
    return torch.stack(states, dim=1), h_BD


def _chunked(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> Tensor:
    """All chunks at once from zeros, token by token; then chunk by chunk what came before each."""
    B, T, D = f_BTD.shape
    C = math.isqrt(T - 1) + 1  # so that there are as few steps of both kinds as can be
    beyond = 0, 0, 0, -T % C
    f_BNCD = F.pad(f_BTD, beyond, value=1.0).view(B, -1, C, D)
    h_BNCD = F.pad(i_BTD, beyond).view(f_BNCD.shape)
    if h_BNCD.data_ptr() == i_BTD.data_ptr():  # nothing was padded
        h_BNCD = h_BNCD.clone()
    for c in range(1, C):
        h_BNCD[:, :, c] += f_BNCD[:, :, c] * h_BNCD[:, :, c - 1]
    kept_BNCD = f_BNCD.cumprod(dim=2)
    before_BD = h0_BD
    for n in range(f_BNCD.shape[1]):
        if before_BD is not None:
            h_BNCD[:, n] += kept_BNCD[:, n] * before_BD[:, None]
        before_BD = h_BNCD[:, n, -1]
    return h_BNCD.view(B, -1, D)[:, :T]


def _scan(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> Tensor:
    """An associative scan: tokens a, b are one of (f_b f_a, f_b i_a + i_b); log2(T) levels."""
    if h0_BD is not None:
        first_B1D = torch.addcmul(i_BTD[:, :1], f_BTD[:, :1], h0_BD[:, None])
        i_BTD = torch.cat([first_B1D, i_BTD[:, 1:]], dim=1)
    return _scan_from_zeros(f_BTD, i_BTD)


def _scan_from_zeros(f_BTD: Tensor, i_BTD: Tensor) -> Tensor:
    if i_BTD.shape[1] == 1:
        return i_BTD.clone()
    f_b, i_b = f_BTD[:, 1::2], i_BTD[:, 1::2]
    pairs = f_b.shape[1]
    f_a, i_a = f_BTD[:, ::2][:, :pairs], i_BTD[:, ::2][:, :pairs]
    h_b = _scan_from_zeros(f_b * f_a, torch.addcmul(i_b, f_b, i_a))
    h_BTD = torch.empty_like(i_BTD)
    h_BTD[:, 1::2] = h_b
    h_BTD[:, :1] = i_BTD[:, :1]
    f_a, i_a = f_BTD[:, 2::2], i_BTD[:, 2::2]
    h_BTD[:, 2::2] = torch.addcmul(i_a, f_a, h_b[:, : f_a.shape[1]])
    return h_BTD


def _backward_by(solve: Solve) -> Callable[..., tuple[Tensor, Tensor, Tensor | None]]:
    """The gradients are the recurrence from the last token to the first, with f of the next."""

    def backward(
        f_BTD: Tensor, h_BTD: Tensor, h0_BD: Tensor | None, dh_BTD: Tensor, dlast_BD: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        f_next_BTD = torch.cat([torch.ones_like(f_BTD[:, :1]), f_BTD[:, 1:].flip(1)], dim=1)
        di_BTD = solve(f_next_BTD, dh_BTD.flip(1), dlast_BD).flip(1)
        h_before_BTD = F.pad(h_BTD[:, :-1], (0, 0, 1, 0))
        if h0_BD is None:
            return di_BTD * h_before_BTD, di_BTD, None
        h_before_BTD[:, 0] = h0_BD
        return di_BTD * h_before_BTD, di_BTD, f_BTD[:, 0] * di_BTD[:, 0]

    return backward


def _native_forward(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> Tensor:
    ops = native.need("recurrence: form 'native'")
    _check_kernel("native", f_BTD, "cpu")
    h_BTD, last_BD = torch.empty(f_BTD.shape), torch.empty_like(f_BTD[:, 0])
    ops.recurrence(
        array(f_BTD.contiguous()),
        array(i_BTD.contiguous()),
        None if h0_BD is None else array(h0_BD.contiguous()),
        array(h_BTD),
        array(last_BD),
        torch.get_num_threads(),
    )
    return h_BTD


def _native_backward(
    f_BTD: Tensor, h_BTD: Tensor, h0_BD: Tensor | None, dh_BTD: Tensor, dlast_BD: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    ops = native.need("recurrence: form 'native'")
    df_BTD, di_BTD = torch.empty(f_BTD.shape), torch.empty(f_BTD.shape)
    dh0_BD = None if h0_BD is None else torch.empty(h0_BD.shape)
    ops.recurrence_backward(
        array(f_BTD.contiguous()),
        array(h_BTD),
        None if h0_BD is None else array(h0_BD.contiguous()),
        array(dh_BTD.contiguous()),
        array(dlast_BD.contiguous()),
        array(df_BTD),
        array(di_BTD),
        None if dh0_BD is None else array(dh0_BD),
        torch.get_num_threads(),
    )
    return df_BTD, di_BTD, dh0_BD


def _triton_forward(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> Tensor:
    kernels = _triton()
    if kernels is None:
        raise UnsupportedError(
            "recurrence: form 'triton' needs Triton, which is not installed. "
            "Install it with `pip install triton`, or take another form."
        )
    _check_kernel("triton", f_BTD, "cpu" if kernels.INTERPRETED else "cuda")
    h0_BD = None if h0_BD is None else h0_BD.contiguous()
    h_BTD: Tensor = kernels.recurrence(f_BTD.contiguous(), i_BTD.contiguous(), h0_BD)
    return h_BTD


def _triton_backward(
    f_BTD: Tensor, h_BTD: Tensor, h0_BD: Tensor | None, dh_BTD: Tensor, dlast_BD: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    kernels: Any = _triton()
    h0_BD = None if h0_BD is None else h0_BD.contiguous()
    given = dh_BTD.contiguous(), dlast_BD.contiguous()
    found: tuple[Tensor, Tensor, Tensor | None]
    found = kernels.recurrence_backward(f_BTD.contiguous(), h_BTD, h0_BD, *given)
    return found


def _triton() -> Any:
    """Return the Triton kernels, or None where Triton is not installed."""
    try:
        from onebit.kernels import triton_recurrence
    except ImportError:
        return None
    return triton_recurrence


_FORMS = {
    "chunked": _Form(_chunked, _backward_by(_chunked)),
    "scan": _Form(_scan, _backward_by(_scan)),
    "native": _Form(_native_forward, _native_backward),
    "triton": _Form(_triton_forward, _triton_backward),
}
FORMS = ("auto", "sequential", *_FORMS)


def _best(f_BTD: Tensor) -> str:
    if f_BTD.dtype == torch.float32 and not torch.compiler.is_compiling():
        if f_BTD.device.type == "cpu" and native.find() is not None:
            return "native"
        if f_BTD.device.type == "cuda" and _triton() is not None:
            return "triton"
    return "chunked"


def _check(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> None:
    shape = tuple(f_BTD.shape)
    if len(shape) != 3 or 0 in shape or i_BTD.shape != f_BTD.shape:
        raise ShapeError(
            f"recurrence: f has shape {shape} and i {tuple(i_BTD.shape)}; "
            "give both as (sequences, tokens, channels), with one of each at least."
        )
    if h0_BD is not None and tuple(h0_BD.shape) != (shape[0], shape[2]):
        raise ShapeError(
            f"recurrence: h0 has shape {tuple(h0_BD.shape)}; give {(shape[0], shape[2])}, "
            "the sequences and channels of f."
        )


def _check_kernel(form: str, f_BTD: Tensor, device: str) -> None:
    if f_BTD.dtype != torch.float32 or f_BTD.device.type != device:
        raise UnsupportedError(
            f"recurrence: form {form!r} computes float32 on a {device} device; "
            f"the input is {f_BTD.dtype} on {f_BTD.device.type}. Take the form 'chunked'."
        )
