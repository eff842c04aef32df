"""Stages: another scheme on the way, the same weights and moments, exact after an interruption."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from onebit import models, nn
from onebit.errors import OptionError
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import metrics, recipe
from onebit.train.config import BudgetConfig
from onebit.train.loop import train
from onebit.train.stages import StageConfig, current
from onebit.train.trainer import Trainer

A4 = Scheme("a4", {"body": LinearScheme("ternary", activation="int4_absmean")})
TWO = [StageConfig(SCHEMES["bitnet-b1.58"], until=0.5)]


@pytest.fixture(scope="module")
def config(tiny_recipe):
    """8-bit inputs for steps 1 to 10, 4-bit ones for 11 to 20; a checkpoint every 5."""
    return replace(recipe.read(tiny_recipe), scheme=A4, stages=tuple(TWO))


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """The run, never interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    train(config, run)
    return run


def numbers(run):
    """Everything in metrics.jsonl but the clock."""
    lines = metrics.read(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key != "time_s"} for line in lines]


def losses(run):
    return [line["loss"] for line in numbers(run) if "loss" in line]


def watch(monkeypatch, stop=None):
    """Return a list that gets (scheme, steps of Adam, moments finite) of each step; stop there."""
    seen, real = [], Trainer.step

    def step(trainer, *args):
        state = trainer.optimizer.state
        counts = {int(entry["step"]) for entry in state.values()}
        seen.append((trainer.model.scheme.name, counts))
        if len(seen) == stop:
            raise KeyboardInterrupt
        return real(trainer, *args)

    monkeypatch.setattr(Trainer, "step", step)
    return seen


def test_the_scheme_changes_and_adam_does_not_notice(config, tmp_path, monkeypatch):
    seen = watch(monkeypatch)
    train(config, tmp_path / "run")
    assert [name for name, _ in seen] == ["bitnet-b1.58"] * 10 + ["a4"] * 10
    assert [counts for _, counts in seen] == [set()] + [{step} for step in range(1, 20)]
    lines = [line for line in numbers(tmp_path / "run") if "scheme" in line]
    said = [(line["step"], line["scheme"]) for line in lines]
    assert said == [(0, "bitnet-b1.58"), (10, "a4")]
    one = replace(config, scheme=SCHEMES["bitnet-b1.58"], stages=())
    train(one, tmp_path / "one")
    assert losses(tmp_path / "run")[:10] == losses(tmp_path / "one")[:10]
    assert losses(tmp_path / "run")[10] != losses(tmp_path / "one")[10]


def test_a_stage_of_the_same_rules_changes_nothing(config, tmp_path):
    """To the bit: weights, moments and their step count go through the conversion untouched."""
    same = replace(config, stages=(StageConfig(replace(A4, name="other"), until=0.5),))
    train(same, tmp_path / "two")
    train(replace(config, stages=()), tmp_path / "one")
    assert losses(tmp_path / "two") == losses(tmp_path / "one")


def test_conversion_keeps_parameters_and_moments(config, tmp_path, monkeypatch):
    """The same objects before and after: nothing is copied that Adam knows under another name."""
    converted, real = [], nn.convert

    def convert(model, scheme, eps):
        before = dict(model.named_parameters())
        real(model, scheme, eps)
        after = dict(model.named_parameters())
        assert before.keys() == after.keys()
        assert all(before[name] is after[name] for name in before)
        converted.append(scheme.name)
        return model

    monkeypatch.setattr(nn, "convert", convert)
    train(config, tmp_path / "run")
    assert converted == ["bitnet-b1.58", "a4"]  # to the first stage, and at its end


