"""The Hadamard turn of a layer's input: its matrix, its gradient, and both ways of computing it."""

import sys

import pytest
import torch

from onebit import hadamard
from onebit.nn.hadamard import turn
from onebit.quant.hadamard import transform

WIDTHS = [1, 2, 6, 12, 46, 48, 64, 96, 576, 640]


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 9])
@pytest.mark.parametrize("K", WIDTHS)
def test_value_and_gradient_are_those_of_the_transform(K, seed):
    """Which tests/quant holds to the matrix written out."""
    x, upstream = draw(2, 3, K).requires_grad_(), draw(2, 3, K, seed=1)
    signs = torch.from_numpy(hadamard.signs(seed, K))
    for transpose in (False, True):
        y = turn(x, seed, transpose)
        torch.testing.assert_close(y, transform(x, signs, transpose), rtol=1e-5, atol=1e-5)
        (dx,) = torch.autograd.grad(y, x, upstream)
        expected = transform(upstream, signs, not transpose)
        torch.testing.assert_close(dx, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turn(turn(x, seed), seed, transpose=True), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("K", WIDTHS)
def test_a_cpu_has_the_engines_bits(K):
    ops = pytest.importorskip("onebit.kernels.ops")
    x, upstream = draw(5, K), draw(5, K, seed=1)
    signs = hadamard.signs(4, K)
    given = x.clone().requires_grad_()
    y = turn(given, 4)
    assert torch.equal(y, torch.from_numpy(ops.hadamard(x.numpy(), signs)))
    y.backward(upstream)
    expected = ops.hadamard(upstream.numpy(), signs, transpose=True)
    assert torch.equal(given.grad, torch.from_numpy(expected))


def test_without_the_extension_it_is_plain_torch(monkeypatch):
    if "onebit.kernels.ops" in sys.modules:
        monkeypatch.delattr("onebit.kernels.ops")
    monkeypatch.setitem(sys.modules, "onebit.kernels.ops", None)
    x, signs = draw(4, 96), torch.from_numpy(hadamard.signs(3, 96))
    assert torch.equal(turn(x, 3), transform(x, signs))
    assert torch.equal(turn(x, 3, transpose=True), transform(x, signs, transpose=True))


def test_bf16_is_turned_in_float32():
    x = draw(3, 48).bfloat16()
    y = turn(x, 1)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, turn(x.float(), 1).bfloat16())


def test_what_has_no_contiguous_rows_is_turned_too():
    x = draw(48, 6)
    assert torch.equal(turn(x.T), turn(x.T.contiguous()))
