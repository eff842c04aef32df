"""A run that begins where another ended: A8 -> A4 as two runs, or float -> ternary."""

import shutil
from dataclasses import replace

import pytest
import torch

from onebit import models
from onebit.errors import MissingError, OptionError
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import checkpoint, metrics, recipe
from onebit.train.loop import train
from onebit.train.trainer import Trainer

A4 = Scheme("a4", {"body": LinearScheme("ternary", activation="int4_absmean")})


@pytest.fixture(scope="module")
def first(tiny_recipe, tmp_path_factory):
    """A finished run of 8-bit inputs."""
    folder = tmp_path_factory.mktemp("first") / "run"
    train(recipe.read(tiny_recipe), folder)
    return folder


@pytest.fixture
def second(tiny_recipe, first):
    return replace(recipe.read(tiny_recipe), scheme=A4, start_from=str(first))


def losses(run):
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl") if "loss" in line]


def adam_at_first_step(config, folder):
    """Return Adam's state by parameter name as the run's first step finds it."""
    found, real = {}, Trainer.step

    def step(trainer, *args):
        if not found:
            state = trainer.optimizer.state
            for name, weight in trainer.model.named_parameters():
                found[name] = {key: value.clone() for key, value in state[weight].items()}
        return real(trainer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        train(config, folder)
    return found


def test_weights_and_moments_go_on(first, second, tmp_path):
    found = adam_at_first_step(second, tmp_path / "second")
    stored = models.load(first / "model").state_dict()
    moments = checkpoint.safetensors.torch.load_file(
        first / "checkpoints" / "step-00000020" / "optimizer.safetensors"
    )
    assert found.keys() == stored.keys() - {"model.rope.inv_freq_P"}
    for name, state in found.items():
        assert int(state["step"]) == 20
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[moment], moments[f"{moment}.{name}"])
    assert losses(tmp_path / "second")[0] < losses(first)[0] - 0.5
    assert checkpoint.position(
        tmp_path / "second" / "checkpoints" / "step-00000020"
    ).adam_steps == 40  # fmt: skip


def test_interrupted_it_goes_on_to_the_bit(first, second, tmp_path, monkeypatch):
    train(second, tmp_path / "whole")
    calls, real = [], Trainer.step

    def step(trainer, *args):
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(trainer, *args)

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train(second, tmp_path / "run")
    train(second, tmp_path / "run")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_other_parameters_begin_anew(tiny_recipe, first, tmp_path):
    """Norms inside, which the first run had not: matrices are taken, norms and Adam are new."""
    scheme = SCHEMES["bitnet-b1.58-sub"]
    config = replace(recipe.read(tiny_recipe), scheme=scheme, start_from=str(first))
    found = adam_at_first_step(config, tmp_path / "run")
    assert all(state == {} for state in found.values())
    assert any(name.endswith("rms_norm.weight") for name in found)
    assert losses(tmp_path / "run")[0] < losses(first)[0] - 0.5


def test_learned_steps_begin_with_the_weights_taken(tiny_recipe, first, tmp_path):
    config = replace(recipe.read(tiny_recipe), scheme=SCHEMES["int8-lsq"], start_from=str(first))
    train(config, tmp_path / "run")
    assert losses(tmp_path / "run")[0] < losses(first)[0] - 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("hidden_size=64", r"another model\.hidden_size, model\.head_dim\. Weights go on"),
        ("num_attention_heads=4", r"another model\.num_attention_heads"),
        ("hidden_act=relu2", r"another model\.hidden_act"),
        ("held_out=every:3", r"another data\.held_out"),
        ("vocab_size=310", r"another data\.vocab_size"),
    ],
)  # fmt: skip
def test_another_model_or_text_is_refused(tiny_recipe, first, tmp_path, change, message):
    config = replace(recipe.read(tiny_recipe, [change]), start_from=str(first))
    with pytest.raises(OptionError, match=message) as caught:
        train(config, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "data").exists()


def test_no_run_or_half_a_run_is_refused(second, first, tmp_path):
    for there in (tmp_path / "nothing", tmp_path / "half"):
        config = replace(second, start_from=str(there))
        with pytest.raises(MissingError, match="holds no finished run with its checkpoints"):
            train(config, tmp_path / "run")
        shutil.copytree(first, tmp_path / "half", dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "half" / "checkpoints")
