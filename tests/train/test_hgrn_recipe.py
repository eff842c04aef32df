"""A recipe that trains a MatMul-free model: from text to a folder that is one."""

import pytest

from onebit import models
from onebit.analyze.verify import verify
from onebit.errors import OnebitError, OptionError
from onebit.scheme import SCHEMES
from onebit.train import metrics, recipe
from onebit.train.loop import train

CHANGES = ("scheme=matmulfree", "tie_word_embeddings=false", "rms_norm_eps=1e-6")


def recurrent(tiny_recipe, *changes):
    """The tiny recipe with the model type changed and no heads."""
    lines = tiny_recipe.read_text().splitlines()
    kept = [line for line in lines if "attention_heads" not in line and "key_value" not in line]
    place = tiny_recipe.with_name("recurrent.toml")
    place.write_text("\n".join(kept).replace("[model]", '[model]\nmodel_type = "hgrn_bit"'))
    return recipe.read(place, [*CHANGES, *changes])


def test_a_recipe_trains_a_recurrent_model(tiny_recipe, tmp_path, told):
    config = recurrent(tiny_recipe)
    train(config, tmp_path / "run", told)
    model = models.load(tmp_path / "run" / "model")
    assert model.architecture.recurrent
    assert model.scheme == SCHEMES["matmulfree"]
    report = verify(tmp_path / "run" / "model")
    assert report.ok
    begun = models.build(model.architecture, model.scheme, config.seed).state_dict()
    moved = model.state_dict()
    assert all((moved[name] != weight).any() for name, weight in begun.items())


def test_a_recurrent_run_is_measured_without_scores(tiny_recipe, tmp_path, told):
    """It has no softmax whose range there would be."""
    config = recurrent(tiny_recipe, "measure=true", "kind=cosine_halved")
    train(config, tmp_path / "run", told)
    lines = list(metrics.read(tmp_path / "run" / "metrics.jsonl"))
    found = [line for line in lines if "zeros" in line]
    assert found
    assert set(found[0]["zeros"]) == {"i", "f", "g", "o", "gate", "down", "head"}
    assert not any("softmax_range" in line for line in lines)


def test_what_a_recurrent_recipe_says_reaches_the_model(tiny_recipe):
    config = recurrent(tiny_recipe, "mlgru=paper", "use_lower_bound=false")
    a = config.model.architecture(300, 16, None, (), config.scheme)
    assert (a.mlgru, a.lower_bounds, a.pre_norms) == ("paper", False, True)
    with pytest.raises(OptionError, match="mlgru"):
        recurrent(tiny_recipe, "mlgru=book")


def test_a_recurrent_recipe_has_nothing_of_attention(tiny_recipe):
    for said in ("rope_theta=5e5", "num_attention_heads=2", "softmax_temperature=2.0"):
        config = recurrent(tiny_recipe, said)
        with pytest.raises(OnebitError, match=said.partition("=")[0]):
            config.model.architecture(300, 16, None, (), config.scheme)


def test_a_recipe_with_attention_says_its_heads(tiny_recipe):
    config = recurrent(tiny_recipe, "model_type=llama")
    with pytest.raises(OptionError, match="num_attention_heads is missing"):
        config.model.architecture(300, 16, None, (), config.scheme)


def test_one_layer_trains_though_its_bounds_have_no_gradient(tiny_recipe, tmp_path, told):
    """The first layer has no bounds, so with one layer what is learned of them is never used."""
    config = recurrent(tiny_recipe, "num_hidden_layers=1", "budget.steps=5")
    train(config, tmp_path / "run", told)
    assert models.load(tmp_path / "run" / "model").model.lower_bounds.shape == (1, 32)
