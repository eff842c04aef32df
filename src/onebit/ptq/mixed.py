"""Bits for every layer: the choice of least cost that fits a number of bytes, exactly.

Each layer has a few choices (a scheme, its bytes, its measured cost), and one of each is taken:

    minimize  sum cost[l, c(l)]   over c,   such that   sum bytes[l, c(l)] <= budget

the multiple-choice knapsack problem. It is solved by dynamic programming over the layers: a state
is (bytes, cost) of a choice for the layers so far, and a state that another one beats in both is
dropped, because whatever follows it could follow the other. So the result is optimal, whatever the
sizes are; `scipy.optimize.milp` and plain enumeration agree in the tests.

What keeps the states few is a bound. For any price p >= 0 per byte, no choice for the layers that
are left costs less than

    sum over them of min_c (cost + p * bytes)  -  p * (bytes that are left)

and a state whose cost with this bound is above that of a choice in hand cannot become the best. p
and the first choice in hand come from the linear relaxation, which takes the largest saving per
byte first.

Sources: Nemhauser and Ullmann, Discrete Dynamic Programming and Capital Allocation (1969); Sinha
and Zoltners, The Multiple-Choice Knapsack Problem (1979). For bits of layers: HAWQ-V3,
https://arxiv.org/abs/2011.10680 (there by an integer program).

Letters: S states, C choices of a layer.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from onebit.errors import OptionError

_SLACK = 1e-12
"""Of all costs together: what float sums may be off by, so that the bound never drops the best."""


class Choice(NamedTuple):
    """One way to hold a layer."""

    name: str
    """Of a scheme or a ggml format; what a plan says."""
    size_bytes: int
    """With scales and zero-points."""
    cost: float
    """What it costs the model: any measure that adds up over layers; less is better."""


@dataclass(frozen=True)
class Chosen:
    """The best choice for every layer."""

    choices: dict[str, Choice]
    """Layer -> what it gets, in the order given."""
    budget_bytes: int
    lower_bound: float
    """No choice within the budget costs less: the linear relaxation. How far `cost` is above it is
    what whole layers cost."""

    @property
    def size_bytes(self) -> int:
        """Of all layers; at most the budget."""
        return sum(choice.size_bytes for choice in self.choices.values())

    @property
    def cost(self) -> float:
        """The sum that is least."""
        return math.fsum(choice.cost for choice in self.choices.values())


def choose(items: Mapping[str, Sequence[Choice]], budget_bytes: int) -> Chosen:
    """Return one choice per layer, of the least total cost within the budget.

    Of choices that cost the same in sum, the smaller is taken.

    Args:
        items: layer -> its choices, in any order.
        budget_bytes: of all layers together.

    Raises:
        OptionError: a layer has no choice, a size or cost is no number, or even the smallest
            choices do not fit.
    """
    _check(items, budget_bytes)
    useful = {layer: _undominated(choices) for layer, choices in items.items()}
    price, bound, in_hand = _relaxed(list(useful.values()), budget_bytes)
    picks = _search(list(useful.values()), budget_bytes, price, in_hand)
    found = {layer: useful[layer][pick] for layer, pick in zip(useful, picks, strict=True)}
    return Chosen(found, budget_bytes, bound)


def _check(items: Mapping[str, Sequence[Choice]], budget_bytes: int) -> None:
    for layer, choices in items.items():
        if not choices:
            raise OptionError(f"mixed precision: {layer} has no choice. Give it at least one.")
        for choice in choices:
            if choice.size_bytes < 0 or not math.isfinite(choice.cost):
                raise OptionError(
                    f"mixed precision: {layer} as {choice.name} takes {choice.size_bytes} bytes "
                    f"and costs {choice.cost}; both must be numbers, the bytes not negative. "
                    "Leave the choice out."
                )
    least = sum(min(choice.size_bytes for choice in choices) for choices in items.values())
    if least > budget_bytes:
        raise OptionError(
            f"mixed precision: the budget leaves {budget_bytes:,} bytes for {len(items)} layers, "
            f"and their smallest choices take {least:,}. Raise the budget, or allow fewer bits."
        )


def _undominated(choices: Sequence[Choice]) -> list[Choice]:
    """Return the choices that none beats in both, from small and dear to large and cheap."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.size_bytes, choice.cost)):
        if not kept or choice.cost < kept[-1].cost:
            kept.append(choice)
    return kept


