"""The recurrence of tensors that do not lie in memory row after row: as of their copies that do."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from onebit.kernels import ops
from onebit.nn.recurrence import recurrence

FORMS = ("sequential", "chunked", "scan", "native")
B, T, D = 3, 11, 37
LAYOUTS = {
    "channels before tokens": lambda x: x.mT.contiguous().mT,
    "tokens before sequences": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "between other channels": lambda x: F.pad(x, (5, 4))[..., 5:-4],
    "between other tokens": lambda x: F.pad(x, (0, 0, 2, 3))[:, 2:-3],
    "every second channel": lambda x: torch.stack([x, -x], dim=-1)[..., 0],
}


def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def found(form, operands, slopes):
    """h, last, and the gradients of f, i and h0."""
    leaves = [x.detach().requires_grad_() for x in operands]  # which keeps the strides
    results = recurrence(*leaves, form=form)
    return *results, *torch.autograd.grad(results, leaves, slopes)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_change_nothing(form, layout):
    operands = torch.sigmoid(draw(B, T, D, seed=1)), draw(B, T, D, seed=2), draw(B, D, seed=3)
    slopes = draw(B, T, D, seed=4), draw(B, D, seed=5)
    lay = LAYOUTS[layout]
    laid = [lay(x) for x in operands[:2]] + [lay(operands[2][:, None])[:, 0]]
    assert not any(x.is_contiguous() for x in laid[:2])
    ours = found(form, laid, [lay(slopes[0]), slopes[1]])
    exact = found(form, operands, slopes)
    for x, y in zip(ours, exact, strict=True):
        if form == "native":
            assert torch.equal(x, y)
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_numbers_that_are_shared_are_read_and_not_written(form):
    """One gate for all tokens, and one slope for all states, each a single number in memory."""
    f, slope = torch.tensor(0.75), torch.tensor(2.0)
    i_BTD = draw(B, T, D, seed=6)
    shared = f.expand(B, T, D), i_BTD, torch.zeros(1, 1).expand(B, D)
    whole = [x.contiguous() for x in shared]
    slopes = slope.expand(B, T, D), slope.expand(B, D)
    ours = found(form, shared, slopes)
    exact = found(form, whole, [x.contiguous() for x in slopes])
    for x, y in zip(ours, exact, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)
    assert (f.item(), slope.item()) == (0.75, 2.0)


def test_a_part_of_a_wider_projection_is_not_overwritten():
    """As where one product gives i and f side by side."""
    both_BTE = draw(B, T, 2 * D, seed=7)
    before = both_BTE.clone()
    i_BTD, f_BTD = both_BTE.split(D, dim=-1)
    h_BTD, _ = recurrence(f_BTD.sigmoid(), i_BTD, form="native")
    assert torch.equal(both_BTE, before)
    assert torch.equal(h_BTD[:, 0], i_BTD[:, 0])


def test_arrays_with_strides_are_read_by_the_kernel_and_never_written():
    rng = np.random.default_rng(0)
    wide = rng.random((B, 2 * T, 2 * D), np.float32)
    f, i = wide[:, ::2, :D], wide[:, ::-2, D:]
    h0 = wide[:, 0, ::2]
    results = []
    for given in ((f, i, h0), tuple(map(np.ascontiguousarray, (f, i, h0)))):
        h, last = np.empty((B, T, D), np.float32), np.empty((B, D), np.float32)
        ops.recurrence(*given, h, last, 1)
        df, di, dh0 = np.empty_like(h), np.empty_like(h), np.empty_like(last)
        slopes = given[1], given[2]
        ops.recurrence_backward(given[0], h, given[2], *slopes, df, di, dh0, 1)
        results.append((h, last, df, di, dh0))
    for x, y in zip(*results, strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(TypeError):  # a copy would take the results
        ops.recurrence(f, i, h0, wide[:, ::2, :D], np.empty((B, D), np.float32), 1)
