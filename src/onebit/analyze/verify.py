"""Say tensor by tensor what a model's weights really are, and whether they match its scheme.

    report = verify("model.gguf")
    report.ok, report.ternary_share, report.tensors[0].kind

The weights are looked at (`grid`), then held against what the file claims of them (`claims`), and
the list of tensors against the shape of model that its config describes (`parts`). No torch,
one tensor in memory at a time.

What this can say: the kind of every matrix, exactly; zeros, scales, bits; whether that is what the
scheme says; most traces of a second rounding. What one file cannot say: whether a lone float32
scale was shrunk by a second rounding of float32 weights, and whether the codes are the right ones.
The masters can: pass `against`.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onebit import pack
from onebit import scheme as schemes
from onebit.analyze import claims, parts
from onebit.analyze.claims import Finding, Storage
from onebit.analyze.grid import Grid, of_tensor
from onebit.architecture import RECURRENT
from onebit.errors import FormatError, OptionError
from onebit.io import Checkpoint, StoredTensor, open_checkpoint
from onebit.pack import plain
from onebit.scheme import SCHEMES, Scheme
from onebit.tensors import LOWER_BOUNDS

_LINEAR_BODY = ("q", "k", "v", "i", "f", "g", "o", "gate", "up", "down")


@dataclass(frozen=True)
class TensorReport:
    """One matrix: what is claimed, what it is, what it costs."""

    name: str
    role: str
    """"A role of a scheme, or "" for a matrix of none that we know."""
    shape: tuple[int, int]
    format: str
    """How it is stored."""
    claim: str
    """What the scheme says of its weights; "" where the file has no scheme."""
    input: str
    """What the scheme says of its input: norm, Hadamard matrix, rounding; "" for nothing."""
    kind: str
    """What it is: "ternary", "binary", "int4" ..., "codebook", "float", "zero"."""
    levels: int | None
    """Distinct values that share a scale; None for more than 256."""
    values: int | None
    """Distinct values of the whole matrix; None where they are not counted: among 32-bit floats
    more than 256, and under several scales."""
    zeros: float
    """Share of weights that are 0."""
    sharing: str
    """What shares a scale: "tensor", "row", "group:G", or "" for floats."""
    scale: tuple[float, float] | None
    """The least and the greatest scale of a ternary or binary matrix, and of integer codes."""
    stored_bits: float
    """Bits per weight in the file, scales included."""
    entropy_bits: float | None
    """Bits per weight that a perfect code for these levels would take; None for floats."""
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def weights(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Report:
    """A model: its matrices, and the sums over them."""

    path: str
    scheme: str
    """The name of the scheme that the file carries; "" if it has none."""
    kv_bits: int
    """Of keys and values after RoPE, as the scheme says; 16 where nothing does."""
    q_bits: int
    """Of queries."""
    tensors: tuple[TensorReport, ...]
    findings: tuple[Finding, ...]
    """About the model as a whole."""
    parameters: int
    """Of the file: matrices, norms and biases."""
    size_bytes: int
    """Of all tensors in the file."""

    @property
    def ok(self) -> bool:
        """Whether the model is what its scheme claims."""
        whole = all(finding.level != "error" for finding in self.findings)
        return whole and all(tensor.ok for tensor in self.tensors)

    @property
    def ternary_share(self) -> float:
        """Share of all parameters that stand on a ternary grid."""
        return sum(t.weights for t in self.tensors if t.kind == "ternary") / self.parameters

    @property
    def shares(self) -> dict[str, float]:
        """Share of all parameters of each kind that is codes: "ternary", "binary", "int4" ..."""
        kinds = sorted(
            {t.kind for t in self.tensors if t.kind not in ("float", "codebook", "zero")}
        )
        return {
            kind: sum(t.weights for t in self.tensors if t.kind == kind) / self.parameters
            for kind in kinds
        }

    @property
    def bits_per_weight(self) -> float:
        """Of everything in the file."""
        return 8 * self.size_bytes / self.parameters

    @property
    def body_bits_per_weight(self) -> float | None:
        """Of the linear layers without embedding and head; None if there are none."""
        body = [t for t in self.tensors if t.role in _LINEAR_BODY]
        weights = sum(t.weights for t in body)
        return sum(t.stored_bits * t.weights for t in body) / weights if weights else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, sums included."""
        tensors = [asdict(tensor) | {"ok": tensor.ok} for tensor in self.tensors]
        return asdict(self) | {
            "tensors": tensors,
            "ok": self.ok,
            "ternary_share": self.ternary_share,
            "shares": self.shares,
            "bits_per_weight": self.bits_per_weight,
            "body_bits_per_weight": self.body_bits_per_weight,
        }


def verify(
    model: str | Path | Checkpoint,
    against: str | Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Look at every weight of a model.

    Args:
        model: a folder, a file or a catalog name, or an open checkpoint.
        against: the masters that the model was made from. Their quantization is done again and
            compared, which decides what the file alone cannot; this needs PyTorch.
        progress: called after each matrix with how many were looked at, and of how many.

    Raises:
        MissingError, FormatError: the file is not there, or is damaged.
        OptionError: its scheme is none we know, or `against` is another model.
    """
    checkpoint = open_checkpoint(model) if isinstance(model, str | Path) else model
    scheme = _claimed(checkpoint.config)
    shapes: dict[str, tuple[int, ...]] = {}
    parameters = size_bytes = 0
    for name in sorted(checkpoint.names(), key=_order):
        tensor = checkpoint.tensor(name)
        shapes[name] = tuple(tensor.shape)
        parameters += _count(tensor.shape)
        size_bytes += _size_bytes(tensor)
    if not parameters:
        raise FormatError(f"{checkpoint.path}: holds no weights. The file is damaged.")
    matrices = [n for n, shape in shapes.items() if len(shape) == 2 and n != LOWER_BOUNDS]
    storage = _storage(checkpoint, scheme, matrices)
    tensors = []
    for name in matrices:
        tensors.append(_look(checkpoint.tensor(name), scheme, storage))
        progress(len(tensors), len(matrices))
    if against is not None:
        from onebit.analyze.against import compare  # the one part that loads torch

        tensors = compare(tensors, checkpoint, open_checkpoint(against), scheme or SCHEMES["fp"])
    return Report(
        str(checkpoint.path),
        scheme.name if scheme else "",
        scheme.kv_bits if scheme else 16,
        scheme.q_bits if scheme else 16,
        tuple(tensors),
        (
            *parts.judge(checkpoint, shapes, scheme),
            *_unusable(checkpoint, [name for name in shapes if name not in matrices]),
            *_whole(tensors, storage),
        ),
        parameters,
        size_bytes,
    )


def _claimed(config: Mapping[str, Any]) -> Scheme | None:
    """Return the scheme that a config carries, or None: claiming nothing is not claiming "fp"."""
    hf = _quantization(config).get("quant_method") == "bitnet"
    if "onebit_scheme" in config or hf or config.get("model_type") == RECURRENT:
        return schemes.of_config(config)
    return None


def _quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config in which Hugging Face says how weights are held."""
    found = config.get("quantization_config") or {}
    if not isinstance(found, Mapping):
        raise OptionError(f"quantization_config is {found!r:.80}; expected a table.")
    return found


def _storage(checkpoint: Checkpoint, scheme: Scheme | None, matrices: list[str]) -> Storage:
    """Read off what the file promises about float weights and about stored scales."""
    quantization = _quantization(checkpoint.config)
    hf = quantization.get("quant_method") == "bitnet"
    online = hf and quantization.get("quantization_mode") == "online"
    formats = {
        checkpoint.tensor(name).format
        for name in matrices
        if scheme and scheme.linear(_module(name)).weight != "fp"
    }
    packed = bool(formats - plain.SIZE_BYTES.keys())
    is_gguf = str(checkpoint.path).endswith(".gguf")
    return Storage(
        masters=not is_gguf and not packed and (online or not hf),
        rounds_on_load=online,
        multiplies=quantization.get("linear_class") == "autobitlinear" if hf else None,
    )


def _look(tensor: StoredTensor, scheme: Scheme | None, storage: Storage) -> TensorReport:
    N, K = tensor.shape
    module = _module(tensor.name)
    claim = scheme.linear(module) if scheme else None
    grid = of_tensor(tensor, claims.group_of(claim, K) if claim else None)
    return TensorReport(
        name=tensor.name,
        role=schemes.role_of(module),
        shape=(N, K),
        format=tensor.format,
        claim=claim.weight if claim else "",
        input=claims.input_of(claim) if claim else "",
        kind=grid.kind,
        levels=grid.levels,
        values=grid.values,
        zeros=grid.zeros,
        sharing=grid.sharing,
        scale=_range(grid),
        stored_bits=8 * _size_bytes(tensor) / (N * K),
        entropy_bits=grid.entropy_bits,
        findings=tuple(claims.judge(grid, tensor.format, claim, storage, K)),
    )


def _range(grid: Grid) -> tuple[float, float] | None:
    if grid.scale_NG is None or not (used := grid.scale_NG[grid.scale_NG > 0]).size:
        return None
    return float(used.min()), float(used.max())


def _unusable(checkpoint: Checkpoint, names: list[str]) -> list[Finding]:
    """Find norms, biases and bounds that nothing can be computed with."""
    found = []
    for name in names:
        tensor = checkpoint.tensor(name)
        if tensor.format in pack.FORMATS:
            continue
        if tensor.format not in plain.SIZE_BYTES:
            floats = ", ".join(plain.SIZE_BYTES)
            text = f"{name!r:.100} is stored as {tensor.format}; floats are read ({floats})"
            found.append(Finding("error", text))
        elif not np.isfinite(pack.decode(tensor.format, tensor.data, tensor.shape)).all():
            found.append(Finding("error", f"{name!r:.100} holds a number that is not finite"))
    return found


def _whole(tensors: list[TensorReport], storage: Storage) -> list[Finding]:
    """What only shows when all tensors are seen together."""
    found = []
    claimed = [t for t in tensors if t.claim not in ("", "fp")]
    if storage.masters and claimed and all(t.kind == "float" for t in claimed):
        found.append(
            Finding(
                "note",
                f"float masters: the {claimed[0].claim} weights exist once they are quantized; "
                "`onebit export` writes them",
            )
        )
    if storage.masters:
        found += _mixed([t for t in claimed if t.role and t.format in plain.SIZE_BYTES])
    single = [t for t in claimed if t.kind == "ternary" and t.sharing == "tensor" and t.scale]
    scales = ((t.scale[0], 1 - t.zeros) for t in single if t.scale)
    hits, asked = claims.sixteen_bit_traces(scales)
    if hits >= 3 and 2 * hits > asked:
        found.append(
            Finding(
                "error",
                f"quantized twice: in {hits} of {asked} tensors the scale is a 16-bit float times "
                "the share of non-zeros. Export again from the masters",
            )
        )
    return found


def _mixed(floats: list[TensorReport]) -> list[Finding]:
    """Find float weights among some that lie on their grid: a model has one or the other.

    A single weight that changed takes its matrix off the grid, where it looks like masters.
    """
    masters = [t for t in floats if t.kind in ("float", "codebook")]
    rounded = [t for t in floats if t.kind not in ("float", "codebook", "zero")]
    if not masters or not rounded:
        return []
    first = masters[0]
    counted = first.levels if first.values is None else first.values
    levels = "many" if counted is None else f"{counted:,}"
    return [
        Finding(
            "error",
            f"{len(rounded)} of {len(floats)} float matrices lie on a grid and the others do not "
            f"({first.name!r:.100}: {levels} values): damaged, or quantized in part. "
            "`onebit export` would round the others as if they were masters",
        )
    ]


def _order(name: str) -> tuple[bool, list[tuple[int, str]]]:
    """Order names as a reader counts: layer 9 before layer 10, the head last."""
    parts = ((len(part) if part.isdigit() else 0, part) for part in name.split("."))
    return name.startswith("lm_head"), list(parts)


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for width in shape:
        count *= width
    return count


def _size_bytes(tensor: StoredTensor) -> int:
    return int(tensor.data.nbytes) + (0 if tensor.scale is None else int(tensor.scale.nbytes))
