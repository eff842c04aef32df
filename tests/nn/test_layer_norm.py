"""LayerNorm without weights: against the formula, in parts, and its gradient."""

import pytest
import torch

from onebit.nn import LayerNorm


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def plain(x, eps, parts):
    out = []
    for part in x.chunk(parts, dim=-1):
        centred = part - part.mean(dim=-1, keepdim=True)
        out.append(centred / (centred.square().mean(dim=-1, keepdim=True) + eps).sqrt())
    return torch.cat(out, dim=-1)


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("shape", [(12,), (5, 12), (2, 3, 12)], ids=str)
def test_formula_and_gradient(parts, shape):
    x, upstream = draw(*shape).requires_grad_(), draw(*shape, seed=1)
    y, expected = LayerNorm(1e-3, parts)(x), plain(x, 1e-3, parts)
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    ours, wanted = (torch.autograd.grad(t, x, upstream)[0] for t in (y, expected))
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-5)


def test_equal_values_become_zero_and_not_nan():
    assert not LayerNorm(1e-5)(torch.full((2, 8), 7.0)).any()


def test_a_mean_and_a_factor_do_not_matter():
    x, norm = draw(4, 32), LayerNorm(0.0)
    torch.testing.assert_close(norm(x * 5 + 3), norm(x), rtol=1e-4, atol=1e-5)


def test_bf16_is_normalised_in_float32_and_there_are_no_weights():
    x, norm = draw(4, 32).bfloat16(), LayerNorm(1e-5)
    assert torch.equal(norm(x), norm(x.float()).bfloat16())
    assert not norm.state_dict()
    assert "parts=2" in repr(LayerNorm(1e-5, 2))
