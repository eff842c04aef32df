"""One setting of a recipe: its type, its range, and the one line that refuses a bad value.

A config is a frozen dataclass whose fields are made by `setting`. Its `__post_init__` calls
`check`, which reads the field's annotation and limits, so that a config built in Python is held to
the same rules as one read from a file.
"""

import math
from dataclasses import MISSING, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from onebit.errors import OptionError

_WORDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def setting(
    default: Any = MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that accepts values from `low` to `high`, or one of `choices`."""
    return field(default=default, metadata={"low": low, "high": high, "choices": choices})


def check(config: Any, table: str) -> None:
    """Check every setting of a dataclass, and turn whole numbers into floats where floats belong.

    Args:
        config: a dataclass instance; fields not made by `setting` are left alone.
        table: its name in a recipe, for the messages; "" for the top.

    Raises:
        OptionError: a value has the wrong type or is out of range.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):
        if "choices" not in item.metadata:
            continue
        value, accepted = getattr(config, item.name), get_args(hints[item.name])
        kinds = accepted or (hints[item.name],)
        if float in kinds and type(value) is int:
            value = float(value)
            object.__setattr__(config, item.name, value)  # the way into a frozen dataclass
        if not _fits(value, kinds, item.metadata):
            raise OptionError(
                f"recipe: {dotted(table, item.name)} is {value!r:.80}; "
                f"accepted: {_accepted(kinds, item.metadata)}."
            )


def dotted(table: str, name: str) -> str:
    """Return a setting's full name, for instance "schedule.lr"."""
    return f"{table}.{name}" if table else name


def _fits(value: Any, kinds: tuple[type, ...], limits: Any) -> bool:
    if value is None or type(value) not in kinds:  # not isinstance: True is no whole number
        return value is None and NoneType in kinds
    if limits["choices"] and value not in limits["choices"]:
        return False
    # written so that nan is refused
    return type(value) not in (int, float) or bool(limits["low"] <= value <= limits["high"])


def _accepted(kinds: tuple[type, ...], limits: Any) -> str:
    if limits["choices"]:
        return ", ".join(f'"{choice}"' for choice in limits["choices"])
    words = [_WORDS[kind] for kind in kinds if kind is not NoneType]
    low, high = limits["low"], limits["high"]
    if low > -math.inf:
        words[-1] += f" from {low:g}"
    if high < math.inf:
        words[-1] += f" to {high:g}"
    return " or ".join(words)
