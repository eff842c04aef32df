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
def test_below_the_plain_range(bits, symmetric):
    w = heavy()
    found = half_quadratic.quantize(w, bits, 64, symmetric=symmetric)
    assert sums(found, w) < sums(clip.quantize(w, bits, 64, symmetric=symmetric), w)
    most = 2 ** (bits - 1) - 1
    assert found.codes_NK.int().abs().max() <= most + (not symmetric)
    assert torch.equal(found.scale_NG, found.scale_NG.half().float())


def test_one_weight_off_the_grid_of_the_others_is_let_be():
    w = torch.cat([torch.linspace(-1, 1, 15), torch.tensor([1.1])])[None]
    plain, ours = (
        (quant.dequantize(rule.quantize(w, 4, symmetric=True)) - w).abs()[0, :15].mean()
        for rule in (clip, half_quadratic)
    )
    assert ours < plain / 20


def test_a_weight_far_out_keeps_its_size():
    w = heavy()
    w[:, 7] = 0.3
    q = half_quadratic.quantize(w, 3, 64)
    assert quant.dequantize(q)[:, 7].mean() > 0.2


def test_what_is_shrunk():
    x = torch.tensor([0.0, 0.01, 0.5, -3.0])
    e = half_quadratic.shrink(x, 10.0)
    assert e[:2].tolist() == [0, 0]
    assert e[2] == pytest.approx(0.5 - 0.5**-0.3 / 10, abs=1e-6)
    assert e[3] == pytest.approx(-3 + 3**-0.3 / 10, abs=1e-6)


def test_bits_that_are_none():
    with pytest.raises(OptionError, match="1 bits; accepted"):
        half_quadratic.quantize(torch.ones(1, 4), 1)
