"""What a scheme promises of a matrix, held against what the matrix is.

The hard part is a weight that was quantized twice. Absmean on weights that are already ternary,
s times {-1, 0, +1} with a share p of non-zeros, finds the mean magnitude s p: the codes come back
unchanged and the scale is too small by the factor p, 0.69 for what was once Gaussian. Codes and
scale alone do not tell. What tells:

- rows or groups: every scale is s times its own share of non-zeros, so scale / share is the same
  number everywhere, which no first rounding gives;
- one scale: the weights in between usually stood in 16-bit floats, so scale / share lies exactly
  on a bfloat16 or float16, in tensor after tensor, where chance has it in one of hundreds;
- the file itself: weights on a grid, stored as floats under a config that rounds on loading, will
  be quantized a second time by whoever obeys it.

Undetectable: one float32 scale from weights that stood in float32 in between. Only the masters that
it was made from can say (`verify(path, against=masters)`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from onebit.analyze.grid import Grid
from onebit.pack import plain
from onebit.scheme import LinearScheme


@dataclass(frozen=True)
class Finding:
    """Something to say about a tensor, or about the model."""

    level: str
    """"error": the model is not what it claims. "note": worth knowing."""
    text: str


@dataclass(frozen=True)
class Storage:
    """What the file around a tensor promises about its weights."""

    masters: bool
    """Float weights are masters, to be quantized by whoever loads them."""
    rounds_on_load: bool
    """The config asks the loader to round, and names no guard for weights that are rounded."""
    multiplies: bool | None
    """Hugging Face's convention for the stored scale; None where there is but one."""


def judge(
    grid: Grid, format: str, claim: LinearScheme | None, storage: Storage, columns: int
) -> list[Finding]:
    """Return what is to be said about one matrix of so many columns.

    `claim` is None where the file has no scheme.
    """
    found = []
    if not grid.finite:
        found.append(Finding("error", "holds a number that is not finite"))
    on_grid = grid.scale_NG is not None
    if claim is None or claim.weight == "fp":
        if on_grid:
            found.append(Finding("note", f"{grid.kind}, though no scheme says so"))
        return found
    floats = format in plain.SIZE_BYTES
    if floats and grid.kind in ("float", "codebook", "zero") and storage.masters:
        return found  # nothing is rounded yet, and nothing says it should be
    found += _kind(grid, floats, claim)
    if on_grid:
        found += _sharing(grid, claim, columns)
    if on_grid and grid.kind in ("ternary", "binary"):
        found += _scale(grid, format, storage)
        if floats:
            found.append(_stored_as_floats(grid, format, storage))
    return found


def _kind(grid: Grid, plain: bool, claim: LinearScheme) -> list[Finding]:
    """Whether the values are of the kind that the scheme names."""
    wanted = "ternary" if claim.planes > 1 else claim.weight
    if grid.kind == wanted or grid.kind == "zero":
        return []
    if grid.kind in ("float", "codebook"):
        many = "more than 256" if grid.levels is None else grid.levels
        what = "float weights that nothing quantized" if plain else "weights of another kind"
        return [Finding("error", f"not {wanted}: {what}, {many} distinct values")]
    if wanted == "ternary" and grid.kind == "binary":
        return [Finding("error", "only two values and no zeros: binary, not ternary")]
    if wanted == "binary" and grid.kind == "ternary":
        zeros = f"{100 * grid.zeros:.1f} % zeros"
        return [Finding("error", f"{zeros}: ternary; binary weights have none")]
    if wanted.startswith("int") and _bits(grid.kind) <= _bits(wanted):
        return []
    return [Finding("error", f"not {wanted}: {grid.kind} weights, {grid.levels} levels")]


def _bits(kind: str) -> int:
    return int(kind[3:]) if kind.startswith("int") else 2


def group_of(claim: LinearScheme, columns: int) -> int | None:
    """Return how many columns share a scale where rows are cut, or None."""
    return columns // claim.parts if claim.split.startswith("in:") else claim.group


def _sharing(grid: Grid, claim: LinearScheme, columns: int) -> list[Finding]:
    """Whether scales change more often than the scheme says."""
    assert grid.scale_NG is not None
    group, wanted = group_of(claim, columns), claim.weight_scale
    if claim.parts > 1:
        wanted = f"group:{group}" if group else "row"
    if _fineness(grid.sharing) <= _fineness(wanted) and not _too_many(grid, claim):
        return []
    count = int(np.unique(grid.scale_NG[grid.scale_NG > 0]).size)
    return [
        Finding(
            "error",
            f"{count} different scales, one per {grid.sharing}; "
            f"the scheme says one per {claim.weight_scale if claim.parts == 1 else 'part'}",
        )
    ]


