"""Which runs are wanted, as a pure function of those that are finished.

First each family tries its learning rates on one arm and one seed. Where the best rate lies at an
end of those tried, the next one beyond it is tried as well. When it is found, all arms of the
family are wanted with it, with every seed.
"""

import math
from collections.abc import Mapping

from benchmarks.bitnet.arms import FARTHEST, Run, Setup

Scores = Mapping[str, float]
"""Name of a finished run to its held-out bits per byte; infinite where training diverged."""


def families(setup: Setup) -> list[str]:
    """Return the families that the wanted arms belong to."""
    used = {setup.known[name].family for name in setup.arms}
    return [family for family in setup.families if family in used]


def tuning(family: str, setup: Setup, scores: Scores) -> tuple[list[Run], float | None]:
    """Return the runs that tune a family's learning rate, and the best rate once it is known."""
    arm, seed = setup.known[setup.families[family]], setup.seeds[0]
    rates = sorted(setup.rates)
    lowest, highest = rates[0], rates[-1]
    while True:
        runs = [Run(arm, lr, seed) for lr in rates]
        found = {run.lr: scores.get(run.name, math.nan) for run in runs}
        if any(math.isnan(score) for score in found.values()):
            return runs, None
        best = min(rates, key=lambda lr: found[lr])
        if len(rates) == 1:
            return runs, best
        if best == rates[0] and best > lowest / 2**FARTHEST:
            rates = [best / 2, *rates]
        elif best == rates[-1] and best < highest * 2**FARTHEST:
            rates = [*rates, best * 2]
        else:
            return runs, best


def tuning_runs(setup: Setup, scores: Scores) -> list[Run]:
    """Return the runs that tune, of all families, as far as they are known to be wanted."""
    return [run for family in families(setup) for run in tuning(family, setup, scores)[0]]


def final_runs(setup: Setup, scores: Scores) -> list[Run]:
    """Return the runs of the tables whose learning rate is known, seed by seed.

    All arms come with one seed before any comes with the next, so that a page made early has them.
    """
    rate = {family: tuning(family, setup, scores)[1] for family in families(setup)}
    found = []
    for seed in setup.seeds:
        for name in setup.arms:
            arm = setup.known[name]
            lr = rate[arm.family]
            if lr is not None:
                found.append(Run(arm, lr, seed))
    return found


def count(setup: Setup, scores: Scores) -> int:
    """Return how many runs there will be, as far as that is known: what progress is measured by."""
    tuned = {run.name for run in tuning_runs(setup, scores)}
    final = {run.name for run in final_runs(setup, scores)}
    unknown = [f for f in families(setup) if tuning(f, setup, scores)[1] is None]
    waiting = sum(setup.known[name].family in unknown for name in setup.arms) * len(setup.seeds)
    # one of them is the tuning run with the best rate
    return len(tuned | final) + waiting - sum(setup.families[f] in setup.arms for f in unknown)
