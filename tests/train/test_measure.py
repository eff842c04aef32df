"""What `measure = true` writes: zeros of each projection's input, softmax range, mean bits."""

from dataclasses import replace

import pytest
import torch

from onebit import models
from onebit.data.blocks import TokenFile
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import metrics, recipe
from onebit.train.loop import train
from onebit.train.measure import in_words, measure

PROJECTIONS = {"q", "k", "v", "o", "gate", "up", "down"}


def measured(config, run, progress=None):
    train(config, run, progress)
    return [line for line in metrics.read(run / "metrics.jsonl") if "zeros" in line]


def losses(run):
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl") if "loss" in line]


def test_only_when_asked_only_at_measurements_and_no_loss_changes(tiny_recipe, tmp_path, told):
    assert measured(recipe.read(tiny_recipe), tmp_path / "plain") == []
    lines = measured(recipe.read(tiny_recipe, ["measure=true"]), tmp_path / "asked", told)
    assert losses(tmp_path / "plain") == losses(tmp_path / "asked")
    assert [line["step"] for line in lines] == [10, 20]
    said = [line for line in told.lines if "held-out text" in line and "scores" in line]
    assert [line.split()[1] for line in said] == ["10", "20"]
    for line in lines:
        assert line["zeros"].keys() == PROJECTIONS
        assert all(0 <= share < 1 for share in line["zeros"].values())
        low, high = line["softmax_range"]
        assert low < high
        assert "activation_bits" not in line
        assert line["held_out_bits_per_byte"] > 0


def test_a_half_of_zeros_where_half_is_kept(tiny_recipe, tmp_path):
    changes = ["measure=true", "evaluations=1", "scheme=bitnet-a4.8", "hidden_act=relu2"]
    (line,) = measured(recipe.read(tiny_recipe, changes), tmp_path / "run")
    assert 0.5 <= line["zeros"]["o"] < 0.6
    assert line["zeros"]["down"] > 0.4  # the squared ReLU's own
    assert line["zeros"]["q"] == line["zeros"]["k"] == line["zeros"]["v"]


@pytest.mark.parametrize(("ratio", "bits"), [("0.001", 8.0), ("999999", 4.0)])
def test_mean_bits_of_a_dynamic_width(tiny_recipe, tmp_path, ratio, bits):
    body = LinearScheme("ternary", activation=f"dynamic:{ratio}")
    config = recipe.read(tiny_recipe, ["measure=true", "evaluations=1", "steps=2"])
    (line,) = measured(replace(config, scheme=Scheme("dynamic", {"body": body})), tmp_path / "run")
    assert line["activation_bits"] == bits
    low, high = line["softmax_range"]
    assert in_words(line) == f", scores {low:.1f} to {high:.1f}, inputs {bits:.2f} bits"


def test_zeros_are_counted_in_float_layers_too(tiny_recipe, tmp_path):
    """With zero embeddings every input is 0, and every score."""
    train(recipe.read(tiny_recipe, ["scheme=fp", "steps=2"]), tmp_path / "run")
    model = models.load(tmp_path / "run" / "model")
    assert model.scheme == SCHEMES["fp"]
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    found = measure(model, TokenFile(tmp_path / "run" / "data" / "held_out.tokens"), 16)
    assert found["zeros"] == dict.fromkeys(PROJECTIONS, 1.0)
    assert found["softmax_range"] == [0.0, 0.0]
    assert not any(module._forward_pre_hooks for module in model.modules())