def _too_many(grid: Grid, claim: LinearScheme) -> bool:
    """Whether a layer in parts has more scales than parts."""
    if claim.parts == 1 or grid.scale_NG is None:
        return False
    return bool(np.unique(grid.scale_NG[grid.scale_NG > 0]).size > claim.parts)


def _fineness(sharing: str) -> float:
    """Order ways to share a scale: the whole tensor, a row, ever smaller groups."""
    kind, _, size = sharing.partition(":")
    return {"tensor": 0.0, "row": 1.0}.get(kind) or (2 + 1 / int(size) if size else 0.0)


def _scale(grid: Grid, format: str, storage: Storage) -> list[Finding]:
    """Whether the scales can be scales of trained weights, and of a first rounding."""
    assert grid.scale_NG is not None
    assert grid.density_NG is not None
    found = []
    highest = float(grid.scale_NG.max())
    if highest > 1:
        looks = f"scale {highest:.4g}, and 1 / {highest:.4g} = {1 / highest:.4g} looks like one"
        if format == "hf_2bit":
            says, other = ("multiply", "divide") if storage.multiplies else ("divide", "multiply")
            found.append(
                Finding("error", f"{looks}: the config says {says}, the numbers say {other}")
            )
        else:
            found.append(Finding("note", f"{looks}: was a divisor stored as a factor?"))
    if _follows_density(grid.scale_NG, grid.density_NG):
        found.append(
            Finding(
                "error",
                "quantized twice: every scale is the same number times its share of non-zeros",
            )
        )
    return found


def _follows_density(scale_NG: NDArray[np.float32], density_NG: NDArray[np.float64]) -> bool:
    """Whether scale / density is one number, to float16, while the scales themselves differ."""
    used = scale_NG > 0
    scale, density = scale_NG[used].astype(np.float64), density_NG[used]
    if scale.size < 8:
        return False
    ratio = scale / density
    float16_step = 2.0**-10
    return bool(
        ratio.max() / ratio.min() - 1 < 2 * float16_step
        and scale.max() / scale.min() - 1 > 8 * float16_step
    )


def _stored_as_floats(grid: Grid, format: str, storage: Storage) -> Finding:
    share = 1 - grid.zeros
    kept = f"already {grid.kind}, stored as {format}"
    if storage.rounds_on_load:
        return Finding(
            "error",
            f"{kept} under a config that rounds on loading: "
            f"that would shrink the scale to {share:.3f} of itself",
        )
    return Finding(
        "note",
        f"{kept}: onebit keeps the grid; a tool that rounds again shrinks the scale "
        f"to {share:.3f} of itself",
    )


def input_of(claim: LinearScheme) -> str:
    """Return in words what a layer does to its input before it multiplies; "" for nothing."""
    said = {"none": [], "rms": ["RMSNorm"], "layer": ["LayerNorm without weights"]}[claim.norm]
    if claim.hadamard != "none":
        of = "" if claim.hadamard == "input" else ", the weights turned too"
        signs = f" with signs of seed {claim.signs}" if claim.signs else ""
        said = [*said, f"Hadamard matrix{signs}{of}"]
    if claim.activation != "fp":
        said = [*said, claim.activation]
    if claim.parts > 1:
        where = "columns" if claim.split.startswith("in:") else "rows"
        said = [*said, f"in {claim.parts} parts by {where}"]
    return "; ".join(said)


def sixteen_bit_traces(scales: Iterable[tuple[float, float]]) -> tuple[int, int]:
    """Count the scales that a second absmean over 16-bit weights left behind.

    Args:
        scales: (scale, share of non-zeros) of each tensor with one scale.

    Returns:
        How many of them, divided by the share, lie on a bfloat16 or float16 to within the rounding
        of a float32 mean; and how many could be asked: a scale that is itself a 16-bit float has
        lost what would tell.
    """
    hits = asked = 0
    for scale, density in scales:
        if scale <= 0 or _is_sixteen_bit(scale, 0.0):
            continue
        asked += 1
        hits += density < 1 and _is_sixteen_bit(scale / density, 3e-6)
    return hits, asked


def _is_sixteen_bit(value: float, tolerance: float) -> bool:
    with np.errstate(over="ignore"):
        nearest: Sequence[float] = (float(ml_dtypes.bfloat16(value)), float(np.float16(value)))
    return any(abs(near - value) <= tolerance * value for near in nearest)
