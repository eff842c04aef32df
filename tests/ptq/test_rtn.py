"""Round to nearest: the grid's own bound, and the ranges that clips find."""

import pytest
import torch

from onebit import quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.ptq import METHODS, Options
from onebit.scheme import LinearScheme, find

rtn = METHODS["rtn"].run


def of(name):
    return find(name).linear("model.layers.0.mlp.up_proj")


def weights(N=8, K=64, seed=0):
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["", "-sym"])
@pytest.mark.parametrize("share", ["g16", "row", "tensor"])
def test_error_is_at_most_half_a_step(bits, kind, share):
    w = weights()
    q = rtn(w, of(f"w{bits}a16-{share}{kind}"), None, Options(clip="none"))
    step = q.scale_NG.repeat_interleave(64 // q.scale_NG.shape[1], dim=1)
    # the ends are cut by the rounding of the scale to float16 and of the zero-point to a whole
    ends = step * (2 ** (bits - 11) + 2**-10)
    limit = 0.5 * step + ends + (0 if kind else 0.5 * step)
    assert ((quant.dequantize(q) - w).abs() <= limit).all()
    assert (q.zero_NG is None) == bool(kind)
    if share != "tensor":
        assert torch.equal(q.scale_NG, q.scale_NG.half().float())


def test_ternary_is_the_scheme_s_own_rounding():
    w = weights()
    q, wanted = (
        rtn(w, of("w1.58a16-row"), None, Options()),
        quant.quantize_weight(w, LinearScheme("ternary", weight_scale="row")),
    )
    assert q.codes_NK.unique().tolist() == [-1, 0, 1]
    assert (q.codes_NK != wanted.codes_NK).sum() <= 1  # ties, by a scale of float16
    assert torch.equal(q.scale_NG, wanted.scale_NG.half().float())


def test_hadamard_turns_the_weights_before():
    w, plain = weights(), of("w4a16-row")
    turned = LinearScheme(plain.weight, plain.weight_rule, "row", hadamard="both", signs=3)
    q = rtn(w, turned, None, Options())
    wanted = rtn(quant.hadamard.turned(w, turned), plain, None, Options())
    assert torch.equal(q.codes_NK, wanted.codes_NK)


def test_a_clip_lowers_the_error():
    w = weights(16, 256)
    miss = {
        clip: float(
            (quant.dequantize(rtn(w, of("w3a16-row"), None, Options(clip=clip))) - w).norm()
        )
        for clip in ("none", "mse")
    }
    assert miss["mse"] < 0.95 * miss["none"]


def test_what_cannot_be_rounded_is_refused():
    with pytest.raises(InputError, match="not finite"):
        rtn(torch.full((2, 64), float("nan")), of("w4a16-row"), None, Options())
    with pytest.raises(ShapeError, match="64 columns do not split into groups of 48"):
        rtn(weights(), of("w4a16-g48"), None, Options())
    with pytest.raises(OptionError, match="no grid for rounding after training"):
        rtn(weights(), LinearScheme("int4", "lsq"), None, Options())
    with pytest.raises(InputError, match="needs the Gram matrix"):
        rtn(weights(), of("w4a16-row"), None, Options(clip="output"))
