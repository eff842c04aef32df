"""The optimizer against enumeration and against scipy's integer program."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebit.errors import OptionError
from onebit.ptq.mixed import Choice, choose


def items_of(sizes, costs):
    L, C = sizes.shape
    return {
        f"layer {i}": [Choice(str(c), int(sizes[i, c]), float(costs[i, c])) for c in range(C)]
        for i in range(L)
    }


def enumerated(items, budget):
    """Return (cost, bytes) of the best by trying all."""
    found = [
        (math.fsum(c.cost for c in all_of), sum(c.size_bytes for c in all_of))
        for all_of in itertools.product(*items.values())
    ]
    return min(pair for pair in found if pair[1] <= budget)


tables = st.lists(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 40)), min_size=1, max_size=4),
    min_size=1,
    max_size=6,
)


@given(tables, st.integers(0, 120))
def test_is_the_best_of_all(table, spare):
    items = {
        f"l{i}": [Choice(str(c), size, float(cost)) for c, (size, cost) in enumerate(row)]
        for i, row in enumerate(table)
    }
    least = sum(min(c.size_bytes for c in row) for row in items.values())
    found = choose(items, least + spare)
    assert (found.cost, found.size_bytes) == enumerated(items, least + spare)
    assert found.lower_bound <= found.cost + 1e-9
    assert list(found.choices) == list(items)


@pytest.mark.parametrize("seed", range(20))
def test_float_costs_against_enumeration(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 10_000, (8, 4))  # no common divisor: nothing but dominance helps
    costs = rng.lognormal(0, 3, (8, 4))
    items = items_of(sizes, costs)
    least = int(sizes.min(axis=1).sum())
    budget = least + int(rng.uniform(0, 1) * (int(sizes.max(axis=1).sum()) - least))
    assert choose(items, budget).cost == pytest.approx(enumerated(items, budget)[0], rel=1e-12)


@pytest.mark.parametrize("bits", [2.4, 3.0, 3.7])
def test_a_model_of_210_layers_against_an_integer_program(bits):
    """The shapes of a 30-layer model, costs falling fourfold per bit: the real case."""
    optimize = pytest.importorskip("scipy.optimize")
    rng = np.random.default_rng(int(bits * 10))
    shapes = [576 * 576, 192 * 576, 192 * 576, 576 * 576, *3 * [1536 * 576]] * 30
    widths = np.array([2, 3, 4, 5, 6])
    sizes = np.array([[n * (8 * b + 2) // 64 for b in widths] for n in shapes])
    costs = rng.lognormal(0, 2, (210, 1)) * 4.0**-widths * rng.uniform(0.5, 2, (210, 5))
    items = items_of(sizes, costs)
    budget = int(bits * sum(shapes) / 8)
    found = choose(items, budget)
    assert found.size_bytes <= budget

    one_each = np.kron(np.eye(210), np.ones(5))
    solved = optimize.milp(
        costs.ravel(),
        constraints=[
            optimize.LinearConstraint(one_each, 1, 1),
            optimize.LinearConstraint(sizes.reshape(1, -1) / 1e6, 0, budget / 1e6),
        ],
        integrality=np.ones(210 * 5),
        bounds=optimize.Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    assert found.cost == pytest.approx(solved.fun, rel=1e-7)
    assert found.lower_bound <= found.cost <= found.lower_bound * 1.001


def test_more_bytes_never_cost_more():
    rng = np.random.default_rng(1)
    items = items_of(rng.integers(1, 99, (12, 3)), rng.uniform(0, 1, (12, 3)))
    least = sum(min(c.size_bytes for c in row) for row in items.values())
    costs = [choose(items, least + extra).cost for extra in range(0, 600, 20)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(sum(min(c.cost for c in row) for row in items.values()))


def test_a_larger_and_worse_choice_is_never_taken():
    items = {"l": [Choice("a", 10, 1.0), Choice("b", 20, 1.0), Choice("c", 30, 2.0)]}
    assert choose(items, 100).choices["l"].name == "a"


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match="smallest choices take 30"):
        choose({"a": [Choice("x", 10, 0.0)], "b": [Choice("x", 20, 0.0)]}, 29)
    with pytest.raises(OptionError, match="b has no choice"):
        choose({"a": [Choice("x", 1, 0.0)], "b": []}, 9)
    with pytest.raises(OptionError, match="a as x takes 1 bytes and costs nan"):
        choose({"a": [Choice("x", 1, math.nan)]}, 9)