@pytest.mark.parametrize("stop", [8, 11, 12, 18], ids=["before", "at", "just after", "after"])
def test_interrupted_and_continued(config, whole, tmp_path, stop):
    with pytest.MonkeyPatch.context() as patch:
        watch(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        seen = watch(patch)
        train(config, tmp_path / "run")
    first = (stop - 1) // 5 * 5
    assert [counts for _, counts in seen] == [{step} for step in range(first, 20)]
    assert numbers(tmp_path / "run") == numbers(whole)


def test_stages_follow_the_clock(config, tmp_path):
    by_clock = replace(config, budget=BudgetConfig(max_minutes=0.01))
    train(by_clock, tmp_path / "run")
    said = [line["scheme"] for line in numbers(tmp_path / "run") if "scheme" in line]
    assert said == ["bitnet-b1.58", "a4"]
    assert models.load(tmp_path / "run" / "model").scheme == A4


def test_stages_come_back_from_toml(config):
    custom = replace(config, stages=(*TWO, StageConfig(replace(A4, kv_bits=8), until=0.75)))
    text = recipe.write(custom)
    assert text.count("[[stages]]") == 2
    assert recipe.from_dict(tomllib.loads(text)) == custom
    assert recipe.differences(custom, config) == [
        name for name in recipe.differences(custom, config) if name.startswith("stages.1.")
    ]
    shorter = replace(custom, stages=(TWO[0], replace(custom.stages[1], until=0.8)))
    assert recipe.differences(custom, shorter) == ["stages.1.until"]


def test_overrides_reach_into_stages(tiny_recipe):
    two = 'stages=[{until=0.5, scheme="fp"}, {until=0.8, scheme="bitnet-b1.58"}]'
    config = recipe.read(tiny_recipe, [two, "stages.1.until=0.9"])
    assert [stage.until for stage in config.stages] == [0.5, 0.9]


def test_one_stage_of_a_recipe_by_itself():
    """As docs/train.md runs BitNet v2's stages one by one."""
    path = Path(__file__).parents[2] / "recipes" / "bitnet-v2.toml"
    assert [stage.scheme.name for stage in recipe.read(path).stages] == ["bitnet-v2-a8"]
    alone = recipe.read(path, ["stages=[]", "scheme=bitnet-v2-a8"])
    assert (alone.stages, alone.scheme.name) == ((), "bitnet-v2-a8")


def test_the_stage_of_a_moment():
    stages = [StageConfig(A4, until=0.5), StageConfig(A4, until=0.75)]
    assert [current(at, stages) for at in (0, 0.49, 0.5, 0.74, 0.75, 1)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages=5", r"stages is 5; accepted: tables \[\[stages\]\]"),
        ("stages={until=0.5}", r"accepted: tables \[\[stages\]\]"),
        ("stages=[3]", r"stages\.0 is 3; accepted: a table"),
        ('stages=[{until=0.5, scheme="x"}]', "'x' is not a scheme"),
        ('stages=[{scheme="fp"}]', r"stages\.0\.until is missing"),
        ("stages=[{until=0.5}]", r"stages\.0\.scheme is missing"),
        ('stages=[{until=1.5, scheme="fp"}]', r"stages\.until is 1\.5; accepted: a number from"),
        ('stages=[{until=1, scheme="fp"}]', r"stages\.until is 1\.0; accepted"),
        ('stages=[{until=0, scheme="fp"}]', r"stages\.until is 0\.0; accepted"),
        ('stages=[{until=0.5, scheme="fp", lr=1}]', r"stages\.0\.lr is not a setting\. Accepted:"),
        (
            'stages=[{until=0.6, scheme="fp"}, {until=0.5, scheme="fp"}]',
            r"stages\.1\.until is 0\.5, and the stage before it ends at 0\.6",
        ),
        ('stages=[{until=0.01, scheme="fp"}]', r"stages\.0 has no step of its own in a run of 20"),
        ('stages=[{until=0.99, scheme="fp"}]', "the scheme after the last stage has no step"),
        ("stages.0.until=0.5", r"stages\.until|stages is"),
    ],
)  # fmt: skip
def test_bad_use(tiny_recipe, override, message):
    with pytest.raises(OptionError, match=message) as caught:
        recipe.read(tiny_recipe, [override])
    assert "\n" not in str(caught.value)


def test_an_override_of_a_stage_that_is_not_there(tiny_recipe):
    two = ['stages=[{until=0.5, scheme="fp"}]', "stages.1.until=0.9"]
    with pytest.raises(OptionError, match="'1' is none of the 1 tables; they count from 0"):
        recipe.read(tiny_recipe, two)


NORMS = Scheme("norms", {"body": LinearScheme("ternary", activation="int8_absmax", norm="rms")})
INT4 = LinearScheme("int4", "lsq", weight_scale="row", activation="int8_absmax")


@pytest.mark.parametrize(
    ("stage", "last", "message"),
    [
        (NORMS, A4, r"the same parameters, and model\.layers\.0\.mlp\.down_proj\.rms_norm"),
        (SCHEMES["int4-lsq"], A4, r"\.step is in one only"),
        (
            SCHEMES["int4-lsq"],
            Scheme("tensor", {"body": replace(INT4, weight_scale="tensor")}),
            r"\.step is in one only or of another shape",
        ),
        (SCHEMES["int8-lsq"], SCHEMES["int4-lsq"], "learn steps of other weights"),
    ],
)  # fmt: skip
def test_other_parameters_are_refused_before_the_text(tiny_recipe, tmp_path, stage, last, message):
    config = replace(recipe.read(tiny_recipe), scheme=last, stages=(StageConfig(stage, until=0.5),))
    with pytest.raises(OptionError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "data").exists()
