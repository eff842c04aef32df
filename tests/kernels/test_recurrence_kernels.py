"""The native recurrence: torch's numbers bit for bit, whatever runs it and wherever it is cut."""

import numpy as np
import pytest
import torch

from onebit.kernels import cpu, ops
from onebit.nn.recurrence import recurrence

SIZES = [(1, 1, 1), (2, 1, 16), (2, 5, 31), (1, 9, 200), (3, 4, 1100), (7, 3, 64)]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(B, T, D):
    return torch.sigmoid(draw(B, T, D, seed=1)), draw(B, T, D, seed=2), draw(B, D, seed=3)


def gradients(form, operands, dh_BTD, dlast_BD):
    leaves = [x.clone().requires_grad_() for x in operands]
    h_BTD, last_BD = recurrence(*leaves, form=form)
    loss = (h_BTD * dh_BTD).sum() + (last_BD * dlast_BD).sum()
    return h_BTD, last_BD, *torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize(("B", "T", "D"), SIZES)
def test_values_and_gradients_are_those_of_torch(isa, B, T, D):
    f_BTD, i_BTD, h0_BD = given(B, T, D)
    for operands in ((f_BTD, i_BTD), (f_BTD, i_BTD, h0_BD)):
        slopes = draw(B, T, D, seed=4), draw(B, D, seed=5)
        ours, exact = (gradients(form, operands, *slopes) for form in ("native", "sequential"))
        assert all(map(torch.equal, ours, exact))


def native(f, i, h0, threads):
    h, last = np.empty_like(f), np.empty_like(f[:, 0])
    ops.recurrence(f, i, h0, h, last, threads)
    df, di, dh0 = np.empty_like(f), np.empty_like(f), np.empty_like(last)
    ops.recurrence_backward(f, h, h0, i, last, df, di, dh0, threads)
    return h, last, df, di, dh0


@pytest.mark.parametrize(("B", "T", "D"), SIZES)
def test_threads_change_nothing(B, T, D):
    before = cpu.threads()
    f, i, h0 = (x.numpy() for x in given(B, T, D))
    try:
        cpu.set_threads(4)
        one, *others = (native(f, i, h0, threads) for threads in (1, 2, 3, 4))
    finally:
        cpu.set_threads(before)
    for other in others:
        assert all(map(np.array_equal, one, other))


def test_a_cut_changes_no_bit(isa):
    f_BTD, i_BTD, h0_BD = given(2, 9, 37)
    whole, end = recurrence(f_BTD, i_BTD, h0_BD, form="native")
    for cut in range(1, 9):
        first, state = recurrence(f_BTD[:, :cut], i_BTD[:, :cut], h0_BD, form="native")
        rest, last = recurrence(f_BTD[:, cut:], i_BTD[:, cut:], state, form="native")
        assert torch.equal(torch.cat([first, rest], dim=1), whole)
        assert torch.equal(last, end)


def test_slopes_left_out_are_zeros():
    f, i, h0 = (x.numpy() for x in given(2, 5, 20))
    h, zeros = i, np.zeros_like(f)
    found = []
    for dh, dlast in ((None, None), (zeros, zeros[:, 0].copy())):
        df, di = np.full_like(f, 7), np.full_like(f, 7)
        ops.recurrence_backward(f, h, h0, dh, dlast, df, di, None, 1)
        found.append((df, di))
    assert all(not x.any() for pair in found for x in pair)


def test_shapes_that_do_not_fit_are_refused():
    f, i, h0 = (x.numpy() for x in given(2, 3, 4))
    with pytest.raises(ValueError, match=r"i_BTD must be \(2, 3, 4\)"):
        ops.recurrence(f, i[:, :2].copy(), h0, i, h0, 1)
    with pytest.raises(ValueError, match=r"h0_BD must be \(2, 4\)"):
        ops.recurrence(f, i, h0[:1], i, h0, 1)
    with pytest.raises(ValueError, match="three dimensions, none of them empty"):
        ops.recurrence(f[:, :0], i, None, i, h0, 1)
