"""The plan of `make results-bitnet`: which runs are wanted, from what is finished."""

import io
import math
from pathlib import Path

import pytest
from benchmarks.bitnet import compare, job, plan, store
from benchmarks.bitnet.arms import ARMS, FAMILIES, GROUPS, RATES, Run, Setup
from benchmarks.bitnet.progress import Line, describe, left_s

from onebit.train import recipe


def scored(setup, of):
    """All runs that come to be wanted, scored by a function of arm and rate."""
    scores = {}
    while True:
        wanted = plan.tuning_runs(setup, scores) + plan.final_runs(setup, scores)
        left = [run for run in wanted if run.name not in scores]
        if not left:
            return scores
        assert plan.count(setup, scores) >= len(scores)
        scores |= {run.name: of(run) for run in left}


def test_every_arm_has_a_recipe_of_its_own():
    setup = Setup()
    for arm in ARMS.values():
        assert arm.group in GROUPS
        assert arm.family in FAMILIES
        config = setup.config(Run(arm, 4e-3, 0))
        assert recipe.differences(config, setup.config(Run(arm, 4e-3, 1))) == ["seed"]
        assert config.steps == setup.tokens // 1024
    texts = [recipe.write(setup.config(Run(arm, 4e-3, 0))) for arm in ARMS.values()]
    assert len(set(texts)) == len(ARMS)


def test_names_are_read_back():
    run = Run(ARMS["b1.58-sub"], 8e-3, 2)
    assert run.name == "b1.58-sub-lr0.008-seed2"
    assert store.parse(run.name) == run
    assert store.parse("no-arm-lr0.008-seed2") is None
    assert store.parse("text") is None


def test_a_job_goes_over_a_line():
    setup = Setup(tokens=5, arms=("b1",), seeds=(1,), rates=(1e-3,))
    given = (Path("runs/x"), setup, Run(ARMS["b1"], 8e-3, 1), True)
    line = job.to_line(*given)
    assert "\n" not in line
    assert job.from_line(line) == given
    assert job.answer('{"error": "e"}') == "e"
    assert job.answer("{}") is None


def test_final_runs_wait_for_their_family():
    setup = Setup(arms=("float", "v2-a4"))
    assert [run.name for run in plan.tuning_runs(setup, {})] == [
        f"{arm}-lr{lr:g}-seed0" for arm in ("float", "v2-a8") for lr in RATES
    ]
    assert plan.final_runs(setup, {}) == []
    scores = {f"float-lr{lr:g}-seed0": abs(lr - 4e-3) for lr in RATES}
    assert [run.name for run in plan.final_runs(setup, scores)] == [
        f"float-lr0.004-seed{seed}" for seed in setup.seeds
    ]


@pytest.mark.parametrize(
    ("best", "tried"),
    [(4e-3, 3), (2e-3, 4), (1e-3, 5), (5e-4, 5), (8e-3, 4), (3.2e-2, 5), (1.0, 5)],
)
def test_the_search_goes_on_at_an_end(best, tried):
    setup = Setup(arms=("float",))
    scores = scored(setup, lambda run: abs(math.log(run.lr / best)))
    assert len({name for name in scores if name.endswith("seed0")}) == tried
    found = plan.tuning("float", setup, scores)[1]
    assert found == min(max(best, 5e-4), 3.2e-2)


def test_a_rate_that_diverges_is_not_chosen():
    setup = Setup(arms=("float",))
    scores = scored(setup, lambda run: math.inf if run.lr > 3e-3 else run.lr)
    assert plan.tuning("float", setup, scores)[1] < 3e-3


def test_count_is_right_at_the_end():
    setup = Setup()
    scores = scored(setup, lambda run: abs(run.lr - 4e-3))
    assert plan.count(setup, scores) == len(scores)
    assert plan.count(setup, {}) == len(scores)


def numbers_of(**arms):
    return {
        "setup": {"bytes_per_token": 2.0},
        "arms": {
            name: {
                "bits_per_byte": {str(i): value for i, value in enumerate(values)},
                "diverged": sum(value is None for value in values),
            }
            for name, values in arms.items()
        },
    }


def test_arms_are_compared_seed_by_seed():
    numbers = numbers_of(a=[1.5, 1.7, 1.6], b=[1.4, 1.6, 1.49], c=[1.6, 1.5, 1.7], d=[1.5, None, 1])
    found = compare.difference(numbers, "a", "b")
    assert found.clear
    assert found.mean == pytest.approx(0.31 / 3)
    assert not compare.difference(numbers, "a", "c").clear
    assert compare.difference(numbers, "a", "d") is None
    assert compare.difference(numbers, "a", "e") is None
    assert "`a` is worse than `b`: +0.1033 bits per byte (+0.1433 nats" in compare.verdict(
        numbers, "a", "b"
    )
    assert "cannot be told apart" in compare.verdict(numbers, "a", "c")
    assert compare.verdict(numbers, "a", "d") == "`d` diverged in 1 of 3 runs."
    assert compare.verdict(numbers, "e", "a") == "`e` was not run."
    assert compare.verdict(numbers_of(a=[1.0], b=[2.0]), "a", "b").endswith("one seed.")


def test_progress_says_what_is_left():
    assert left_s(60.0, 2.0, 10.0) == 300.0
    assert left_s(60.0, 0.0, 10.0) is None
    assert describe(5400.0) == "1:30 h"
    stream = io.StringIO()
    Line(stream).show(3, 12, {"float-lr0.004-seed0": 0.5}, 1)
    text = "3 of 12 runs, 29%, some time left  float-lr0.004-seed0 50%  measuring\n"
    assert stream.getvalue() == text
