"""Which documents are held out from training. A document is never cut in two.

every:10   every tenth document, in order
year:10    documents whose name begins with a year that 10 divides; all of such a year
last:0.2   the last fifth of the documents
"""

import re
from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar

from onebit.errors import OptionError


class Named(Protocol):
    """What `split` needs to know of a document."""

    @property
    def name(self) -> str: ...


D = TypeVar("D", bound=Named)


def split(documents: Iterable[D], rule: str) -> tuple[list[D], list[D]]:
    """Divide documents into (train, held_out) by a rule; each keeps its order.

    Raises:
        OptionError: the rule is none of those above, a name has no year, or one side is empty.
    """
    kind, _, number = rule.partition(":")
    if kind not in RULES:
        raise OptionError(f"split: the rule is {rule!r}; accepted: every:N, year:N, last:SHARE.")
    everything = list(documents)
    held = RULES[kind](everything, number)
    train = [d for d, out in zip(everything, held, strict=True) if not out]
    held_out = [d for d, out in zip(everything, held, strict=True) if out]
    if not train or not held_out:
        raise OptionError(
            f"split: {rule!r} puts all {len(everything)} documents on one side. "
            "Give more documents or another rule."
        )
    return train, held_out


def _every(documents: list[D], number: str) -> list[bool]:
    step = _whole("every", number)
    return [i % step == step - 1 for i in range(len(documents))]


def _year(documents: list[D], number: str) -> list[bool]:
    step = _whole("year", number)
    held = []
    for document in documents:
        found = re.match(r"(\d{4})(?!\d)", document.name)
        if found is None:
            raise OptionError(
                f"split: year:{number} asks for names that begin with a year, and "
                f"{document.name!r:.80} does not. Use every:N or last:SHARE."
            )
        held.append(int(found[1]) % step == 0)
    return held


def _last(documents: list[D], number: str) -> list[bool]:
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise OptionError(f"split: last:{number} is no share; give one between 0 and 1.")
    first = len(documents) - round(len(documents) * share)
    return [i >= first for i in range(len(documents))]


def _whole(kind: str, number: str) -> int:
    if not number.isascii() or not number.isdigit() or not 2 <= int(number[:9]) < 10**8:
        raise OptionError(f"split: {kind}:{number} needs a whole number of at least 2.")
    return int(number)


RULES: dict[str, Callable[[list[D], str], list[bool]]] = {
    "every": _every,
    "year": _year,
    "last": _last,
}
