"""From a budget to a plan: the bits of every layer under a size or a mean of bits.

    table = sensitivity.measure(model, tokens_WT, WORDS)
    made = budget.plan(table, budget.read_size("60MB") - rest_bytes)
    made = budget.plan(table, budget.bytes_of_bits(3.2, table))

A mean of bits is that of the layers in the table, as they lie in the file: scales and zero-points
counted, embedding and head not.
"""

import re
from collections.abc import Mapping

from onebit.errors import OptionError
from onebit.ptq.mixed import Choice, Chosen, choose
from onebit.ptq.plan import Plan
from onebit.ptq.sensitivity import Entry, Sensitivity

WORDS = ("w2a16-g64", "w3a16-g64", "w4a16-g64", "w5a16-g64", "w6a16-g64", "w8a16-g64")
"""What is offered to every layer if nothing is said."""
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}


def plan(
    table: Sensitivity,
    budget_bytes: int,
    *,
    by: str = "fisher",
    name: str = "",
    kv_bits: int = 16,
) -> tuple[Plan, Chosen]:
    """Return the plan of least cost whose layers take no more than the budget, and the choice.

    Args:
        table: measured; its layers are those of the plan.
        budget_bytes: of these layers together; subtract what the rest of the file takes first.
        by: the measure whose sum is made least.
        name: of the plan; "" says the bits.
        kv_bits: of keys and values; the plan only says so.

    Raises:
        OptionError: the measure was not taken, or the smallest choices exceed the budget.
    """
    items = {
        layer: [Choice(entry.word, entry.size_bytes, entry.cost(by)) for entry in entries]
        for layer, entries in table.of_layers().items()
    }
    found = choose(items, budget_bytes)
    bits = 8 * found.size_bytes / weights_of(table)
    made: dict[str, str | int | float] = {
        "budget_bytes": budget_bytes,
        "size_bytes": found.size_bytes,
        "bits": float(f"{bits:.4f}"),
        "cost": f"{found.cost:.6g}, the sum of {by}",
        "least_cost_possible": f"{found.lower_bound:.6g}, were layers divisible",
    }
    words = {layer: choice.name for layer, choice in found.choices.items()}
    return Plan(name or f"mixed-{bits:.2f}", words, kv_bits, made), found


def comments(table: Sensitivity, found: Chosen) -> dict[str, str]:
    """Return, for the lines of a plan, what each choice takes and costs beside its neighbours."""
    entries = table.of_layers()
    return {layer: _comment(choice, entries[layer]) for layer, choice in found.choices.items()}


def weights_of(table: Sensitivity) -> int:
    """Return the weights of all layers in the table."""
    return sum(entries[0].shape[0] * entries[0].shape[1] for entries in table.of_layers().values())


def bytes_of_bits(bits: float, table: Sensitivity) -> int:
    """Return the bytes that a mean of `bits` per weight allows the layers of a table.

    Raises:
        OptionError: bits is not above 0 and at most 32.
    """
    if not 0 < bits <= 32:
        raise OptionError(f"bits: a mean of {bits!r:.20}; accepted: above 0, at most 32.")
    return int(bits * weights_of(table) / 8)


def read_size(text: str) -> int:
    """Return the bytes that "60MB", "57.5 MiB" or "60000000" means.

    Raises:
        OptionError: it means none.
    """
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-z]{0,3})\s*", text.lower())
    unit = UNITS.get(found[2]) if found else None
    if found is None or unit is None:
        raise OptionError(
            f"budget: {text!r:.40} is no size; accepted: a number and one of B, KB, MB, GB (of "
            "1000) or KiB, MiB, GiB (of 1024), for instance 60MB."
        )
    return int(float(found[1]) * unit)


def shares(found: Chosen) -> Mapping[str, int]:
    """Return word -> how many layers got it."""
    counts: dict[str, int] = {}
    for choice in found.choices.values():
        counts[choice.name] = counts.get(choice.name, 0) + 1
    return dict(sorted(counts.items()))


def _comment(choice: Choice, entries: list[Entry]) -> str:
    entry = next(entry for entry in entries if entry.word == choice.name)
    bits = 8 * entry.size_bytes / (entry.shape[0] * entry.shape[1])
    return f"{bits:.3f} bits, {entry.size_bytes:,} bytes, cost {choice.cost:.3g}"
