"""Guards: a weight that was rounded before is recognized, and never silently rounded again.

A second grid loses more than the master's rounding would have, and says nothing of a method: 4 bits
by group of 32 lose nothing at all on weights that came as Q4_1. So each layer is asked first: is it
packed, or do its floats lie on levels that some rounding left there?

Shape letters: n rows that are looked at, K columns.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from onebit import pack
from onebit.errors import InputError, OptionError
from onebit.io import StoredTensor
from onebit.models import stored_weight
from onebit.pack import plain
from onebit.ptq.source import Source
from onebit.quant import levels
from onebit.scheme import of_config

KEPT = ("refuse", "keep", "force")
"""What to do with layers that were rounded before: refuse the model, leave these layers as they
are, or round them again as if they were floats."""
_ROWS = 64
"""That are looked at: each lies on levels by itself, or the matrix does not."""


def rounded_before(source: Source, layers: Iterable[str]) -> dict[str, str]:
    """Return the layers whose weights lie on a grid already, each with the grid in words.

    Args:
        source: the model as its file has it. Of a rotation ask what it rotates: turned, the weights
            lie on no grid any more, and were rounded all the same.
        layers: names of modules, "model.layers.0.mlp.up_proj".

    Raises:
        MissingError, FormatError: a layer is not there, or damaged.
    """
    found, own = {}, of_config(source.config)
    for layer in layers:
        name = f"{layer}.weight"
        stored = source.stored(name)
        words = _of_floats(source.tensor(name)) if stored is None else _of_stored(stored)
        if not words and own.linear(layer).weight != "fp":
            words = f"masters that scheme {own.name!r:.60} rounds to {own.linear(layer).weight}"
        if words:
            found[layer] = words
    return found


def refuse_masters(source: Source, layers: Iterable[str]) -> None:
    """Refuse masters to be taken for the weights of a model that rounds them.

    Raises:
        InputError: the model's scheme rounds a layer, and the file has it as it was before.
    """
    own = of_config(source.config)
    for layer in layers:
        linear, stored = own.linear(layer), source.stored(f"{layer}.weight")
        if linear.weight == "fp" or stored is None or stored.format in pack.FORMATS:
            continue
        if stored_weight.find_codes(stored, linear) is None:
            raise InputError(
                f"{layer}: its floats are masters, and the model's scheme {own.name!r:.60} rounds "
                f"them to {linear.weight}: they are not its weights. Write it by `onebit export` "
                "first, and quantize that."
            )


def settle(
    found: Mapping[str, str], layers: int, kept: str, model: str, rotated: bool = False
) -> frozenset[str]:
    """Return which of the layers that `rounded_before` found are to stay as they are.

    Args:
        found: what it returned.
        layers: how many were asked.
        kept: one of `KEPT`.
        model: how to call the model in an error.
        rotated: whether the method turns the weights before it rounds them.

    Raises:
        OptionError: `kept` is no such word, or layers shall stay that a rotation turns.
        InputError: it is "refuse", and there are any.
    """
    if kept not in KEPT:
        raise OptionError(f"kept is {kept!r:.80}; accepted: {', '.join(KEPT)}.")
    if not found or kept == "force":
        return frozenset()
    kinds = Counter(found.values()).most_common()
    said = f"{len(found)} of {layers} layers were rounded before ({_list(kinds)})"
    if kept == "refuse":
        raise InputError(
            f"{model}: {said}. A second rounding loses more than one of the float model would: "
            "take that, or say kept=keep to leave these layers as they are, kept=force to round "
            "their values again."
        )
    if rotated:
        raise OptionError(
            f"{model}: {said}, and the method turns weights, which takes them off their grid. "
            "Say kept=force, or choose a method that turns none."
        )
    return frozenset(found)


def _of_stored(stored: StoredTensor) -> str:
    if stored.format in pack.FORMATS:
        return f"packed as {stored.format}"
    if stored.format not in plain.SIZE_BYTES or len(stored.shape) != 2 or 0 in stored.shape:
        return ""
    N, K = stored.shape
    bytes_nB = stored.data.reshape(N, -1)[:: max(1, N // _ROWS)].copy()
    return _of_floats(
        torch.from_numpy(pack.decode(stored.format, bytes_nB.reshape(-1), (len(bytes_nB), K)))
    )


def _of_floats(w_NK: Tensor) -> str:
    w_nK = w_NK[:: max(1, len(w_NK) // _ROWS)]
    found = levels.find(w_nK)
    if found is None:
        return ""
    K, G = w_nK.shape[1], found.scale_NG.shape[1]
    sharing = f"in groups of {K // G}" if G > 1 else "by row"
    return f"floats on levels of {levels.bits(found)} bits {sharing}"


def _list(kinds: list[tuple[str, int]]) -> str:
    shown = [f"{count} {words}" for words, count in kinds[:3]]
    more = len(kinds) - len(shown)
    return "; ".join(shown) + (f"; and {more} other kinds" if more else "")
