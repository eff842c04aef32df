"""The benchmark of writing after long contexts: what it reports, and that a wrong engine is not
timed."""

import json

import numpy as np
import pytest

from benchmarks import matmulfree_context as benchmark
from onebit.errors import OnebitError
from onebit.eval import shapes

TINY = "--shape matmulfree-tiny --contexts 300,20 --tokens 3 --rounds 2 --threads 1 --body t1_6"


def test_memory_of_a_state_is_flat_and_that_of_keys_and_values_grows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["", *TINY.split(), "--save", str(tmp_path)])
    benchmark.main()
    assert "a sequence, MB" in capsys.readouterr().out
    assert (tmp_path / "matmulfree-context-matmulfree-tiny.png").stat().st_size > 1000
    text = (tmp_path / "matmulfree-context-matmulfree-tiny.json").read_text("utf-8")
    points = json.loads(text)["points"]
    state, short, long = (
        [p["sequence_bytes"] for p in points if (p["model"], p["context"]) in wanted]
        for wanted in (
            [("MatMul-free", 20), ("MatMul-free", 300)],
            [("transformer", 20)],
            [("transformer", 300)],
        )
    )
    assert state == [2 * 256 * 4] * 2
    assert long[0] > 4 * short[0] > 4 * state[0]
    weights = {p["memory_bytes"] for p in points}
    assert len(weights) == 1  # equal size, to the byte
    assert all(len(p["rounds_tokens_per_s"]) == 2 for p in points)


def test_both_models_have_the_same_matrices():
    sizes = [
        sorted((linear.N, linear.K) for linear in shapes.linears(shape))
        for shape, _ in benchmark.pair(shapes.find("matmulfree-2.7b")).values()
    ]
    state, twin = ([N * K for N, K in size] for size in sizes)
    assert sum(state) == sum(twin)


def test_a_place_that_goes_on_otherwise_is_not_timed(monkeypatch):
    def wrong(place, tokens):
        return [1], np.random.default_rng().standard_normal(4), 1.0

    monkeypatch.setattr(benchmark.Place, "write", wrong)
    monkeypatch.setattr("sys.argv", ["", *TINY.split()])
    with pytest.raises(OnebitError, match="MatMul-free: 3 tokens after 20 are not the same"):
        benchmark.main()
