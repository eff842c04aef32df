"""Learned steps, LSQ and SEQ: codes, start, and gradients against algebra and differences."""

import math

import pytest
import torch

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.quant import learned
from onebit.scheme import LinearScheme
from onebit.tensors import step_shape

SHARED = ["tensor", "row", "group:8"]
SCHEMES = [
    *(LinearScheme(f"int{bits}", "lsq", shared) for bits in (2, 3, 4, 8) for shared in SHARED),
    *(LinearScheme("ternary", "seq", shared) for shared in SHARED),
]


def named(value):
    return f"{value.weight}-{value.weight_scale}" if isinstance(value, LinearScheme) else str(value)


def weights(N=6, K=32, seed=0):
    return 0.05 * torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


def per_weight(step, w_NK):
    """The step that each weight has."""
    columns = step.reshape(-1, 1) if step.numel() == 1 else step.reshape(len(w_NK), -1)
    return columns.repeat_interleave(w_NK.shape[1] // columns.shape[1], 1).expand_as(w_NK)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_codes_are_the_formulas(scheme):
    w = weights()
    step = learned.first_step(w, scheme) * 0.7
    q = quant.quantize_weight(w, scheme, step)
    each = per_weight(step, w)
    if scheme.weight == "ternary":
        # ParetoQ as published: clip to 0.99, three levels of -1 ... 1
        levels = torch.round(torch.clamp(w / each, -0.99, 0.99) * 1.5) / 1.5
        expected = levels * each
        assert set(q.codes_NK.unique().tolist()) == {-1, 0, 1}
    else:
        half = 2 ** (int(scheme.weight[3:]) - 1)
        expected = torch.clamp(torch.round(w / each), -half, half - 1) * each
        assert -half <= int(q.codes_NK.min()) < int(q.codes_NK.max()) < half
    torch.testing.assert_close(quant.dequantize(q), expected)
    assert quant.grid.fits(q, scheme)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_the_start(scheme):
    w = weights()
    step = learned.first_step(w, scheme)
    assert step.shape == step_shape(scheme, 6, 32)
    times = (
        2.3 if scheme.weight == "ternary" else 2 / math.sqrt(2 ** (int(scheme.weight[3:]) - 1) - 1)
    )
    G = step.numel() // 6
    mean = w.abs().view(6, G, -1).mean(2) if G else w.abs().mean()
    torch.testing.assert_close(step, (times * mean).view(step.shape))
    ours, begun = quant.quantize_weight(w, scheme), quant.quantize_weight(w, scheme, step)
    assert torch.equal(ours.codes_NK, begun.codes_NK)
    assert torch.equal(ours.scale_NG, begun.scale_NG)
    through_door = quant.quantizer_of(scheme)(w, quant.group_of(scheme, 32))
    assert torch.equal(through_door.codes_NK, ours.codes_NK)


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_fake_weights_are_the_codes_to_the_bit(scheme):
    w = weights().requires_grad_()
    step = learned.first_step(w, scheme).requires_grad_()
    fake = learned.fake_quantize(w, step, scheme)
    assert torch.equal(fake, quant.dequantize(quant.quantize_weight(w, scheme, step)))


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_gradients_are_the_algebra(scheme):
    """The same function with the rounding's gradient 1, left to autograd in float64."""
    w = weights().requires_grad_()
    step = (learned.first_step(w, scheme) * 0.6).requires_grad_()
    dy = weights(seed=1)
    learned.fake_quantize(w, step, scheme).backward(dy)

    w64, step64 = w.detach().double().requires_grad_(), step.detach().double().requires_grad_()
    if scheme.weight == "ternary":
        least, most, scale, edge = -1, 1, 2 / 3, 0.99
        ratio = w64 / per_weight(step64, w64)
        inside = ratio.abs() <= edge
    else:
        most = 2 ** (int(scheme.weight[3:]) - 1) - 1
        least, scale = -most - 1, 1.0
        ratio = w64 / per_weight(step64, w64)
        inside = (ratio > least) & (ratio < most)
    code = (ratio / scale).detach().round().clamp(least, most) * scale
    passed = torch.where(inside, ratio + (code - ratio).detach(), code)
    (passed * per_weight(step64, w64)).backward(dy.double())
    if scheme.weight == "ternary":  # where clipped, 1 in place of the level, 2/3
        more = (code / scale * (1 - scale) * ~inside * dy.double()).view(step.numel(), -1).sum(1)
        step64.grad += more.view(step.shape)
    torch.testing.assert_close(w.grad.double(), w64.grad, rtol=1e-6, atol=0)
    pace = 1 / math.sqrt(w.numel() / step.numel() * most)
    torch.testing.assert_close(step.grad.double(), pace * step64.grad, rtol=1e-4, atol=1e-8)
    assert 0 < inside.double().mean() < 1 or scheme.weight == "int8"
    assert (w.grad[~inside] == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_the_step_against_finite_differences(scheme):
    """Where weights are clipped w_hat is code * scale of the step and nothing else: there LSQ's
    gradient is the true derivative, on both sides, and SEQ's, as published, 3/2 of it."""
    step = torch.full(step_shape(scheme, 6, 32), 0.01).requires_grad_()
    sign = weights().sign()
    w = sign * 5.0  # past every grid: 127 * 0.01 < 5
    dy = weights(seed=1)
    learned.fake_quantize(w, step, scheme).backward(dy)
    most = 1 if scheme.weight == "ternary" else 2 ** (int(scheme.weight[3:]) - 1) - 1
    pace = 1 / math.sqrt(w.numel() / step.numel() * most)
    times = 1.5 if scheme.weight == "ternary" else 1.0
    for i in range(step.numel()):
        moved = torch.zeros(step.numel())
        moved[i] = 0.001
        moved = moved.view(step.shape)

        def y(step):
            return float((learned.fake_quantize(w, step, scheme).double() * dy).sum())

        slope = (y(step.detach() + moved) - y(step.detach() - moved)) / 0.002
        assert float(step.grad.view(-1)[i]) == pytest.approx(
            pace * times * slope, rel=1e-3, abs=1e-6
        )


@pytest.mark.parametrize("scheme", SCHEMES, ids=named)
def test_descent_lowers_the_error(scheme):
    """A step three times too large finds back, by the gradients alone."""
    w = torch.randn(6, 512, generator=torch.Generator().manual_seed(0))
    scheme = LinearScheme(scheme.weight, scheme.weight_rule, "row")
    step = (learned.first_step(w, scheme) * 3).requires_grad_()
    adam = torch.optim.Adam([step], lr=0.02)

    def error():
        return (learned.fake_quantize(w, step, scheme) - w).square().mean()

    start = error().item()
    for _ in range(150):
        adam.zero_grad()
        error().backward()
        adam.step()
    assert error().item() < 0.6 * start


def test_bf16_weights_and_a_dead_step():
    scheme = SCHEMES[0]
    w = weights().bfloat16().requires_grad_()
    step = torch.tensor([-1.0]).requires_grad_()
    fake = learned.fake_quantize(w, step, scheme)
    fake.sum().backward()
    assert fake.dtype == w.grad.dtype == torch.bfloat16
    assert step.grad.isfinite().all()
    q = quant.quantize_weight(w, scheme, step)
    assert (q.scale_NG == 1e-5).all()


def test_what_cannot_be_is_refused():
    w = weights()
    with pytest.raises(ShapeError, match=r"step has shape \(1,\), and weights \(6, 32\) by row"):
        quant.quantize_weight(w, LinearScheme("int4", "lsq", "row"), torch.ones(1))
    with pytest.raises(OptionError, match="learns no step; accepted: "):
        quant.quantize_weight(w, LinearScheme("ternary"), torch.ones(1))
    for weight, rule in (("ternary", "lsq"), ("binary", "seq"), ("int4", "seq")):
        with pytest.raises(OptionError, match="cannot be rounded; accepted rules"):
            quant.quantize_weight(w, LinearScheme(weight, rule))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zero_point_weights_train_straight_through(bits):
    """Fake quantization with a zero-point: the rounding's value, the identity's gradient."""
    w = (weights() + 0.03).requires_grad_()
    q = quant.quantize_weight(w, LinearScheme(f"int{bits}", "zero_point", "row"))
    assert q.zero_NG is not None
    out = quant.straight_through(w, quant.dequantize(q))
    dy = weights(seed=1)
    out.backward(dy)
    assert torch.equal(out, quant.dequantize(q))
    assert torch.equal(w.grad, dy)
