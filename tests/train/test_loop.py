"""The loop on a tiny model: the same every time, golden, and careful about its folder."""

import json
from pathlib import Path

import pytest
import torch

from onebit import models
from onebit.errors import FileError, FormatError, OptionError
from onebit.train import metrics, recipe
from onebit.train.folder import claim
from onebit.train.loop import train
from onebit.train.progress import Plain

GOLDEN = Path(__file__).with_name("golden_loss.json")


@pytest.fixture
def config(tiny_recipe):
    return recipe.read(tiny_recipe)


def losses(run):
    return [line["loss"] for line in metrics.read(run / "metrics.jsonl") if "loss" in line]


def test_losses_are_the_golden_ones(config, tmp_path):
    """Runs are equal to the bit on one machine (test_resume); another CPU rounds sums otherwise.

    After a change that is meant to change the losses: delete golden_loss.json and run this twice.
    """
    result = train(config, tmp_path / "run")
    found = losses(tmp_path / "run")
    assert len(found) == 20
    assert result.train_loss == found[-1] < found[0] - 0.5
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
        pytest.fail("golden_loss.json was missing and has been written; read it and run again")
    assert found == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-5)


def test_what_a_run_leaves(config, tmp_path, tiny_recipe):
    run = tmp_path / "run"
    result = train(config, run)
    assert (result.steps, result.tokens) == (20, 20 * 2 * 2 * 16)
    assert recipe.read(run / "recipe.toml") == config
    assert recipe.read(run / "model" / "recipe.toml") == config
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = models.load(run / "model")
    assert model.scheme == config.scheme
    assert sum(weight.numel() for weight in model.parameters()) == result.parameters
    measured = [line for line in metrics.read(run / "metrics.jsonl") if "windows" in line]
    assert [(line["step"], line["windows"]) for line in measured] == [(10, 2), (20, "all")]
    assert measured[-1]["held_out_bits_per_byte"] == result.held_out_bits_per_byte
    assert 0 < result.held_out_bits_per_byte < 8
    assert train(config, run) == result  # finished: told again, not trained again


def test_another_recipe_is_refused(config, tmp_path, tiny_recipe):
    train(config, tmp_path / "run")
    other = recipe.read(tiny_recipe, ["lr=1e-3", "seed=1"])
    with pytest.raises(OptionError, match=r"holds a run with another schedule\.lr, seed\. Choose"):
        train(other, tmp_path / "run")


def test_a_run_that_came_to_nothing_gives_way(config, tiny_recipe, tmp_path):
    wrong = recipe.read(tiny_recipe, ["data.source=no/such/text"])
    with pytest.raises(FileError, match="no/such/text"):
        train(wrong, tmp_path / "run")
    assert train(config, tmp_path / "run").steps == 20


def test_a_folder_of_something_else_is_refused(config, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OptionError, match="not empty, and not a training run"):
        train(config, tmp_path)


def test_two_processes_do_not_share_a_folder(config, tmp_path):
    with (
        claim(tmp_path / "run", config),
        pytest.raises(FileError, match="another process is training here"),
    ):
        train(config, tmp_path / "run")
    with claim(tmp_path / "run", config):
        pass  # free again


def test_bf16_learns_as_well_as_fp32(tiny_recipe, tmp_path):
    for precision in ("fp32", "bf16"):
        train(recipe.read(tiny_recipe, [f"precision={precision}"]), tmp_path / precision)
    fp32, bf16 = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert fp32 != bf16
    assert bf16 == pytest.approx(fp32, rel=0.03)


def test_accumulation_is_a_larger_batch(tiny_recipe, tmp_path):
    for name, size in (
        ("parts", ["batch=2", "accumulate=2"]),
        ("whole", ["batch=4", "accumulate=1"]),
    ):
        train(recipe.read(tiny_recipe, ["scheme=fp", *size]), tmp_path / name)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_minutes_end_by_the_clock(tiny_recipe, tmp_path):
    text = tiny_recipe.read_text().replace("steps = 20", "max_minutes = 0.01")
    path = tmp_path / "clock.toml"
    path.write_text(text)
    result = train(recipe.read(path), tmp_path / "run")
    assert result.steps > 0
    assert result.time_s >= 0.6
    rates = [
        line["lr"] for line in metrics.read(tmp_path / "run" / "metrics.jsonl") if "lr" in line
    ]
    assert rates[-1] < 0.1 * max(rates)  # the schedule came to its end with the clock


def test_divergence_is_named(tiny_recipe, tmp_path):
    config = recipe.read(tiny_recipe, ["lr=1", "clip=1e6", "scheme=fp", "kind=constant"])
    broken = models.build

    def build(*args):
        model = broken(*args)
        torch.nn.init.constant_(model.model.norm.weight, float("inf"))
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "build", build)
        with pytest.raises(
            OptionError, match=r"training diverged .*Lower schedule\.lr, which is 1"
        ):
            train(config, tmp_path / "run")


def test_a_damaged_result_is_measured_again(config, tmp_path):
    result = train(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(FormatError, match=r"result\.json: damaged .*Remove it to measure again"):
        train(config, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    assert train(config, tmp_path / "run") == result


def test_a_damaged_metrics_file_is_named(config, tmp_path):
    run = tmp_path / "run"
    train(config, run)
    (run / "result.json").unlink()
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(FormatError, match=r"metrics\.jsonl: has 0 bytes, the checkpoint remembers"):
        train(config, run)


def test_plain_progress_is_lines(config, tmp_path, capsys):
    import sys

    train(config, tmp_path / "run", Plain(sys.stderr))
    told = capsys.readouterr().err.splitlines()
    assert any(" tokens/s  0:0" in line and "loss" in line for line in told)
    assert any("held-out text" in line and "bits per byte" in line for line in told)
