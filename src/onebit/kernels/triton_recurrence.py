"""The recurrence of an MLGRU layer on a GPU, by Triton: h[t] = f[t] * h[t-1] + i[t].

A program takes some channels of a sequence through all its tokens: one pass over f and i forward,
one over f, h and dh backward, as csrc/recurrence.h has it. Triton is not among what onebit needs:
where it is not installed this module cannot be imported. With TRITON_INTERPRET=1 it runs on a CPU.

Shape letters: B sequences, T tokens, D channels.
"""
# mypy: disable-error-code="untyped-decorator, no-untyped-def, no-untyped-call"

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 128
"""Channels of a program."""
INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Whether the kernels run on a CPU, and on nothing else."""


@triton.jit
def _forward(f, i, h0, h, T, D, HAS_H0: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = c < D
    state = tl.zeros((BLOCK,), tl.float32)
    if HAS_H0:
        state = tl.load(h0 + b * D + c, mask=real, other=0.0)
    at = b * T * D + c
    for _ in range(T):
        f_t = tl.load(f + at, mask=real, other=0.0)
        state = f_t * state + tl.load(i + at, mask=real, other=0.0)
        tl.store(h + at, state, mask=real)
        at += D


@triton.jit
def _backward(f, h, h0, dh, dlast, df, di, dh0, T, D, HAS_H0: tl.constexpr, BLOCK: tl.constexpr):
    b = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = c < D
    carried = tl.load(dlast + b * D + c, mask=real, other=0.0)
    at = (b * T + T - 1) * D + c
    for _ in range(T - 1):
        slope = tl.load(dh + at, mask=real, other=0.0) + carried
        tl.store(di + at, slope, mask=real)
        tl.store(df + at, slope * tl.load(h + at - D, mask=real, other=0.0), mask=real)
        carried = tl.load(f + at, mask=real, other=0.0) * slope
        at -= D
    # the first token, before which there is h0, or nothing
    slope = tl.load(dh + at, mask=real, other=0.0) + carried
    before = tl.zeros((BLOCK,), tl.float32)
    if HAS_H0:
        before = tl.load(h0 + b * D + c, mask=real, other=0.0)
    tl.store(di + at, slope, mask=real)
    tl.store(df + at, slope * before, mask=real)
    if HAS_H0:
        tl.store(dh0 + b * D + c, tl.load(f + at, mask=real, other=0.0) * slope, mask=real)


def recurrence(f_BTD: Tensor, i_BTD: Tensor, h0_BD: Tensor | None) -> Tensor:
    """Return h, (B, T, D). All are float32 and contiguous, on one device; h0 None is zeros."""
    B, T, D = f_BTD.shape
    h_BTD = torch.empty_like(f_BTD)
    h0 = h_BTD if h0_BD is None else h0_BD  # not read
    _forward[B, triton.cdiv(D, BLOCK)](
        f_BTD, i_BTD, h0, h_BTD, T, D, HAS_H0=h0_BD is not None, BLOCK=BLOCK
    )
    return h_BTD


def recurrence_backward(
    f_BTD: Tensor, h_BTD: Tensor, h0_BD: Tensor | None, dh_BTD: Tensor, dlast_BD: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of f, i and, where it is given, h0."""
    B, T, D = f_BTD.shape
    df_BTD, di_BTD = torch.empty_like(f_BTD), torch.empty_like(f_BTD)
    dh0_BD = None if h0_BD is None else torch.empty_like(h0_BD)
    h0 = h_BTD if h0_BD is None else h0_BD  # neither read
    dh0 = df_BTD if dh0_BD is None else dh0_BD  # nor written
    _backward[B, triton.cdiv(D, BLOCK)](
        f_BTD,
        h_BTD,
        h0,
        dh_BTD,
        dlast_BD,
        df_BTD,
        di_BTD,
        dh0,
        T,
        D,
        HAS_H0=h0_BD is not None,
        BLOCK=BLOCK,
    )
    return df_BTD, di_BTD, dh0_BD
