"""Stages: a run that changes its scheme on the way, with the same weights and Adam's moments.

    [[stages]]
    until = 0.95                 # share of the run
    scheme = "bitnet-v2-a8"      # the recipe's own scheme takes the rest

A step belongs to the first stage whose `until` lies behind its middle. All stages have the same
parameters: what changes is how they are rounded.

Source: two stages with the optimizer's state kept, BitNet a4.8, section 2.3,
https://arxiv.org/abs/2411.04965, and BitNet v2, section 3, https://arxiv.org/abs/2504.18415.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onebit import tensors
from onebit.architecture import Architecture
from onebit.errors import OptionError
from onebit.scheme import LinearScheme, Scheme
from onebit.train.progressive import ProgressiveConfig
from onebit.train.setting import check, setting


@dataclass(frozen=True)
class StageConfig:
    """One stage before the last."""

    scheme: Scheme
    """How each linear holds its weight and input until then: a name, or a table."""
    until: float = setting(low=1e-6, high=0.999999)
    """Share of the run at which the stage ends."""

    def __post_init__(self) -> None:
        check(self, "stages")


def check_order(stages: Sequence[StageConfig]) -> None:
    """Refuse stages that do not end one after another.

    Raises:
        OptionError: one does not.
    """
    for i in range(1, len(stages)):
        if stages[i].until <= stages[i - 1].until:
            raise OptionError(
                f"recipe: stages.{i}.until is {stages[i].until:g}, and the stage before it ends at "
                f"{stages[i - 1].until:g}. Write the stages in order, each ending later."
            )


def check_steps(stages: Sequence[StageConfig], steps: int) -> None:
    """Refuse a run so short that a stage, or the last scheme, has no step.

    Raises:
        OptionError: it is.
    """
    seen = {current((step + 0.5) / steps, stages) for step in range(steps)}
    for i in range(len(stages) + 1):
        if i not in seen:
            name = f"stages.{i}" if i < len(stages) else "the scheme after the last stage"
            raise OptionError(
                f"recipe: {name} has no step of its own in a run of {steps}. "
                "Give the run more steps, or change where the stages end."
            )


def current(progress: float, stages: Sequence[StageConfig]) -> int:
    """Return the number of the stage at `progress`; len(stages) for the recipe's own scheme."""
    return next((i for i, stage in enumerate(stages) if progress < stage.until), len(stages))


def ladder(config: ProgressiveConfig, scheme: Scheme) -> tuple[StageConfig, ...]:
    """Return the stages of `bits`: integer weights by absmax, a scale per row where it was one
    for the matrix, everything else as `scheme` says.

    Raises:
        OptionError: the scheme learns steps, or cuts layers into parts.
    """
    n = len(config.bits)
    return tuple(
        StageConfig(rung(scheme, bits), until=config.share * (i + 1) / n)
        for i, bits in enumerate(config.bits)
    )


def rung(scheme: Scheme, bits: int) -> Scheme:
    """Return `scheme` with weights of `bits` bits in the layers that it quantizes.

    Raises:
        OptionError: the scheme learns steps, or cuts layers into parts.
    """
    layers = {name: _rung(scheme.name, how, bits) for name, how in scheme.layers.items()}
    return replace(scheme, name=f"{scheme.name} at {bits} bits", layers=layers)


def _rung(name: str, how: LinearScheme, bits: int) -> LinearScheme:
    if how.weight == "fp":
        return how
    if how.learned or how.parts > 1:
        what = "learns its steps" if how.learned else "cuts layers into parts"
        raise OptionError(
            f"recipe: progressive.bits goes through integers by absmax, and scheme {name} {what}. "
            "Leave bits out, or take another scheme."
        )
    shared = "row" if how.weight_scale == "tensor" else how.weight_scale
    return replace(how, weight=f"int{bits}", weight_rule="absmax", weight_scale=shared)


def check_parameters(a: Architecture, stages: Sequence[StageConfig], last: Scheme) -> None:
    """Refuse a stage whose model has other parameters than the last one, or other steps.

    Raises:
        OptionError: one has.
    """
    wanted, steps = tensors.shapes(a, last), learned_steps(a, last)
    for i, stage in enumerate(stages):
        found = tensors.shapes(a, stage.scheme)
        differs = sorted({name for name, _ in wanted.items() ^ found.items()})
        if differs:
            raise OptionError(
                f"recipe: stages.{i} ({stage.scheme.name}) and the last scheme ({last.name}) must "
                f"have the same parameters, and {differs[0]} is in one only or of another shape. "
                "Give both the same norms and learned steps."
            )
        if learned_steps(a, stage.scheme) != steps:
            raise OptionError(
                f"recipe: stages.{i} ({stage.scheme.name}) and the last scheme ({last.name}) learn "
                "steps of other weights; a step of one means nothing to the other. "
                "Train them as two runs, with start_from."
            )


def learned_steps(a: Architecture, scheme: Scheme) -> dict[str, tuple[str, str]]:
    """Return what each learned step is a step of: the layer, its weight and its rule."""
    hows = {linear.name: scheme.linear(linear.name) for linear in tensors.linears(a)}
    return {name: (how.weight, how.weight_rule) for name, how in hows.items() if how.learned}
