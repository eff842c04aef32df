"""RMSNorm against its formula in float64, gradient included."""

import pytest
import torch

from onebit.nn import RMSNorm


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(eps=1e-5):
    made = RMSNorm(24, eps)
    torch.nn.init.uniform_(made.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
    return made


def formula(x, weight, eps):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_value_and_gradient(eps):
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
