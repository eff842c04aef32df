"""Where a linear layer stands in the model, read from its name."""

import re

from onebit.scheme import role_of

ATTENTION = ("q", "k", "v", "o")
"""Roles of the attention's linears."""
MLP = ("gate", "up", "down")
"""Roles of the feed-forward's."""

_NUMBER = re.compile(r"\.layers\.([0-9]{1,6})\.")


def place(layer: str) -> tuple[int | None, str]:
    """Return (depth, role) of a layer: (3, "up") for "model.layers.3.mlp.up_proj".

    Depth is None outside the numbered layers, role is "" for a name that no scheme knows.
    """
    found = _NUMBER.search(layer)
    return (int(found[1]) if found else None), role_of(layer)
