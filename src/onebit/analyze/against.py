"""Hold a packed model against the masters that it was made from.

The masters are quantized once more, as the scheme says; the codes must be equal, and the scale
equal up to the 16-bit float that some formats keep it in. A scale that is the right one times the
share of non-zeros, or a power of it, has been through absmean again: the case that one file cannot
show.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from onebit import pack
from onebit.analyze.claims import Finding
from onebit.errors import OptionError
from onebit.io import Checkpoint, StoredTensor
from onebit.models.export_weights import is_ternary, linear
from onebit.pack import Unpacked
from onebit.scheme import LinearScheme, Scheme

if TYPE_CHECKING:
    from onebit.analyze.verify import TensorReport

_TOLERANCE = 2.0**-10  # a step of float16
_BF16_TOLERANCE = 2.0**-7
_PASS_TOLERANCE = 2.0**-6  # what lay between two passes may have been bf16, whatever lies here now
_TINY = np.finfo(np.float32).tiny  # for a share of zeros, whose binary scale is 0
_PASSES = 4  # of absmean, that are told apart from a scale that is simply wrong


def compare(
    reports: Iterable["TensorReport"], made: Checkpoint, masters: Checkpoint, scheme: Scheme
) -> list["TensorReport"]:
    """Return the reports, with what the masters say added to their findings.

    Args:
        reports: of the tensors of `made`.
        made: the packed model.
        masters: its float masters, or an earlier packing of them.
        scheme: what `made` claims.

    Raises:
        OptionError: `masters` lacks a tensor or has another shape: it is another model.
    """
    names = set(masters.names())
    compared = []
    for report in reports:
        claim = scheme.linear(report.name.removesuffix(".weight"))
        if claim.weight not in ("ternary", "binary") or report.kind not in ("ternary", "binary"):
            compared.append(report)
            continue
        if report.name not in names or masters.tensor(report.name).shape != report.shape:
            raise OptionError(
                f"{masters.path}: no {report.name} of shape {list(report.shape)}. "
                "Name the masters of this model."
            )
        found = _findings(made.tensor(report.name), masters.tensor(report.name), claim)
        compared.append(replace(report, findings=(*report.findings, *found)))
    return compared


def _findings(made: StoredTensor, master: StoredTensor, claim: LinearScheme) -> list[Finding]:
    here, there = _codes(made, claim), _codes(master, claim)
    if here is None or there is None:
        return [Finding("error", "the masters do not quantize to weights of this kind")]
    different = int(np.count_nonzero(here.codes_NK != there.codes_NK))
    if different:
        share = f"{different:,} of {here.codes_NK.size:,} codes"
        return [Finding("error", f"{share} differ from those that the masters round to")]
    G = math.lcm(here.scale_NG.shape[1], there.scale_NG.shape[1])
    used = np.count_nonzero(here.codes_NK.reshape(len(here.codes_NK), G, -1), axis=2) > 0
    ours, theirs = (_widened(w, G)[used].astype(np.float64) for w in (here, there))
    tolerance = _BF16_TOLERANCE if made.format == "bf16" else _TOLERANCE
    if (abs(ours - theirs) <= tolerance * theirs).all():
        return []
    middle = float(np.median(ours / np.maximum(theirs, _TINY)))
    density = float(np.count_nonzero(here.codes_NK) / here.codes_NK.size)
    for passes in range(1, _PASSES + 1):
        if abs(middle / density**passes - 1) < _PASS_TOLERANCE:
            return [
                Finding(
                    "error",
                    f"quantized {passes + 1} times: the scale is {middle:.4f} of the masters', "
                    f"the share of non-zeros is {density:.4f}",
                )
            ]
    return [Finding("error", f"the scale is {middle:.4g} times that of the masters")]


def _codes(tensor: StoredTensor, claim: LinearScheme) -> Unpacked | None:
    """Return codes and scale of a tensor: its own, or those that it rounds to."""
    if tensor.format in pack.FORMATS:
        N, K = tensor.shape
        unpacked = pack.FORMATS[tensor.format].unpack(tensor.data, (N, K), tensor.scale)
        return unpacked if is_ternary(unpacked) else None
    weights = linear(tensor, claim)
    return None if isinstance(weights, np.ndarray) else weights


def _widened(weights: Unpacked, G: int) -> np.ndarray:
    """Return the scale in G groups per row, (N, G)."""
    return np.repeat(weights.scale_NG, G // weights.scale_NG.shape[1], axis=1)
