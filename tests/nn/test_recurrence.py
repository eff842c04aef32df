"""The recurrence's forms: equal to the definition in values and gradients."""

import pytest
import torch

from onebit.errors import OptionError, ShapeError, UnsupportedError
from onebit.nn import native
from onebit.nn.recurrence import recurrence

FAST = ("chunked", "scan", "native", "auto")
# one token; fewer than a chunk; whole chunks; chunks and a rest; more than a block of channels
SIZES = [(2, 1, 5), (1, 2, 16), (3, 16, 17), (2, 37, 70), (1, 130, 1100)]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def given(B, T, D):
    """f within 0..1, with some that are exactly 0 and exactly 1; i; h0."""
    f_BTD = torch.sigmoid(2 * draw(B, T, D, seed=1))
    f_BTD[draw(B, T, D, seed=2) > 1.5] = 0
    f_BTD[draw(B, T, D, seed=3) > 1.5] = 1
    return f_BTD, draw(B, T, D, seed=4), draw(B, D, seed=5)


def found(form, *operands, dtype=torch.float32):
    """h, last and the gradients of f, i and perhaps h0, of a loss that weighs every number."""
    leaves = [x.to(dtype).requires_grad_() for x in operands]
    h_BTD, last_BD = recurrence(*leaves, form=form)
    assert h_BTD.dtype == last_BD.dtype == torch.float32
    loss = (h_BTD * draw(*h_BTD.shape, seed=6)).sum() + last_BD.square().sum()
    return h_BTD, last_BD, *torch.autograd.grad(loss, leaves)


def assert_near(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize(("B", "T", "D"), SIZES)
def test_forms_are_the_definition(form, B, T, D):
    *operands, h0_BD = given(B, T, D)
    assert_near(found(form, *operands), found("sequential", *operands))
    assert_near(found(form, *operands, h0_BD), found("sequential", *operands, h0_BD))


@pytest.mark.parametrize("T", [1, 9, 10])
@pytest.mark.parametrize("form", ["sequential", "chunked", "scan"])
def test_gradients_are_those_of_differences(form, T):
    operands = [x.double().requires_grad_() for x in given(2, T, 3)]
    assert torch.autograd.gradcheck(lambda *x: recurrence(*x, form=form), operands)
    assert torch.autograd.gradcheck(lambda *x: recurrence(*x, form=form), operands[:2])


@pytest.mark.parametrize("form", ["sequential", *FAST])
def test_a_gate_of_one_keeps_the_state_and_of_zero_forgets_it(form):
    f_BTD, h0_BD = torch.ones(1, 11, 4), draw(1, 4)
    i_BTD = torch.zeros(1, 11, 4)
    h_BTD, last_BD = recurrence(f_BTD, i_BTD, h0_BD, form=form)
    assert torch.equal(h_BTD, h0_BD.expand(1, 11, 4))
    assert torch.equal(last_BD, h0_BD)
    i_BTD = draw(1, 11, 4)
    assert torch.equal(recurrence(0 * f_BTD, i_BTD, h0_BD, form=form)[0], i_BTD)


@pytest.mark.parametrize("form", ["sequential", *FAST])
def test_bf16_is_computed_in_float32(form):
    operands = [x.bfloat16() for x in given(2, 19, 8)]
    ours = found(form, *operands, dtype=torch.bfloat16)
    assert [x.dtype for x in ours[2:]] == 3 * [torch.bfloat16]
    exact = found("sequential", *(x.float() for x in operands))
    assert_near(ours[:2], exact[:2])
    for x, y in zip(ours[2:], exact[2:], strict=True):
        torch.testing.assert_close(x.float(), y, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("form", ["sequential", *FAST])
def test_a_run_goes_on_where_it_was_cut(form):
    f_BTD, i_BTD, h0_BD = given(2, 23, 6)
    whole = recurrence(f_BTD, i_BTD, h0_BD, form=form)[0]
    for cut in (1, 7, 22):
        before, state = recurrence(f_BTD[:, :cut], i_BTD[:, :cut], h0_BD, form=form)
        after, _ = recurrence(f_BTD[:, cut:], i_BTD[:, cut:], state, form=form)
        torch.testing.assert_close(torch.cat([before, after], 1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FAST)
def test_only_the_last_state_or_only_f_may_matter(form):
    f_BTD, i_BTD, h0_BD = given(2, 13, 6)
    ours, exact = (
        torch.autograd.grad(recurrence(f, i_BTD, h0_BD, form=name)[1].sum(), f)[0]
        for name in (form, "sequential")
        for f in [f_BTD.clone().requires_grad_()]
    )
    assert_near([ours], [exact])


def test_what_was_given_is_not_changed():
    for form in FAST:
        operands, before = given(1, 16, 8), given(1, 16, 8)  # chunks without padding
        recurrence(*operands, form=form)
        assert all(map(torch.equal, operands, before))


def test_auto_does_without_the_extension(monkeypatch):
    operands = given(2, 12, 6)
    monkeypatch.setattr(native, "find", lambda: None)
    assert_near(recurrence(*operands), recurrence(*operands, form="sequential"))
    doubles = [x.double() for x in operands]
    assert recurrence(*doubles)[0].dtype == torch.float64


def test_what_cannot_be_is_refused():
    f_BTD, i_BTD, h0_BD = given(2, 3, 4)
    with pytest.raises(OptionError, match="form is 'fast'; accepted: auto, sequential, chunked"):
        recurrence(f_BTD, i_BTD, form="fast")
    with pytest.raises(ShapeError, match=r"f has shape \(2, 0, 4\)"):
        recurrence(f_BTD[:, :0], i_BTD[:, :0])
    with pytest.raises(ShapeError, match=r"and i \(2, 2, 4\)"):
        recurrence(f_BTD, i_BTD[:, :2])
    with pytest.raises(ShapeError, match=r"h0 has shape \(1, 4\); give \(2, 4\)"):
        recurrence(f_BTD, i_BTD, h0_BD[:1])
    with pytest.raises(UnsupportedError, match="'native' computes float32 on a cpu device"):
        recurrence(f_BTD.double(), i_BTD, form="native")
