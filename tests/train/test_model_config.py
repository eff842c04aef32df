"""The model of a recipe: where its norms stand, its temperature, its keys and values."""

from dataclasses import replace

import pytest
import torch

from onebit import models
from onebit.errors import OptionError
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import recipe
from onebit.train.loop import check_sizes, train


def architecture(config):
    return config.model.architecture(300, 16, None, (), config.scheme)


@pytest.mark.parametrize("name", SCHEMES)
def test_outer_norms_go_where_every_reader_has_its_own(tiny_recipe, name):
    untied = ["tie_word_embeddings=false"] if name == "matmulfree" else []  # its head is ternary
    config = recipe.read(tiny_recipe, [f"scheme={name}", *untied])
    inside = name in ("bitnet-b1", "bitnet-b1.58-norm", "matmulfree")
    assert architecture(config).pre_norms is not inside
    check_sizes(config)


def test_norms_in_some_readers_only_keep_the_outer_ones(tiny_recipe):
    norm = LinearScheme("ternary", activation="int8_absmax", norm="rms")
    for layers in ({"qkv": norm}, {"model.layers.0.*": norm}, {"up": norm, "gate": norm}):
        config = replace(recipe.read(tiny_recipe), scheme=Scheme("some", layers))
        assert architecture(config).pre_norms
    config = replace(config, scheme=Scheme("all", {"qkv": norm, "up": norm, "gate": norm}))
    assert not architecture(config).pre_norms


@pytest.mark.parametrize("value", ["true", "false"])
def test_the_recipe_has_the_last_word(tiny_recipe, value):
    for scheme in ("bitnet-b1.58", "bitnet-b1.58-norm"):
        config = recipe.read(tiny_recipe, [f"scheme={scheme}", f"pre_norms={value}"])
        assert architecture(config).pre_norms is (value == "true")


def test_a_model_without_outer_norms_is_saved_as_such(tiny_recipe, tmp_path):
    train(recipe.read(tiny_recipe, ["scheme=bitnet-b1.58-norm"]), tmp_path / "run")
    model = models.load(tmp_path / "run" / "model")
    assert not model.architecture.pre_norms
    assert not any("layernorm" in name for name, _ in model.named_parameters())


def test_a_temperature_is_learned_from_where_it_begins(tiny_recipe, tmp_path, told):
    changes = ["softmax_temperature=2", "learned_temperature=true"]
    train(recipe.read(tiny_recipe, changes), tmp_path / "run", told)
    model = models.load(tmp_path / "run" / "model")
    learned = [
        weight for name, weight in model.named_parameters() if name.endswith("temperature")
    ]  # fmt: skip
    assert [weight.shape for weight in learned] == [(2,), (2,)]
    for weight in learned:
        assert not (weight == 2).any()
        assert (abs(weight - 2) < 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("softmax_temperature=0", r"model\.softmax_temperature is 0\.0; accepted: a number from"),
        ("learned_temperature=1", r"model\.learned_temperature is 1; accepted: true or false"),
        ("pre_norms=some", r"model\.pre_norms is 'some'; accepted: true or false"),
        ('scheme={name="x", kv_bits=5}', r"kv_bits is 5; accepted: 32, 16, 8, 4, 3, 2"),
        ('scheme={name="x", kv_bits="4"}', r"kv_bits is '4'; accepted"),
        ('scheme={name="x", q_bits=2}', r"q_bits is 2; accepted: 16, 8, 4, 3"),
        ('scheme={name="x", layers={o={weight="int9"}}}', r"weight is 'int9'; accepted: fp, "),
        ('scheme={name="x", layers={o={signs=3}}}', "signs are those of a Hadamard matrix"),
    ],
)
def test_bad_use(tiny_recipe, change, message):
    with pytest.raises(OptionError, match=message) as caught:
        recipe.read(tiny_recipe, [change])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("width", "blocks"), [(46, "23 blocks of 2"), (64, None)])
def test_a_hadamard_of_blocks_is_said_once(tiny_recipe, tmp_path, told, width, blocks):
    changes = ["scheme=bitnet-v2-a8", f"intermediate_size={width}", "steps=2"]
    train(recipe.read(tiny_recipe, changes), tmp_path / "run", told)
    said = [line for line in told.lines if "Hadamard" in line]
    assert len(said) == (blocks is not None)
    assert all("down_proj" in line and blocks in line for line in said)


@pytest.mark.parametrize("bits", [2, 3])
def test_two_bits_of_keys_train_and_it_is_said_that_the_engine_has_none(
    tiny_recipe, tmp_path, told, bits
):
    change = f'scheme={{name="low", kv_bits={bits}}}'
    train(recipe.read(tiny_recipe, [change, "steps=2"]), tmp_path / "run", told)
    assert models.load(tmp_path / "run" / "model").scheme.kv_bits == bits
    said = [line for line in told.lines if "the engine runs 32, 16, 8, 4, 3" in line]
    assert len(said) == (bits == 2)


@pytest.mark.parametrize(
    "how",
    [
        'weight="ternary", weight_rule="seq", weight_scale="row", activation="int8_absmax"',
        'weight="int3", weight_rule="lsq", weight_scale="group:16", activation="int4_absmax"',
        'weight="int4", weight_rule="zero_point", weight_scale="row", activation="dynamic:4"',
        'weight="binary", activation="int8_b1", norm="layer", split="in:2"',
        'weight="ternary", activation="fp4_e2m1", norm="rms", hadamard="both", signs=3',
    ],
)
def test_a_scheme_written_out_trains(tiny_recipe, tmp_path, how):
    """What no scheme of ours is, as the table of a recipe: every weight and step of it moves."""
    table = f'scheme={{name="own", kv_bits=4, q_bits=4, layers={{body={{{how}}}}}}}'
    config = recipe.read(tiny_recipe, [table, "steps=4"])
    train(config, tmp_path / "run")
    trained = models.load(tmp_path / "run" / "model")
    assert trained.scheme == config.scheme
    began = models.build(trained.architecture, config.scheme, config.seed)
    twins = zip(trained.named_parameters(), began.named_parameters(), strict=True)
    for (name, after), (_, before) in twins:
        assert not torch.equal(after, before), name
