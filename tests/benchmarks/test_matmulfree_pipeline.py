"""`make results-matmulfree` from end to end: two arms of a tiny model, to the page, and again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.bitnet import job, plan, run, store
from benchmarks.bitnet.arms import Run
from benchmarks.matmulfree import page
from benchmarks.matmulfree.arms import ARMS, CHANNEL, FAMILIES, GROUPS, MIXER, RATES, Setup
from benchmarks.matmulfree.run import main

from onebit import tensors
from onebit.scheme import role_of
from onebit.train import recipe
from onebit.train.config import DataConfig, OptimConfig


@pytest.fixture
def tiny(text_folder):
    """Two arms on a text of a few kilobytes, ten steps each, one learning rate."""
    whole = Setup()
    return replace(
        whole,
        tokens=10 * 32,
        data=DataConfig(source=text_folder, held_out="every:4", vocab_size=300, context=16),
        model=replace(
            whole.model,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=1,
        ),
        optim=OptimConfig(batch=2),
        arms=("transformer", "matmulfree"),
        seeds=(0,),
        rates=(8e-3,),
    )


def test_from_nothing_to_a_page_of_matmulfree_models(tiny, tmp_path):
    out = tmp_path / "runs"
    run.everything(out, tiny, workers=0)
    names = {folder.name for folder in out.glob("*-seed*")}
    assert names == {"transformer-lr0.008-seed0", "matmulfree-lr0.008-seed0"}
    for name in names:
        seen = json.loads((out / name / "measures" / "packed.json").read_text())
        assert seen["verified"]
        assert seen["engine"] == pytest.approx(seen["torch"], abs=1e-3)
    assert page.write(out, tiny, tmp_path) == str(tmp_path / "matmulfree.md")
    text = (tmp_path / "matmulfree.md").read_text()
    assert "| `matmulfree` | MatMul-free, all ternary, the head too |" in text
    assert "`mixer` was not run." in text
    assert (tmp_path / "matmulfree" / "loss.png").stat().st_size > 1000
    numbers = json.loads((tmp_path / "matmulfree" / "numbers.json").read_text())
    score = store.score(out, store.parse("matmulfree-lr0.008-seed0", ARMS))
    assert numbers["arms"]["matmulfree"]["mean"] == pytest.approx(score, rel=1e-6)
    sizes = [arm["parameters"] for arm in numbers["arms"].values()]
    assert max(sizes) < 1.03 * min(sizes)
    made = {name: (out / name / "result.json").stat().st_mtime_ns for name in names}
    run.everything(out, tiny, workers=0)
    assert {name: (out / name / "result.json").stat().st_mtime_ns for name in names} == made


def test_every_arm_of_matmulfree_models_is_another_and_has_a_rate():
    setup = Setup()
    texts = {recipe.write(setup.config(Run(arm, 4e-3, 0))) for arm in ARMS.values()}
    assert len(texts) == len(ARMS)
    assert all(arm.group in GROUPS and arm.family in FAMILIES for arm in ARMS.values())
    assert set(FAMILIES.values()) <= set(ARMS)
    tuned = plan.tuning_runs(setup, {})
    assert len(tuned) == len(FAMILIES) * len(RATES)
    named = {name for pairs in page.QUESTIONS for pair in pairs[1] for name in pair}
    assert named | set(page.CURVES) <= set(ARMS)


def test_weights_are_equal_and_what_is_ternary_is_what_the_arm_says():
    sizes, ternary = {}, {}
    for name, arm in ARMS.items():
        config = Setup().config(Run(arm, 4e-3, 0))
        a = config.model.architecture(1024, 256, None, (), config.scheme)
        shapes = tensors.shapes(a, config.scheme)
        linears = [tensor.removesuffix(".weight") for tensor in shapes]
        sizes[name] = sum(rows * columns for rows, columns in map(matrix, shapes.values()))
        ternary[name] = {role_of(n) for n in linears if config.scheme.linear(n).weight == "ternary"}
    assert max(sizes.values()) < 1.01 * min(sizes.values())
    ternary = {name: roles - {""} for name, roles in ternary.items()}
    assert ternary["float"] == ternary["transformer"] == set()
    assert ternary["mixer"] == set(MIXER)
    assert ternary["channel"] == set(CHANNEL)
    assert ternary["both"] == {*MIXER, *CHANNEL}
    assert ternary["matmulfree"] == {*MIXER, *CHANNEL, "head"}


def matrix(shape):
    """Rows and columns; a vector is one row."""
    return shape if len(shape) == 2 else (1, shape[0])


def test_a_job_of_another_comparison_goes_over_a_line():
    setup = Setup(tokens=5, arms=("paper",), seeds=(1,), rates=(1e-3,))
    given = (Path("runs/x"), setup, Run(ARMS["paper"], 8e-3, 1), True)
    found = job.from_line(job.to_line(*given))
    assert found == given
    assert type(found[1]) is Setup


def test_an_unknown_arm_of_matmulfree_models_is_one_line(tmp_path, capsys):
    assert main(["--arms", "b1", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("'b1' is not an arm. Known: transformer,")
