"""levels.find: weights that were rounded before are known by their numbers alone."""

import pytest
import torch

from onebit.errors import ShapeError
from onebit.quant import blockwise, dequantize, integer, levels, ternary

W = 0.02 * torch.randn(24, 128, generator=torch.Generator().manual_seed(0))


def same_values(found, w_NK, relative=1e-6):
    off = (dequantize(found) - w_NK).abs().amax()
    return bool(off <= relative * w_NK.abs().amax())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("group", [128, 64, 32, 16])
@pytest.mark.parametrize("quantize", [integer.quantize, integer.quantize_zero_point])
def test_integers_are_found_with_their_group_and_zero(bits, group, quantize):
    q = quantize(W, bits, group)
    found = levels.find(dequantize(q))
    assert found.scale_NG.shape == q.scale_NG.shape
    assert same_values(found, dequantize(q))
    assert found.minimum_NG is None
    assert levels.bits(found) <= bits
    if group >= 64:  # narrower ones may lack a level at an end, or every other one
        assert levels.bits(found) == bits


def test_scales_and_zero_points_are_those_that_the_weights_were_rounded_with():
    q = integer.quantize_zero_point(W, 3, 64)
    found = levels.find(dequantize(q))
    torch.testing.assert_close(found.scale_NG, q.scale_NG, rtol=1e-6, atol=0)
    assert torch.equal(found.codes_NK - found.zero_NG.repeat_interleave(64, 1),
                       q.codes_NK - q.zero_NG.repeat_interleave(64, 1))  # fmt: skip


@pytest.mark.parametrize("name", sorted(blockwise.FORMATS))
def test_the_blocks_of_every_format_are_found(name):
    w_NK = 0.02 * torch.randn(9, 512, generator=torch.Generator().manual_seed(1))
    values = dequantize(blockwise.FORMATS[name](w_NK))
    found = levels.find(values)
    assert found is not None, name
    assert same_values(found, values)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_storage_in_16_bits_does_not_hide_them(dtype, bits):
    stored = dequantize(integer.quantize(W, bits, 32)).to(dtype)
    found = levels.find(stored)
    assert same_values(found, stored.float(), 2.0**-8)


def test_ternary_rows_are_found():
    found = levels.find(dequantize(ternary.quantize_absmean(W, 128)))
    assert levels.bits(found) == 2
    assert same_values(found, dequantize(ternary.quantize_absmean(W, 128)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("seed", range(3))
def test_masters_lie_on_none(dtype, seed):
    w_NK = torch.randn(64, 576, generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert levels.find(w_NK) is None


def test_one_weight_off_is_enough():
    w_NK = dequantize(integer.quantize(W, 4, 32))
    assert w_NK[5, 70] != 0
    w_NK[5, 70] *= 1.0371
    assert levels.find(w_NK) is None


def test_a_share_of_one_value_has_a_scale_too():
    w_NK = dequantize(integer.quantize(W, 4, 32))
    w_NK[0, :32] = 0
    w_NK[1, :32] = -0.25
    found = levels.find(w_NK)
    assert same_values(found, w_NK)
    assert found.codes_NK[0, :32].unique().numel() == 1


def test_odd_codes_alone_leave_0_a_level():
    w_NK = (2 * torch.randint(-4, 4, (8, 64), generator=torch.Generator().manual_seed(0)) + 1) * 0.5
    found = levels.find(w_NK)
    assert same_values(found, w_NK)
    assert found.zero_NG is not None


@pytest.mark.parametrize(
    "w_NK",
    [
        torch.zeros(4, 32),
        torch.ones(4, 32),
        torch.full((4, 32), float("nan")),
        torch.ones(4, 3),
        torch.eye(15),
    ],
    ids=["zeros", "ones", "nan", "narrow", "15"],
)
def test_what_tells_nothing_is_not_found(w_NK):
    assert levels.find(w_NK) is None


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ShapeError, match=r"levels\.find"):
        levels.find(torch.ones(3))
