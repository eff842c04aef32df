"""Learning rates and weight decay, at the points where they matter."""

import math

import pytest

from onebit.train.config import ScheduleConfig
from onebit.train.schedule import rates


def test_two_stage_is_the_papers():
    """BitNet b1.58 at 700M: 1.5e-3, later 1e-3, each on a line to zero; decay 0.1, then 0."""
    schedule = ScheduleConfig(lr=1.5e-3, warmup=0.0)
    assert rates(0.0, schedule) == (1.5e-3, 0.1)
    assert rates(0.4, schedule) == (pytest.approx(0.9e-3), 0.1)
    assert rates(0.5, schedule) == (pytest.approx(0.5e-3), 0.0)
    assert rates(0.9, schedule) == (pytest.approx(0.1e-3), 0.0)
    assert rates(1.0, schedule).lr == 0


def test_two_stage_takes_another_second_peak():
    schedule = ScheduleConfig(lr=2e-3, lr_second=1.8e-3)
    assert rates(0.75, schedule).lr == pytest.approx(0.45e-3)


def test_cosine():
    schedule = ScheduleConfig(lr=1.0, kind="cosine", warmup=0.0)
    assert [rates(p, schedule).lr for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert rates(0.25, schedule).lr == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert rates(0.99, schedule).weight_decay == 0.1


def test_cosine_halved():
    """MatMul-free LM: the cosine's rates, from half-way on half of them; decay throughout."""
    whole, halved = (ScheduleConfig(lr=4e-3, kind=k) for k in ("cosine", "cosine_halved"))
    assert rates(0.49, halved) == rates(0.49, whole)
    for p in (0.5, 0.7, 1.0):
        assert rates(p, halved) == (rates(p, whole).lr / 2, 0.1)


def test_constant():
    schedule = ScheduleConfig(lr=0.01, kind="constant", weight_decay=0.2, warmup=0.0)
    assert {rates(p / 10, schedule) for p in range(11)} == {(0.01, 0.2)}


@pytest.mark.parametrize("kind", ["two_stage", "cosine", "cosine_halved", "constant"])
def test_warm_up_rises_in_a_straight_line_and_meets_the_schedule(kind):
    warm, plain = (ScheduleConfig(lr=0.01, kind=kind, warmup=w) for w in (0.1, 0.0))
    assert rates(0.0, warm).lr == 0
    assert rates(0.05, warm).lr == pytest.approx(rates(0.05, plain).lr / 2)
    assert rates(0.1, warm) == rates(0.1, plain)
    assert rates(0.7, warm) == rates(0.7, plain)
