"""LayerNorm without weights: against the formula, in parts, and its gradient."""

import sys

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("shape", [(1,), (12,), (5, 60), (2, 3, 258), (0, 12)], ids=str)
def test_a_cpu_has_the_engines_bits(shape, parts):
    ops = pytest.importorskip("onebit.kernels.ops")
    if shape[-1] % parts:
        shape = (*shape[:-1], shape[-1] * parts)
    x = draw(*shape)
    expected = ops.layer_norm(x.reshape(-1, shape[-1]).numpy(), 1e-5, parts)
    assert torch.equal(LayerNorm(1e-5, parts)(x), torch.from_numpy(expected).view(shape))


def test_what_has_no_contiguous_rows_is_normalised_too():
    x, norm = draw(48, 6).requires_grad_(), LayerNorm(1e-5)
    assert torch.equal(norm(x.T), norm(x.T.contiguous()))
    (ours,) = torch.autograd.grad(norm(x.T).T, x, draw(48, 6, seed=1))
    (wanted,) = torch.autograd.grad(F.layer_norm(x.T, (48,), eps=1e-5).T, x, draw(48, 6, seed=1))
    assert torch.equal(ours, wanted)


def test_without_the_extension_it_is_torchs(monkeypatch):
    if "onebit.kernels.ops" in sys.modules:
        monkeypatch.delattr("onebit.kernels.ops")
    monkeypatch.setitem(sys.modules, "onebit.kernels.ops", None)
    x = draw(4, 96)
    assert torch.equal(LayerNorm(1e-5)(x), F.layer_norm(x, (96,), eps=1e-5))
