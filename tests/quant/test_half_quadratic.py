"""Half-quadratic fitting: less of sum |error|^0.7 than any plain range."""

import pytest
import torch

from onebit import quant
from onebit.errors import OptionError
from onebit.quant import clip, half_quadratic


def heavy(N=32, K=128):
    torch.manual_seed(0)
    return 0.02 * torch.distributions.StudentT(4.0).sample((N, K))


def sums(q, w):
    return float((quant.dequantize(q) - w).abs().pow(0.7).sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_below_the_plain_range_and_the_least_squared_error(bits, symmetric):
    w = heavy()
    found = half_quadratic.quantize(w, bits, 64, symmetric=symmetric)
    for rule in ("none", "mse"):
        assert sums(found, w) < sums(clip.quantize(w, bits, 64, symmetric=symmetric, rule=rule), w)
    most = 2 ** (bits - 1) - 1
    assert found.codes_NK.int().abs().max() <= most + (not symmetric)
    assert torch.equal(found.scale_NG, found.scale_NG.half().float())


def test_one_weight_far_out_is_let_be():
    w = torch.linspace(-1, 1, 64)[None].clone()
    w[0, 7] = 3.5
    q = half_quadratic.quantize(w, 4, 64, symmetric=True)
    others = torch.arange(64) != 7
    miss = (quant.dequantize(q) - w)[0, others].abs().mean()
    plain = (quant.dequantize(clip.quantize(w, 4, 64, symmetric=True)) - w)[0, others].abs().mean()
    assert miss < plain / 2


def test_what_is_shrunk():
    x = torch.tensor([0.0, 0.01, 0.5, -3.0])
    e = half_quadratic.shrink(x, 10.0)
    assert e[:2].tolist() == [0, 0]
    assert e[2] == pytest.approx(0.5 - 0.5**-0.3 / 10, abs=1e-6)
    assert e[3] == pytest.approx(-3 + 3**-0.3 / 10, abs=1e-6)


def test_bits_that_are_none():
    with pytest.raises(OptionError, match="1 bits; accepted"):
        half_quadratic.quantize(torch.ones(1, 4), 1)
