"""Progressive quantization: lambda goes from exactly 0 to exactly 1, together or layer by layer."""

from types import SimpleNamespace

import pytest

from onebit import models, nn
from onebit.errors import OptionError
from onebit.train import metrics, recipe
from onebit.train.loop import train
from onebit.train.progressive import BITS, BLENDS, ORDERS, ProgressiveConfig, blend, set_blends

CURVES = [
    ProgressiveConfig(blend=name, share=0.4, steepness=k)
    for name in BLENDS
    for k in (0.001, 10.0, 100.0, 500.0)
]


@pytest.mark.parametrize("config", CURVES, ids=lambda c: f"{c.blend}-{c.steepness:g}")
@pytest.mark.parametrize("order", ORDERS)
def test_lambda_rises_from_0_to_1(config, order):
    config = ProgressiveConfig(**{**vars(config), "order": order})
    for position in range(3):
        values = [blend(i / 1000, config, position, 3) for i in range(1001)]
        assert values[0] == 0
        assert all(value == 1 for value in values[400:])
        assert values == sorted(values)
        assert all(0 <= value <= 1 for value in values)


def test_the_curves_half_way():
    def half(name, k):
        return BLENDS[name](0.5, k)

    assert half("linear", 10) == 0.5
    assert half("sigmoid", 10) == pytest.approx(0.5, abs=1e-12)
    assert half("exponential", 10) == pytest.approx(1 / (2.718281828459045**5 + 1))
    assert BLENDS["exponential"](0.3, 1e-3) == pytest.approx(0.3, abs=1e-3)  # nearly straight
    assert BLENDS["sigmoid"](0.4, 100) < 1e-4  # nearly a step
    assert BLENDS["sigmoid"](0.6, 100) > 1 - 1e-4


def test_layers_take_turns():
    up = ProgressiveConfig(blend="linear", share=0.5, order="bottom_up")
    down = ProgressiveConfig(blend="linear", share=0.5, order="top_down")
    # of 2 layers each takes a quarter of the run; at 1/8 the first is half-way
    assert [blend(1 / 8, up, i, 2) for i in range(2)] == [0.5, 0.0]
    assert [blend(3 / 8, up, i, 2) for i in range(2)] == [1.0, 0.5]
    assert [blend(3 / 8, down, i, 2) for i in range(2)] == [0.5, 1.0]


def test_each_layer_gets_its_own_and_the_head_goes_with_the_last():
    names = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "lm_head"]
    layers = [(name, SimpleNamespace(blend=None)) for name in names]
    config = ProgressiveConfig(blend="linear", share=0.5, order="bottom_up")
    assert set_blends(layers, 1 / 8, config, 2) == pytest.approx(0.5 / 3)
    assert [module.blend for _, module in layers] == [0.5, 0.0, 0.0]
    assert set_blends(layers, 0.5, config, 2) == 1
    assert [module.blend for _, module in layers] == [1.0] * 3
    assert set_blends([], 0.1, config, 2) == 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["progressive.blend=cubic"], r'progressive\.blend is \'cubic\'; accepted: "linear", '),
        (["progressive.share=0.5"], r"\[progressive\] has neither blend nor bits; give one"),
        (["share=1", "blend=linear"], r"progressive\.share is 1\.0; accepted: a number from"),
        (["order=sideways", "blend=linear"], r'order is \'sideways\'; accepted: "together", '),
        (["bits=[4]", "order=top_down"], "only lambda goes layer by layer"),
        (["bits=[16]"], r"bits is \[16\]; accepted: a list of whole numbers from 8 down to 2"),
        (["bits=[4, 1]"], r"bits is \[4, 1\]; accepted"),
        (["bits=[true]"], r"bits is \[True\]; accepted"),
        (["bits=4"], r"bits is 4; accepted"),
        (["bits=[2, 4]"], r"bits is \[2, 4\]; each rung must have fewer bits"),
        (["bits=[4, 4]"], r"each rung must have fewer bits"),
        (["blend=linear", "scheme=fp"], "scheme fp quantizes nothing"),
        (["bits=[4]", "scheme=int4-lsq"], "scheme int4-lsq learns its steps"),
        (["bits=[4]", 'stages=[{until=0.5, scheme="fp"}]'], r"there are \[\[stages\]\]"),
        (["blend=linear", "share=0.9", "steps=4"], "a run of 4 steps then has none that is fully"),
        (["bits=[8, 4, 2]", "share=0.1"], r"stages\.1 has no step of its own in a run of 20"),
        (["steepness=0", "blend=sigmoid"], r"steepness is 0\.0; accepted"),
    ],
)  # fmt: skip
def test_bad_use(tiny_recipe, overrides, message):
    with pytest.raises(OptionError, match=message) as caught:
        recipe.read(tiny_recipe, overrides)
    assert "\n" not in str(caught.value)


def test_every_width_of_an_integer_weight_is_a_rung(tiny_recipe):
    config = recipe.read(tiny_recipe, [f"bits={list(BITS)}", "share=0.9"])
    rungs = [stage.scheme.linear("model.layers.0.mlp.up_proj") for stage in config.every_stage]
    assert [rung.weight for rung in rungs] == [f"int{bits}" for bits in BITS]
    assert {rung.activation for rung in rungs} == {"int8_absmax"}
    assert [stage.until for stage in config.every_stage] == pytest.approx(
        [0.9 * (i + 1) / len(BITS) for i in range(len(BITS))]
    )


@pytest.mark.parametrize("order", ORDERS)
def test_a_run_ends_fully_quantized(tiny_recipe, tmp_path, order):
    config = recipe.read(tiny_recipe, ["blend=linear", "share=0.5", f"order={order}"])
    train(config, tmp_path / "run")
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    means = [line["blend"] for line in lines if "blend" in line]
    assert len(means) == 20
    assert means == sorted(means)
    assert 0 < means[0] < 0.1
    assert set(means[10:]) == {1.0}
    model = models.load(tmp_path / "run" / "model")
    assert model.scheme == config.scheme
    assert {layer.blend for _, layer in nn.bit_linears(model)} == {1.0}


def test_lambda_0_is_the_float_model(tiny_recipe, tmp_path):
    """The first step's loss of a run that begins at nearly 0 is that of the float run."""
    losses = []
    for name, overrides in (
        ("float", ["scheme=fp"]),
        ("lambda", ["blend=exponential", "steepness=500", "share=0.9"]),
    ):
        train(recipe.read(tiny_recipe, overrides), tmp_path / name)
        lines = metrics.read(tmp_path / name / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[0][:5] == pytest.approx(losses[1][:5], rel=1e-5)
    assert losses[0][-1] != losses[1][-1]


def test_a_ladder_of_bits(tiny_recipe, tmp_path):
    config = recipe.read(tiny_recipe, ["bits=[8, 4, 2]", "share=0.6"])
    train(config, tmp_path / "run")
    lines = metrics.read(tmp_path / "run" / "metrics.jsonl")
    said = [(line["step"], line["scheme"]) for line in lines if "scheme" in line]
    name = config.scheme.name
    assert said == [
        (0, f"{name} at 8 bits"),
        (4, f"{name} at 4 bits"),
        (8, f"{name} at 2 bits"),
        (12, name),
    ]
    assert models.load(tmp_path / "run" / "model").scheme == config.scheme
