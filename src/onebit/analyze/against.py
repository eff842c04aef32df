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
import torch
from numpy.typing import NDArray

from onebit import pack, quant
from onebit.analyze.claims import Finding
from onebit.errors import OptionError
from onebit.io import Checkpoint, StoredTensor
from onebit.models import stored_weight
from onebit.models.export_weights import linear, step_of
from onebit.pack import Unpacked
from onebit.quant import Codes
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
        if claim.weight == "fp" or report.kind in ("float", "codebook", "zero"):
            compared.append(report)
            continue
        if report.name not in names or masters.tensor(report.name).shape != report.shape:
            raise OptionError(
                f"{masters.path}: no {report.name} of shape {list(report.shape)}. "
                "Name the masters of this model."
            )
        master = masters.tensor(report.name)
        step = step_of(masters, master, claim)
        found = _findings(made.tensor(report.name), master, claim, step)
        compared.append(replace(report, findings=(*report.findings, *found)))
    return compared


def _findings(
    made: StoredTensor, master: StoredTensor, claim: LinearScheme, step: torch.Tensor | None = None
) -> list[Finding]:
    here, there = _codes(made, claim), _codes(master, claim, step)
    if here is None or there is None:
        return [Finding("error", "the masters do not quantize to weights of this kind")]
    different = int(np.count_nonzero(here.codes_NK != there.codes_NK))
    if different:
        share = f"{different:,} of {here.codes_NK.size:,} codes"
        return [Finding("error", f"{share} differ from those that the masters round to")]
    G = math.lcm(here.scale_NG.shape[1], there.scale_NG.shape[1])
    used = np.count_nonzero(here.codes_NK.reshape(len(here.codes_NK), G, -1), axis=2) > 0
    if not _same_minimum(here, there, G):
        return [Finding("error", "the zero-points differ from those that the masters round to")]
    ours, theirs = (_widened(w.scale_NG, G)[used].astype(np.float64) for w in (here, there))
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


def _codes(
    tensor: StoredTensor, claim: LinearScheme, step: torch.Tensor | None = None
) -> Unpacked | None:
    """Return codes and scale of a tensor: its own, or those that it rounds to."""
    if tensor.format in pack.FORMATS:
        unpacked = stored_weight.unpacked(tensor)
        return unpacked if unpacked is not None and _fits(unpacked, claim) else None
    weights = linear(tensor, claim, step)
    return None if isinstance(weights, np.ndarray) else weights


def _fits(weights: Unpacked, claim: LinearScheme) -> bool:
    """Whether the codes are of the kind that the scheme names."""
    codes = Codes(torch.from_numpy(weights.codes_NK), torch.from_numpy(weights.scale_NG))
    minimum = weights.minimum_NG is None or stored_weight.has_zero_point(claim)
    return minimum and quant.grid.fits(codes, claim)


def _same_minimum(here: Unpacked, there: Unpacked, G: int) -> bool:
    ours, theirs = here.minimum_NG, there.minimum_NG
    if ours is None or theirs is None:
        return ours is theirs
    return bool((_widened(ours, G) == _widened(theirs, G)).all())


def _widened(factor_NG: NDArray[np.float32], G: int) -> NDArray[np.float32]:
    """Return a scale or minimum in G groups per row, (N, G)."""
    return np.repeat(factor_NG, G // factor_NG.shape[1], axis=1)
