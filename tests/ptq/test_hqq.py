"""HQQ: needs no inputs, and takes integers only."""

import pytest
import torch

from onebit import quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.ptq import METHODS, Options
from onebit.quant import half_quadratic
from onebit.scheme import LinearScheme

hqq = METHODS["hqq"].run
INT3 = LinearScheme("int3", "zero_point", "group:32")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", ["tensor", "row", "group:32"])
@pytest.mark.parametrize("rule", ["absmax", "zero_point"])
def test_codes_are_the_schemes(rule, scale):
    w = normal(8, 64)
    q = hqq(w, LinearScheme("int3", rule, scale), None, Options())
    assert q.scale_NG.shape == (8, 2 if scale == "group:32" else 1)
    assert (q.zero_NG is None) == (rule == "absmax")
    assert q.codes_NK.abs().max() <= (3 if rule == "absmax" else 4)
    plain = quant.quantize_weight(w, LinearScheme("int3", rule, scale))
    ours, theirs = ((quant.dequantize(codes) - w).abs().pow(0.7).sum() for codes in (q, plain))
    assert ours < theirs


def test_turned_weights_are_turned_here():
    w, scheme = normal(8, 64), LinearScheme("int3", "zero_point", "group:32", hadamard="both")
    q = hqq(w, scheme, None, Options())
    turned = quant.hadamard.transform(w)
    assert torch.equal(q.codes_NK, half_quadratic.quantize(turned, 3, 32).codes_NK)


def test_what_cannot_be_done_is_refused():
    w = normal(8, 64)
    with pytest.raises(OptionError, match='weight "ternary" by "absmean"'):
        hqq(w, LinearScheme("ternary"), None, Options())
    with pytest.raises(ShapeError, match="64 columns do not split into groups of 48"):
        hqq(w, LinearScheme("int3", "zero_point", "group:48"), None, Options())
    with pytest.raises(InputError, match="not finite"):
        hqq(w / 0, INT3, None, Options())
