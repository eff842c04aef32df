"""Progressive quantization: from the float model to the quantized one in small steps.

Two ways, each a pure function of `progress`, the share of the run that is done (see `schedule.py`).

Lambda. Every BitLinear computes with x + lambda (Q(x) - x) and w + lambda (Q(w) - w), gradients
straight through: the float layer at 0, the quantized one at 1. With t = progress / share, and k the
steepness,

    linear        lambda = t
    sigmoid       lambda = (s(k (t - 1/2)) - s(-k/2)) / (s(k/2) - s(-k/2)),   s(z) = 1 / (1 + e^-z)
    exponential   lambda = (e^(k t) - 1) / (e^k - 1)

all exactly 0 at t = 0 and exactly 1 from t = 1 on. Together, or one layer after another: of n
layers the p-th in order takes the p-th of n equal parts of the time.

Bits. The weights are integers of 8, then 4, then 2 bits for equal parts of the time before they are
the scheme's: stages that `stages.py` runs.

Source: "Fine-tuning LLMs to 1.58bit: extreme quantization made easy", Hugging Face, 2024 (lambda =
min(step / 1000, 1) was best; sigmoid with k = 100 and exponential were worse); layer by layer:
https://arxiv.org/abs/2505.08823.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from onebit.errors import OptionError
from onebit.train.setting import check, setting

ORDERS = ("together", "bottom_up", "top_down")
BITS = (8, 7, 6, 5, 4, 3, 2)


def linear(t: float, k: float) -> float:
    """Return t; `k` is not used."""
    return t


def sigmoid(t: float, k: float) -> float:
    """Return a logistic curve of steepness `k`, stretched to begin at 0 and end at 1."""
    low, high = _logistic(-k / 2), _logistic(k / 2)
    return (_logistic(k * (t - 0.5)) - low) / (high - low)


def exponential(t: float, k: float) -> float:
    """Return (e^(k t) - 1) / (e^k - 1): late for a large `k`, a straight line for a small one."""
    return math.expm1(k * t) / math.expm1(k)


def _logistic(z: float) -> float:
    return 1 / (1 + math.exp(-z))


BLENDS: dict[str, Callable[[float, float], float]] = {
    "linear": linear,
    "sigmoid": sigmoid,
    "exponential": exponential,
}


@dataclass(frozen=True)
class ProgressiveConfig:
    """How a run comes from the float model to that of its scheme: by lambda, by bits, or both."""

    blend: str | None = setting(None, choices=tuple(BLENDS))
    """The curve of lambda; left out, every layer is quantized from the first step on."""
    bits: tuple[int, ...] = field(default=())
    """Bits of integer weights before the scheme's own, falling: [8, 4, 2]."""
    share: float = setting(0.25, low=1e-6, high=0.95)
    """Share of the run after which everything is quantized as the scheme says."""
    order: str = setting("together", choices=ORDERS)
    """Which layers lambda quantizes first."""
    steepness: float = setting(10.0, low=1e-3, high=500.0)
    """k of the sigmoid and the exponential."""

    def __post_init__(self) -> None:
        check(self, "progressive")
        object.__setattr__(self, "bits", _bits(self.bits))
        if self.blend is None and not self.bits:
            raise OptionError(
                "recipe: [progressive] has neither blend nor bits; give one, for instance "
                'blend = "linear", or leave the table out.'
            )
        if self.blend is None and self.order != "together":
            raise OptionError(
                f'recipe: progressive.order is "{self.order}", and only lambda goes layer by '
                "layer; give blend, or leave order out."
            )


def blend(progress: float, config: ProgressiveConfig, position: int, layers: int) -> float:
    """Return lambda of the layer that is number `position` of `layers` from the bottom, from 0."""
    if config.blend is None:
        return 1.0
    t = progress / config.share
    if config.order != "together":
        turn = position if config.order == "bottom_up" else layers - 1 - position
        t = t * layers - turn
    if t >= 1:  # progress / share may round to less than 1 where they are equal, never to more
        return 1.0
    return BLENDS[config.blend](max(t, 0.0), config.steepness)


def set_blends(
    linears: Iterable[tuple[str, Any]], progress: float, config: ProgressiveConfig, layers: int
) -> float:
    """Give each BitLinear its lambda; return their mean, 1 for a model without any.

    Args:
        linears: names and modules, as `nn.bit_linears` yields them. What stands outside the layers
            (a head) goes with the last of them.
        progress: share of the run that is done.
        config: the curve.
        layers: of the model.
    """
    given = []
    for name, module in linears:
        found = re.search(r"\blayers\.(\d+)\.", name)
        position = int(found[1]) if found else layers - 1
        module.blend = blend(progress, config, position, layers)
        given.append(module.blend)
    return math.fsum(given) / len(given) if given else 1.0


def _bits(bits: Any) -> tuple[int, ...]:
    """Return the rungs of a ladder as a tuple, or refuse them."""
    if not isinstance(bits, list | tuple) or any(
        type(rung) is not int or rung not in BITS for rung in bits
    ):
        raise OptionError(
            f"recipe: progressive.bits is {bits!r:.80}; accepted: a list of whole numbers "
            "from 8 down to 2."
        )
    if list(bits) != sorted(set(bits), reverse=True):
        raise OptionError(
            f"recipe: progressive.bits is {list(bits)!r:.80}; each rung must have fewer bits than "
            "the one before it."
        )
    return tuple(bits)
