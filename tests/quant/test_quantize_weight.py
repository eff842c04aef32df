"""Rounding by scheme: every weight and rule goes to its function, or is refused."""

import pytest
import torch

from onebit import quant
from onebit.errors import OptionError, ShapeError
from onebit.scheme import WEIGHT_RULES, WEIGHTS, LinearScheme

W = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (LinearScheme("ternary"), quant.ternary.quantize_absmean(W)),
        (LinearScheme("ternary", "absmedian", "row"), quant.ternary.quantize_absmedian(W, 32)),
        (
            LinearScheme("ternary", "least_squares", "group:8"),
            quant.ternary.quantize_least_squares(W, 8),
        ),
        (LinearScheme("binary", weight_scale="row"), quant.binary.quantize(W, 32)),
        (LinearScheme("int4", "absmax", "group:16"), quant.integer.quantize(W, 4, 16)),
        (LinearScheme("int8", "absmax"), quant.integer.quantize(W, 8)),
    ],
    ids=lambda value: f"{value.weight} {value.weight_rule}" if hasattr(value, "weight") else "",
)
def test_scheme_goes_to_its_function(scheme, expected):
    q = quant.quantize_weight(W, scheme)
    assert torch.equal(q.codes_NK, expected.codes_NK)
    assert torch.equal(q.scale_NG, expected.scale_NG)


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("rule", WEIGHT_RULES)
def test_every_pair_rounds_or_is_refused_with_what_is_accepted(weight, rule):
    if weight == "ternary2" and rule != "least_squares":
        with pytest.raises(OptionError, match='"ternary2" has weight_rule "least_squares"'):
            LinearScheme(weight, rule)
        return
    scheme = LinearScheme(weight, rule)
    if (weight, rule) in quant.WEIGHT_QUANTIZERS:
        N, K = W.shape
        assert quant.quantize_weight(W, scheme).codes_NK.shape == (N, scheme.planes * K)
    else:
        with pytest.raises(OptionError, match="cannot be rounded; accepted rules: ") as caught:
            quant.quantize_weight(W, scheme)
        assert "\n" not in str(caught.value)


def test_every_weight_but_float_has_a_rule():
    assert {weight for weight, _ in quant.WEIGHT_QUANTIZERS} == set(WEIGHTS) - {"fp"}


def test_a_group_that_does_not_divide_is_refused():
    with pytest.raises(ShapeError, match="32 columns do not split into groups of 5"):
        quant.quantize_weight(W, LinearScheme("ternary", weight_scale="group:5"))


@pytest.mark.parametrize("weight", ["binary", "ternary"])
@pytest.mark.parametrize("split", ["in:4", "out:3"])
def test_parts_are_matrices_of_their_own(weight, split):
    """BitNet b1's group quantization: what a process needs, it has."""
    q = quant.quantize_weight(W, LinearScheme(weight, split=split))
    assert q.scale_NG.shape == ((6, 4) if split == "in:4" else (6, 1))
    axis, size = (1, 8) if split == "in:4" else (0, 2)
    codes, values = q.codes_NK.split(size, axis), quant.dequantize(q).split(size, axis)
    for part, part_codes, part_values in zip(W.split(size, axis), codes, values, strict=True):
        alone = quant.quantize_weight(part, LinearScheme(weight))
        assert torch.equal(part_codes, alone.codes_NK)
        assert torch.equal(part_values, quant.dequantize(alone))


@pytest.mark.parametrize(
    ("split", "said"), [("in:5", "32 columns do not split into 5"), ("out:4", "6 rows do not")]
)
def test_parts_that_do_not_divide_are_refused(split, said):
    with pytest.raises(ShapeError, match=said):
        quant.quantize_weight(W, LinearScheme("binary", split=split))


def test_a_learned_step_has_no_parts():
    with pytest.raises(OptionError, match="learns one step for all"):
        quant.quantizer_of(LinearScheme("int4", "lsq", split="in:2"))
