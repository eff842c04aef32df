"""Several methods joined to one: "quarot+awq+gptq"."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onebit.errors import OptionError
from onebit.ptq.method import Method


@dataclass(frozen=True)
class Chain:
    """The methods of "quarot+awq+gptq", by kind."""

    rotations: Sequence[tuple[str, Method]]
    transforms: Sequence[tuple[str, Method]]
    rounding: tuple[str, Method]

    @property
    def methods(self) -> list[tuple[str, Method]]:
        return [*self.rotations, *self.transforms, self.rounding]

    @property
    def name(self) -> str:
        return "+".join(name for name, _ in self.methods)


def chain(method: str, known: Mapping[str, Method]) -> Chain:
    """Return the methods that a name spells; a rounding is added where it names none.

    Raises:
        OptionError: a name is not known, or they stand in another order than rotations,
            transforms, one rounding.
    """
    names = method.split("+")
    for name in names:
        if name not in known:
            raise OptionError(
                f"{name!r:.40} is not a method; accepted: {', '.join(known)}, and several joined "
                "by +, the rounding last."
            )
    if known[names[-1]].kind != "rounding":
        names.append(known[names[-1]].rounds_with or "gptq")
    kinds = [known[name].kind for name in names]
    order = {"rotation": 0, "transform": 1, "rounding": 2}
    if sorted(kinds, key=order.__getitem__) != kinds or kinds.count("rounding") != 1:
        raise OptionError(
            f"{method!r:.80}: rotations come first, then transforms, then one rounding; these are "
            f"{', '.join(kinds)}."
        )

    def of(kind: str) -> list[tuple[str, Method]]:
        return [(name, known[name]) for name in names if known[name].kind == kind]

    return Chain(of("rotation"), of("transform"), of("rounding")[0])
