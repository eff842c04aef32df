"""What is said of layers' inputs, held to inputs whose numbers are known."""

import pytest
import torch

from onebit import SCHEMES, Architecture, models
from onebit.analyze import layer_inputs
from onebit.errors import OptionError

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 32,
}


def tiny(scheme="fp", act="relu2", **changes):
    model = models.build(Architecture(**SIZES, hidden_act=act, **changes), SCHEMES[scheme], 1)
    return model.eval()


def tokens():
    return torch.randint(0, 50, (2, 16), generator=torch.Generator().manual_seed(0))


def test_kurtosis_of_known_shapes():
    assert layer_inputs.kurtosis(torch.tensor([[1.0, -1.0] * 8])) == pytest.approx(1)
    # one of K columns sticks out: (K^2 - 3 K + 3) / (K - 1)
    spike = torch.zeros(1, 32).index_fill_(1, torch.tensor([3]), 5.0)
    assert layer_inputs.kurtosis(spike) == pytest.approx((32**2 - 3 * 32 + 3) / 31)
    bell = torch.randn(200, 1000, generator=torch.Generator().manual_seed(0))
    assert layer_inputs.kurtosis(bell) == pytest.approx(3, abs=0.05)


def test_kurtosis_ignores_scale_shift_and_flat_tokens():
    x = torch.rand(4, 64, generator=torch.Generator().manual_seed(1)) ** 3
    moved = torch.cat([7 * x + 2, torch.ones(3, 64)])
    assert layer_inputs.kurtosis(moved) == pytest.approx(layer_inputs.kurtosis(x), rel=1e-4)


def test_record_gives_what_each_linear_is_handed():
    model = tiny()
    layer = model.model.layers[1].mlp.down_proj
    seen = []
    watch = layer.register_forward_hook(lambda m, x, y: seen.append(y))
    given = layer_inputs.record(model, tokens())
    assert len(given) == 2 * 7
    assert "lm_head" not in given
    x_TK = given["model.layers.1.mlp.down_proj"]
    assert x_TK.shape == (32, 64)
    watch.remove()
    torch.testing.assert_close(layer(x_TK), seen[0].flatten(0, 1), rtol=1e-5, atol=1e-8)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_before_and_after_are_one_turn_apart():
    model = tiny("bitnet-v2-a8")
    given = layer_inputs.record(model, tokens())
    name = "model.layers.0.mlp.down_proj"
    layer = model.get_submodule(name)
    before, after = layer_inputs.before_and_after(layer, given[name])
    torch.testing.assert_close(before, layer.rms_norm(given[name]), rtol=0, atol=1e-5)
    assert torch.equal(after, layer.turned_input(given[name]))
    torch.testing.assert_close(before.norm(dim=1), after.norm(dim=1))
    plain = layer_inputs.before_and_after(model.model.layers[0].self_attn.q_proj, given[name])
    assert torch.equal(plain[0], given[name])


def test_half_of_the_codes_are_zero_under_top_50():
    model = tiny("bitnet-a4.8")
    shares = layer_inputs.sparsity(model, layer_inputs.record(model, tokens()))
    assert shares["out"] == pytest.approx(0.5, abs=0.02)


def test_closed_gates_spare_the_up_projection():
    model = tiny()
    given = layer_inputs.record(model, tokens())
    shares = layer_inputs.sparsity(model, given)
    # no input of a float layer is 0, and the share of closed gates is that of zeros in front of
    # down, where a gate that is open just a little may also end as 0
    assert shares["qkv"] == shares["gate"] == 0.0
    assert 0.3 < shares["up"] <= shares["down"] < 0.7
    sizes = {"qkv": 3 * 32 * 32, "out": 32 * 32, "up": 2048, "gate": 2048, "down": 2048}
    mean = sum(shares[k] * size for k, size in sizes.items()) / sum(sizes.values())
    assert shares["overall"] == pytest.approx(mean)
    silu = tiny(act="silu")
    assert layer_inputs.sparsity(silu, layer_inputs.record(silu, tokens()))["up"] == 0.0


def test_a_layer_that_was_not_recorded_is_named():
    with pytest.raises(OptionError, match=r"nothing is recorded of model\.layers\.0"):
        layer_inputs.sparsity(tiny(), {})
