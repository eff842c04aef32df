"""RMSNorm against its formula in float64, gradient included."""

import pytest
import torch

from onebit.kernels import ops
from onebit.nn import RMSNorm
from onebit.nn.rms_norm import gradients, normalized


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(eps=1e-5):
    made = RMSNorm(24, eps)
    torch.nn.init.uniform_(made.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return made


def formula(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_value_and_gradient(isa, eps):
    norm, x, upstream = layer(eps), draw(3, 5, 24).requires_grad_(), draw(3, 5, 24, seed=2)
    exact = [t.detach().double().requires_grad_() for t in (x, norm.weight)]
    y, expected = norm(x), formula(*exact, eps)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    ours = torch.autograd.grad(y, (x, norm.weight), upstream)
    theirs = torch.autograd.grad(expected, exact, upstream.double())
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_maths_is_float32_for_bf16_inputs():
    x = draw(4, 24).bfloat16()
    y = layer()(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer()(x.float()).bfloat16())


def test_one_token_without_a_batch():
    x = draw(24).requires_grad_()
    layer()(x).sum().backward()
    torch.testing.assert_close(layer()(x), layer()(x[None])[0])
    assert torch.isfinite(x.grad).all()


def test_zeros_stay_zeros():
    assert not layer()(torch.zeros(2, 24)).any()


@pytest.mark.parametrize("width", [1, 16, 24, 259])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_native_is_torch_within_rounding(isa, dtype, width):
    """On scalar both go by torch."""
    x, upstream = draw(100, width).to(dtype), draw(100, width, seed=2).to(dtype)
    norm = RMSNorm(width, 1e-5)
    torch.nn.init.uniform_(norm.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    found = []
    for x_TK in (x.clone().requires_grad_(), x.double().requires_grad_()):
        y = norm(x_TK) if x_TK.dtype == dtype else formula(x_TK, norm.weight, 1e-5)
        gradients = torch.autograd.grad(y, (x_TK, norm.weight), upstream.to(y.dtype))
        found.append([y.detach(), *gradients])
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    for ours, exact in zip(*found, strict=True):
        near = tolerance * float(exact.abs().max())
        torch.testing.assert_close(ours.double(), exact.double(), rtol=tolerance, atol=near)


def test_no_instruction_set_or_thread_changes_a_bit(monkeypatch):
    found = []
    for isa in [isa for isa in ops.isas() if isa != "scalar"]:
        monkeypatch.setenv("ONEBIT_ISA", isa)
        for count in (1, 2):
            before = torch.get_num_threads()
            torch.set_num_threads(count)
            x, norm = draw(200, 40).requires_grad_(), RMSNorm(40, 1e-5)
            y = norm(x)
            gradients = torch.autograd.grad(y, (x, norm.weight), draw(200, 40, seed=2))
            torch.set_num_threads(before)
            found.append([y, *gradients])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("frozen", ["weight", "x"])
def test_a_frozen_operand_gets_no_gradient_and_changes_no_other(isa, frozen):
    upstream = draw(30, 24, seed=2)
    x, norm = draw(30, 24).requires_grad_(), RMSNorm(24, 1e-5)
    operands = {"x": x, "weight": norm.weight}
    of_both = torch.autograd.grad(norm(x), list(operands.values()), upstream)
    both = dict(zip(operands, of_both, strict=True))
    operands.pop(frozen).requires_grad_(False)
    y = norm(x)
    needed = [name in operands for name in ("x", "weight")]
    found = gradients(x, norm.weight, *normalized(x, norm.weight, 1e-5)[1:], upstream, needed)
    assert [gradient is not None for gradient in found] == needed
    ((name, operand),) = operands.items()
    assert torch.equal(torch.autograd.grad(y, operand, upstream)[0], both[name])
