"""What a method of quantizing after training can be told, in one place.

A method takes the options that its `Method.options` names and ignores the others; `ptq.quantize`
refuses an option that none of the chosen methods takes.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

from onebit.errors import OptionError


@dataclass(frozen=True)
class Options:
    """One frozen table for all methods; every field has the literature's usual value."""

    damping: float = 0.01
    """Added to the diagonal of the Gram matrix, as a share of its mean (GPTQ's percdamp)."""
    act_order: bool = True
    """GPTQ takes the columns by falling mean square of their input, not as they stand."""
    static_groups: bool = True
    """Scales are taken from the weights before any column is rounded; else from what the weights
    have become when GPTQ reaches their group."""
    block: int = 128
    """Columns that GPTQ corrects at a time. Speed only: the codes do not depend on it."""
    clip: str = "mse"
    """How the range that becomes codes is found: "none" (all weights), "mse" (least squared error,
    columns weighed by their inputs where these are known), "percentile:P", "kl", "output" (least
    error of the layer's output), or "ratio:R" (that share of the range)."""
    input_clip: str = "none"
    """The same for the range of static activations: all but "output"."""
    grid: int = 20
    """Points of a searched exponent or clip."""
    alpha: float | None = None
    """Exponent of SmoothQuant's or AWQ's scales; None searches it, layer by layer."""
    iterations: int = 0
    """Of an iterative method; 0 is the method's own number."""
    learning_rate: float = 0.0
    """Of a method that learns; 0 is the method's own."""
    propagate: float = 0.0
    """Share of what the layers before have changed of a layer's input that its weights make up
    for, 0 to 1 (QEP); above 0 the float model goes along, at twice the time."""
    seed: int = 0
    """Of everything random."""
    planes: int = 1
    """Trit planes of `ternary`: 1, or 2 for value = a1 t1 + a2 t2."""
    format: str = ""
    """The block format of ggml that `kquants` rounds to; the driver sets it for each layer."""

    def __post_init__(self) -> None:
        for name, good, accepted in (
            ("damping", 0 < self.damping < 10, "a share of the mean, above 0"),
            ("block", self.block >= 1, "at least 1 column"),
            ("grid", self.grid >= 1, "at least 1 point"),
            ("iterations", self.iterations >= 0, "a number of them, or 0"),
            ("learning_rate", self.learning_rate >= 0, "a number above 0, or 0"),
            ("propagate", 0 <= self.propagate <= 1, "a share, 0 to 1"),
            ("planes", self.planes in (1, 2), "1 or 2"),
            ("alpha", self.alpha is None or 0 <= self.alpha <= 1, "0 to 1"),
        ):
            if not good:
                raise OptionError(
                    f"options: {name} is {getattr(self, name)!r:.40}; accepted: {accepted}."
                )
        known = "none, mse, kl, output, percentile:P, ratio:R"
        for name, words in (("clip", known), ("input_clip", known.replace(" output,", ""))):
            given = getattr(self, name)
            form = words.replace(", ", "|")
            form = re.sub(r":[PR]", r":[0-9]{1,3}(\\.[0-9]{1,6})?", form)
            if not re.fullmatch(form, given):
                raise OptionError(f"options: {name} is {given!r:.40}; accepted: {words}.")


def changed(options: Options) -> list[str]:
    """Return the names of the options that are not at their defaults."""
    usual = Options()
    return [f.name for f in fields(Options) if getattr(options, f.name) != getattr(usual, f.name)]


def check_taken(options: Options, taken: Iterable[str], methods: str) -> None:
    """Refuse an option that none of the methods takes.

    Raises:
        OptionError: there is one.
    """
    taken = sorted(taken)
    for name in changed(options):
        if name not in taken:
            raise OptionError(
                f"{methods} takes no option {name!r}; accepted: {', '.join(taken) or 'none'}."
            )


def parse(words: Iterable[str]) -> Options:
    """Return the options that "name=value" words say, as a command line has them.

    Raises:
        OptionError: there is no such option, or its value is of another kind or out of range.
    """
    kinds = {f.name: f.type for f in fields(Options) if f.name != "format"}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name, text = name.strip().replace("-", "_"), text.strip()
        if not equals or name not in kinds:
            raise OptionError(
                f"options: {word!r:.80} is none; accepted: NAME=VALUE with NAME one of "
                f"{', '.join(kinds)}."
            )
        try:
            values[name] = _READ[kinds[name]](text)
        except (KeyError, ValueError):
            raise OptionError(
                f"options: {name} is {text!r:.40}; accepted: {_SAID[kinds[name]]}."
            ) from None
    return Options(**values)


_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_READ: dict[Any, Callable[[str], Any]] = {
    int: int,
    float: float,
    float | None: lambda text: None if text == "none" else float(text),
    bool: lambda text: _TRUTH[text.lower()],
    str: str,
}
_SAID: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    float | None: "a number, or none",
    bool: "true or false",
    str: "a word",
}
