"""Gates: values and gradients are autograd's, and only what was given is kept."""

import pytest
import torch
import torch.nn.functional as F

from onebit.nn.gates import gated, silu_times

FLOATS = [torch.float32, torch.bfloat16]


def drawn(*shape, seed=0, dtype=torch.float32):
    made = 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return made.to(dtype).requires_grad_()


def composed(f_BTC, i_BTC, bound_C):
    f_BTC = torch.sigmoid(f_BTC.float())
    if bound_C is not None:
        f_BTC = bound_C.float() + (1 - bound_C.float()) * f_BTC
    return f_BTC, F.silu(i_BTC.float()) * (1 - f_BTC)


def same(ours, autograds, operands):
    """Values equal to the bit, gradients within rounding: some sums come in another order."""
    for a, b in zip(ours, autograds, strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype
    upstream = [drawn(*y.shape, seed=9 + n, dtype=y.dtype).detach() for n, y in enumerate(ours)]
    pairs = (torch.autograd.grad(ys, operands, upstream) for ys in (ours, autograds))
    for a, b in zip(*pairs, strict=True):
        near = 1e-5 if a.dtype == torch.float32 else 1e-2
        torch.testing.assert_close(a, b, rtol=near, atol=near * float(b.abs().max()))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("bounded", [True, False])
def test_gates_are_autograds(bounded, dtype):
    f, i = drawn(2, 7, 5, dtype=dtype), drawn(2, 7, 5, seed=1, dtype=dtype)
    bound = drawn(5, seed=2).sigmoid().detach().requires_grad_() if bounded else None
    operands = [f, i] + ([bound] if bounded else [])
    same(gated(f, i, bound), composed(f, i, bound), operands)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("state", FLOATS, ids=str)
def test_silu_times_is_autograds(state, dtype):
    x, y = drawn(2, 7, 5, dtype=state), drawn(2, 7, 5, seed=1, dtype=dtype)
    same((silu_times(x, y),), (F.silu(x).to(dtype) * y,), [x, y])


def test_halves_of_one_tensor_are_kept_as_it():
    both, kept = drawn(3, 10) * 1, set()

    def keep(tensor):
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        silu_times(*both.chunk(2, dim=-1))
    assert kept == {both.untyped_storage().data_ptr()}


def test_gates_keep_what_they_were_given():
    f, i, bound, kept = drawn(2, 7, 5), drawn(2, 7, 5, seed=1), torch.rand(5), []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gated(f, i, bound)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (f, i, bound)}
