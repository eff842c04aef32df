"""Learning rate and weight decay as pure functions of how far a run has come.

`progress` is the share of the run that is done at the middle of a step, 0 < progress < 1. For a
run of S steps it is (step + 1/2) / S; for a run by the clock it is the elapsed share of the time.
Either way the schedule reaches its end when the run does.

BitNet b1.58 trains in two stages. The learning rate falls on a straight line that would reach zero
at the end of the run; half-way it drops to the line of a lower peak, and weight decay ends. Weight
decay shrinks the float weights behind the codes, and a small weight changes its code easily: that
helps to explore first, and is in the way of settling later. Most of the loss is gained in the
second half.

MatMul-free language models fall on half a cosine, which is halved half-way, from a peak 5 to 13
times that of a transformer: 4e-3 at 370M parameters, 2.5e-3 at 1.3B, 1.5e-3 at 2.7B, beside 3e-4.

Sources: "The Era of 1-bit LLMs: Training Tips, Code and FAQ", BitNet, and BitNet b1.58,
https://arxiv.org/abs/2402.17764 (sizes and rates: 1.5e-3 then 1e-3 at 700M parameters, 1.2e-3 then
8e-4 from 1.3B on; weight decay 0.1 then 0); MatMul-free LM, https://arxiv.org/abs/2406.02528.
"""

import math
from typing import NamedTuple

from onebit.train.config import ScheduleConfig


class Rates(NamedTuple):
    """What the optimizer uses in one step."""

    lr: float
    weight_decay: float


def two_stage(progress: float, schedule: ScheduleConfig) -> Rates:
    """Two straight lines to zero, the second lower, and weight decay in the first half only."""
    if progress < 0.5:
        return Rates(schedule.lr * (1 - progress), schedule.weight_decay)
    second = schedule.lr * 2 / 3 if schedule.lr_second is None else schedule.lr_second
    return Rates(second * (1 - progress), 0.0)


def cosine(progress: float, schedule: ScheduleConfig) -> Rates:
    """Half a cosine from the peak to zero; weight decay throughout."""
    return Rates(
        schedule.lr * (1 + math.cos(math.pi * progress)) / 2,
        schedule.weight_decay,
    )


def cosine_halved(progress: float, schedule: ScheduleConfig) -> Rates:
    """The same, and in the second half of the run half of that rate (MatMul-free LM)."""
    found = cosine(progress, schedule)
    return found if progress < 0.5 else found._replace(lr=found.lr / 2)


def constant(progress: float, schedule: ScheduleConfig) -> Rates:
    """The peak and the weight decay, throughout."""
    return Rates(schedule.lr, schedule.weight_decay)


KINDS = {
    "two_stage": two_stage,
    "cosine": cosine,
    "cosine_halved": cosine_halved,
    "constant": constant,
}


def rates(progress: float, schedule: ScheduleConfig) -> Rates:
    """Return the rates at `progress`, 0 to 1, with the linear warm-up applied."""
    found = KINDS[schedule.kind](progress, schedule)
    if progress < schedule.warmup:
        return found._replace(lr=found.lr * progress / schedule.warmup)
    return found
