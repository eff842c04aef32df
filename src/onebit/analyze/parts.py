"""Whether a file holds the tensors that its config describes: all of them, so shaped, no others.

A file that lost a layer still has weights that are what their scheme says. It is not the model
that its config claims, though: no engine can run it.
"""

from collections.abc import Mapping, Sequence

from onebit import pack, tensors
from onebit.analyze.claims import Finding
from onebit.architecture import MODEL_TYPES, Architecture
from onebit.errors import OptionError, UnsupportedError
from onebit.io import Checkpoint
from onebit.scheme import SCHEMES, Scheme


def judge(
    checkpoint: Checkpoint, found: Mapping[str, tuple[int, ...]], scheme: Scheme | None
) -> list[Finding]:
    """Hold a file's tensors against its config.

    Args:
        checkpoint: the open file.
        found: the shape of each tensor in it, by name.
        scheme: what it claims; it decides which layers have a norm inside.
    """
    try:
        architecture = Architecture.from_config(checkpoint.config)
        wanted = tensors.shapes(architecture, scheme or SCHEMES["fp"])
    except UnsupportedError as error:
        said = str(error).rstrip(".")
        if checkpoint.config.get("model_type") in MODEL_TYPES:
            return [Finding("error", f"nothing loads it: {said}")]  # a model that we know
        return [Finding("note", f"names and shapes were not held against the config ({said})")]
    except OptionError as error:
        return [Finding("error", str(error).rstrip("."))]
    idle = _idle_steps(checkpoint, wanted)
    wanted = {name: shape for name, shape in wanted.items() if name not in idle}
    found = {name: shape for name, shape in found.items() if name not in idle}
    findings = []
    if missing := [name for name in wanted if name not in found]:
        findings.append(_finding(missing, "not in the file, and the config asks for"))
    if spare := tensors.spare(found, wanted):
        kind = architecture.model_type
        findings.append(_finding(spare, f"in the file, and a {kind} model of this config lacks"))
    findings += [
        Finding("error", f"{name} has shape {list(found[name])}; the config asks for {list(shape)}")
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    return findings


def _idle_steps(checkpoint: Checkpoint, wanted: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the learned steps of layers that are codes already: there or not, nothing reads them.

    Only float masters are rounded by their step.
    """
    there = set(checkpoint.names())
    weights = {
        name: f"{name.removesuffix('.step')}.weight" for name in wanted if name.endswith(".step")
    }
    return {
        step
        for step, weight in weights.items()
        if weight in there and checkpoint.tensor(weight).format in pack.FORMATS
    }


def _finding(names: Sequence[str], what: str) -> Finding:
    """Name the first tensor of many."""
    if not names[1:]:
        return Finding("error", f"{names[0]!r:.100} is {what} it")
    more = f"{len(names) - 1} other{'s' if names[2:] else ''}"
    return Finding("error", f"{names[0]!r:.100} and {more} are {what} them")
