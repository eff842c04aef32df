"""Two trit planes: nine values for a weight, side by side as codes."""

import pytest
import torch

from onebit import quant
from onebit.errors import ShapeError
from onebit.quant import planes


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(v, w):
    return float((v - w).norm() / w.norm())


def test_error_of_gaussians():
    """0.169 by rows is what the method's own steps reach."""
    w = normal(64, 768)
    assert relative(planes.dequantize(planes.quantize(w, 768)), w) == pytest.approx(
        0.169, abs=0.002
    )
    by_group = relative(planes.dequantize(planes.quantize(w, 64)), w)
    one_plane = relative(quant.dequantize(quant.ternary.quantize_least_squares(w, 64)), w)
    assert by_group < 0.16 < one_plane / 2.5


@pytest.mark.parametrize(("group", "G"), [(None, 1), (96, 1), (32, 3)])
def test_shapes_and_values(group, G):
    w = normal(8, 96)
    q = planes.quantize(w.bfloat16(), group)
    assert q.codes_NK.shape == (8, 192)
    assert q.scale_NG.shape == (8, 2 * G)
    assert set(q.codes_NK.unique().tolist()) == {-1, 0, 1}
    assert torch.equal(q.scale_NG, q.scale_NG.half().float())
    first, second = q.codes_NK.float().split(96, dim=1)
    a, b = (s.repeat_interleave(96 // G, dim=1) for s in q.scale_NG.split(G, dim=1))
    assert torch.equal(planes.dequantize(q), first * a + second * b)


def test_trits_are_the_nearest_of_nine():
    w, scale_P = normal(1000), torch.tensor([[1.0], [0.4]])
    trits = planes.nearest(w, scale_P)
    all_nine = torch.tensor([x + 0.4 * y for x in (-1, 0, 1) for y in (-1, 0, 1)])
    miss = (w[:, None] - all_nine).abs().amin(dim=1)
    torch.testing.assert_close((w - (trits * scale_P).sum(dim=0)).abs(), miss)


def test_weights_on_nine_values_are_met():
    g = torch.Generator().manual_seed(3)
    trits = torch.randint(-1, 2, (2, 16, 64), generator=g).float()
    w = 0.5 * trits[0] + 0.1875 * trits[1]
    assert torch.equal(planes.dequantize(planes.quantize(w, 64)), w)


def test_zeros_stay_zeros_and_importance_helps_where_it_is():
    assert (planes.dequantize(planes.quantize(torch.zeros(2, 32), 32)) == 0).all()
    w, h_K = normal(32, 64), torch.ones(64)
    h_K[:8] = 100

    def loss(q):
        return float(((planes.dequantize(q) - w).square() * h_K).sum())

    assert loss(planes.quantize(w, 64, h_K)) < loss(planes.quantize(w, 64))


def test_a_group_that_does_not_fit_is_refused():
    with pytest.raises(ShapeError, match="96 columns do not split into groups of 64"):
        planes.quantize(normal(2, 96), 64)
