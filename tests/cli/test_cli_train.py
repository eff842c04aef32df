"""`onebit train`: a result on stdout, one line and exit code 1 for what cannot be done."""

import json

import pytest
from click.testing import CliRunner

from onebit.cli import main
from onebit.scheme import SCHEMES, LinearScheme, Scheme
from onebit.train import loop


def onebit(*args):
    return CliRunner().invoke(main, ["train", *map(str, args)])


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "text").mkdir()
    for number in range(4):
        (tmp_path / "text" / f"{number}.txt").write_text("one people, one union. " * 60)
    path = tmp_path / "small.toml"
    path.write_text(
        f"""
        precision = "fp32"
        threads = 1
        [model]
        hidden_size = 16
        intermediate_size = 32
        num_hidden_layers = 1
        num_attention_heads = 2
        [data]
        source = "{tmp_path / "text"}"
        held_out = "every:4"
        vocab_size = 280
        context = 8
        [optim]
        batch = 2
        [schedule]
        lr = 1e-2
        [budget]
        steps = 3
        """
    )
    return path


def test_trains_and_prints_json(recipe, tmp_path):
    done = onebit(recipe, "--set", "steps=2", "--out", tmp_path / "run", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["steps"], result["scheme"]) == (2, "fp")
    assert "held-out text" in done.stderr
    assert (tmp_path / "run" / "model" / "tokenizer.json").is_file()


def test_runs_go_to_runs_by_default_and_print_a_line(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = onebit(recipe, "--set", "scheme=bitnet-b1.58")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("runs/small/model: bitnet-b1.58, ")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "lr=-1"], "schedule.lr is -1.0; accepted: a number from 1e-09 to 1."),
        (["--set", "nonsense=1"], "nonsense is not a setting. Accepted: "),
        (["--set", "scheme=b2"], "'b2' is not a scheme. Known: "),
        (["--set", "source=nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_cannot_be_used_is_one_line(recipe, tmp_path, args, message):
    done = onebit(recipe, *args, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "num_attention_heads=3"], "hidden_size 16 is no multiple of 3 heads"),
        (["--set", "num_key_value_heads=4"], "2 attention heads do not divide among 4"),
        (["--set", "head_dim=3"], "head_dim is 3; RoPE needs an even one"),
        (["--set", "max_position_embeddings=4"], "data.context is 8 and model.max_position"),
        (["--set", "hidden_size=200000"], "hidden_size is 200000; it must be"),
        (["--set", "scheme=GROUPS"], "24"),
        (["--set", "scheme=HEAD"], "the head shares the embedding's weights"),
    ],
)
def test_sizes_that_do_not_fit_are_found_before_the_text_is_read(
    recipe, tmp_path, monkeypatch, args, message
):
    schemes = {
        "GROUPS": Scheme("g24", {"body": LinearScheme("ternary", weight_scale="group:24")}),
        "HEAD": Scheme("h", {"head": LinearScheme("ternary")}),
    }
    for name, scheme in schemes.items():
        monkeypatch.setitem(SCHEMES, name, scheme)

    def read(*_):
        raise AssertionError("the text was read")

    monkeypatch.setattr(loop, "prepare", read)
    done = onebit(recipe, *args, "--out", tmp_path / "run")
    assert done.exit_code == 1, done.exception
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_unknown_recipe_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = onebit("demo-tertiary")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "Error: demo-tertiary: no such recipe. Name a .toml file.\n"
