"""Moves of weights: of the size that was asked for, and gone afterwards."""

import pytest
import torch
from tests.analyze.test_layer_inputs import tiny, tokens

from onebit import SCHEMES, models
from onebit.analyze import flatness
from onebit.errors import OptionError
from onebit.nn import bit_linears, convert


def test_rows_move_by_the_size_asked_for():
    w_NK = torch.randn(8, 64) * torch.logspace(-2, 1, 8)[:, None]
    moved = flatness.moved(w_NK, 0.3, torch.Generator().manual_seed(0))
    share_N = (moved - w_NK).norm(dim=1) / w_NK.norm(dim=1)
    torch.testing.assert_close(share_N, torch.full((8,), 0.3), rtol=1e-4, atol=0)
    assert flatness.relative_size(w_NK, moved) == pytest.approx(0.3, rel=1e-4)


def test_perturbed_leaves_everything_as_it_was():
    model = tiny("bitnet-b1.58")
    before = {name: w.clone() for name, w in model.state_dict().items()}
    with flatness.perturbed(model, 0.1, seed=3):
        during = {name: w.clone() for name, w in model.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], during[name])}
    assert len(changed) == 2 * 7  # the layers' matrices, and neither norms nor the embedding
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_the_same_directions_for_all_sizes():
    model = tiny()
    w_NK = model.model.layers[0].mlp.up_proj.weight
    moves = []
    for size in (0.1, 0.2):
        with flatness.perturbed(model, size, seed=1):
            now = model.model.layers[0].mlp.up_proj.weight
            moves.append(now.detach().clone())
    torch.testing.assert_close((moves[1] - w_NK), 2 * (moves[0] - w_NK), rtol=1e-3, atol=1e-6)


def test_curve_counts_what_it_is_told():
    model = tiny()
    sizes = []

    def loss(m):
        sizes.append(float(m.model.layers[0].self_attn.q_proj.weight.detach().norm()))
        return float(len(sizes))

    points = flatness.curve(loss, model, [0.0, 0.5], seeds=2)
    assert [(p.size, p.mean, p.spread) for p in points] == [(0.0, 1.0, 0.0), (0.5, 2.5, 1.0)]
    assert len(set(sizes)) == 3


@pytest.mark.parametrize(
    "scheme", ["fp", "bitnet-b1", "bitnet-b1.58-sub", "bitnet-v2-a4", "int4-lsq"]
)
def test_dequantized_computes_the_same(scheme):
    model = tiny(scheme)
    twin = flatness.dequantized(model)
    assert all(layer.scheme.weight == "fp" for _, layer in bit_linears(twin))
    # other sums of floats, and now and then an input code that falls to the other side
    torch.testing.assert_close(twin(tokens()), model(tokens()), rtol=0, atol=2e-3)
    assert any(layer.scheme.weight != "fp" for _, layer in bit_linears(model)) == (scheme != "fp")


def test_rounding_is_a_move_too():
    model = convert(tiny(), SCHEMES["bitnet-b1.58"])
    assert flatness.rounding_size(model) == pytest.approx(0.513, abs=0.03)  # of Gaussian weights
    assert flatness.rounding_size(tiny()) == 0.0


def test_frozen_layers_are_refused():
    model = tiny("bitnet-b1.58")
    for _, layer in bit_linears(model):
        layer.freeze()
    with pytest.raises(OptionError, match="is frozen"), flatness.perturbed(model, 0.1, 0):
        pass
    assert isinstance(flatness.dequantized(model), models.LanguageModel)