class _Step(NamedTuple):
    """Along the lower convex hull of one layer's choices, to the next larger one."""

    saving_per_byte: float
    item: int
    to: int
    """Index of the choice it leads to."""
    extra_bytes: int
    saving: float


def _hull_steps(item: int, choices: Sequence[Choice]) -> list[_Step]:
    """Return the steps of a layer; the saving per byte falls from one to the next."""
    hull: list[int] = []
    for i, (_, size, cost) in enumerate(choices):
        while len(hull) >= 2:
            (_, size0, cost0), (_, size1, cost1) = choices[hull[-2]], choices[hull[-1]]
            if (cost0 - cost1) * (size - size1) > (cost1 - cost) * (size1 - size0):
                break
            hull.pop()
        hull.append(i)
    steps = []
    for a, b in pairwise(hull):
        extra = choices[b].size_bytes - choices[a].size_bytes
        saving = choices[a].cost - choices[b].cost
        steps.append(_Step(saving / extra, item, b, extra, saving))
    return steps


def _relaxed(items: list[list[Choice]], budget: int) -> tuple[float, float, float]:
    """Solve the linear relaxation: (price of a byte, lower bound, cost of a whole choice).

    From the smallest choices on, the steps are taken by falling saving per byte. The first one that
    does not fit sets the price; a part of it gives the bound. Going on with what still fits gives a
    whole choice.
    """
    left = budget - sum(choices[0].size_bytes for choices in items)
    cost = bound = math.fsum(choices[0].cost for choices in items)
    steps = sorted(
        (step for i, choices in enumerate(items) for step in _hull_steps(i, choices)),
        key=lambda step: -step.saving_per_byte,
    )
    price = 0.0
    at = [0] * len(items)
    stuck = [False] * len(items)  # a later step of a layer stands on its earlier ones
    for step in steps:
        if stuck[step.item] or step.extra_bytes > left:
            if price == 0.0:
                price = step.saving_per_byte
                bound = cost - price * left
            stuck[step.item] = True
            continue
        left -= step.extra_bytes
        cost -= step.saving
        at[step.item] = step.to
    whole = math.fsum(choices[i].cost for choices, i in zip(items, at, strict=True))
    return price, (bound if price else whole), whole


def _search(items: list[list[Choice]], budget: int, price: float, in_hand: float) -> list[int]:
    """Return the index of the best choice of each layer, by dynamic programming."""
    slack = _SLACK * sum(abs(choice.cost) for choices in items for choice in choices)
    later_size, later_bound = _suffixes(items, price)
    size_S = np.zeros(1, np.int64)
    cost_S = np.zeros(1, np.float64)
    trail: list[tuple[NDArray[np.int32], NDArray[np.int16]]] = []
    for i, choices in enumerate(items):
        size_C = np.array([choice.size_bytes for choice in choices], np.int64)
        cost_C = np.array([choice.cost for choice in choices], np.float64)
        size_X = (size_S[:, None] + size_C).ravel()  # X: every state with every choice
        cost_X = (cost_S[:, None] + cost_C).ravel()
        possible_X = size_X + later_size[i + 1] <= budget
        possible_X &= cost_X + later_bound[i + 1] - price * (budget - size_X) <= in_hand + slack
        order_X = np.flatnonzero(possible_X)
        order_X = order_X[np.lexsort((cost_X[order_X], size_X[order_X]))]
        best_X = np.minimum.accumulate(cost_X[order_X])  # of all that are no larger
        better_X = np.append(True, cost_X[order_X][1:] < best_X[:-1])
        kept_S = order_X[better_X]
        size_S, cost_S = size_X[kept_S], cost_X[kept_S]
        parent_S, pick_S = np.divmod(kept_S, len(choices))
        trail.append((parent_S.astype(np.int32), pick_S.astype(np.int16)))
    state = len(cost_S) - 1  # sizes rise and costs fall: the last is the best
    picks = []
    for parent_S, pick_S in reversed(trail):
        picks.append(int(pick_S[state]))
        state = int(parent_S[state])
    return picks[::-1]


def _suffixes(items: list[list[Choice]], price: float) -> tuple[list[int], list[float]]:
    """Return, for the layers from each on, the least bytes and the least cost + price * bytes."""
    size, bound = [0], [0.0]
    for choices in reversed(items):
        size.append(size[-1] + choices[0].size_bytes)
        bound.append(bound[-1] + min(c.cost + price * c.size_bytes for c in choices))
    return size[::-1], bound[::-1]
