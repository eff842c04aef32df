"""From measured costs and a budget to a plan."""

import itertools
import math

import pytest

from onebit.errors import OptionError
from onebit.ptq import budget, plan
from onebit.ptq.sensitivity import Entry, Sensitivity

WORDS = {"w2a16-g64": 2.28125, "w3a16-g64": 3.3125, "w4a16-g64": 4.3125}
LAYERS = [f"model.layers.{i}.mlp.{name}_proj" for i in range(2) for name in ("up", "down")]


def table():
    return Sensitivity(
        [
            Entry(layer, word, (8, 64), int(bits * 64), 0.5, 0.25, 1.0, weight * 4.0 ** -int(bits))
            for layer, weight in zip(LAYERS, (1, 40, 5, 90), strict=True)
            for word, bits in WORDS.items()
        ]
    )


def test_the_plan_is_the_best_that_fits(tmp_path):
    for bits in (2.3, 2.8, 3.0, 3.31, 3.9, 8):
        allowed = budget.bytes_of_bits(bits, table())
        made, found = budget.plan(table(), allowed)
        ways = itertools.product(*table().of_layers().values())
        best = min(
            sum(e.fisher for e in way) for way in ways if sum(e.size_bytes for e in way) <= allowed
        )
        assert found.cost == pytest.approx(best)
        assert found.size_bytes <= allowed
        assert dict(made.layers) == {name: choice.name for name, choice in found.choices.items()}
        made.write(tmp_path / "p.toml", budget.comments(table(), found))
        assert plan.read(tmp_path / "p.toml") == made
        assert sum(budget.shares(found).values()) == 4


def test_the_layer_that_suffers_gets_the_bits():
    made, _ = budget.plan(table(), budget.bytes_of_bits(3.3, table()))
    assert made.layers[LAYERS[3]] == "w4a16-g64"
    assert made.layers[LAYERS[0]] == "w2a16-g64"


def test_a_measure_that_was_not_taken_is_refused():
    with pytest.raises(OptionError, match=r"'loss' of .* was not measured"):
        budget.plan(table(), 10**6, by="loss")
    with pytest.raises(OptionError, match="smallest choices take"):
        budget.plan(table(), 10)


@pytest.mark.parametrize(
    ("text", "size"),
    [("60MB", 60_000_000), ("1.5 GiB", 3 << 29), ("123", 123), ("2kb", 2000), (" 7 b ", 7)],
)
def test_sizes(text, size):
    assert budget.read_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "1e9", "60 XB", "6 0MB", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(OptionError, match="is no size"):
        budget.read_size(text)


def test_bits_count_every_weight():
    assert budget.weights_of(table()) == 4 * 512
    assert budget.bytes_of_bits(3.5, table()) == 896
    for bits in (0, -1, math.nan, 33):
        with pytest.raises(OptionError, match="a mean of"):
            budget.bytes_of_bits(bits, table())
