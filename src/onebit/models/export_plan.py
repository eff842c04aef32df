"""What an export will write, decided and checked before the first byte.

Each tensor gets one format: the linear layers that the scheme quantizes get the one asked for,
embedding and head get `embed`, and so do linear layers that a scheme leaves float among others that
it does not; norms and biases are float32.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from onebit import pack
from onebit.errors import OptionError, ShapeError, UnsupportedError
from onebit.io import Checkpoint, StoredTensor
from onebit.models.export_weights import FLOATS, TERNARY, scale_shape
from onebit.scheme import FP, LinearScheme, Scheme, role_of

Progress = Callable[[int, int], None]

FORMATS = {
    "gguf": ("t1_6", "t2", "tq1_0", "tq2_0", "i2_s", "q8_0", "f16", "bf16", "f32"),
    "safetensors": ("t1_6", "t2", "hf_2bit", "f16", "bf16", "f32"),
}
"""Container -> the formats of its linear layers."""
EMBED_FORMATS = {"gguf": ("f16", "f32", "bf16", "q8_0"), "safetensors": ("f16", "f32", "bf16")}

_COMPUTED = ("rotary_emb.inv_freq",)  # buffers of old checkpoints that follow from the config


@dataclass(frozen=True)
class Planned:
    """A tensor that will be written."""

    name: str
    """Hugging Face's."""
    part: str
    """"body" (linear layers), "embed", "head" or "other" (norms, biases)."""
    format: str
    shape: tuple[int, ...]
    claim: LinearScheme
    """What the scheme says of it; FP for what is no linear layer."""
    scale_shape: tuple[int, ...] | None = None
    """Of the scale that is stored beside it, where there is one."""

    @property
    def matrix(self) -> tuple[int, int]:
        """`shape` of what is known to be a matrix (N, K)."""
        N, K = self.shape
        return N, K


def plan(
    checkpoint: Checkpoint, scheme: Scheme, container: str, format: str, embed: str
) -> list[Planned]:
    """Return what is to be written, in the source's order.

    Raises:
        OptionError: the container has no such format.
        ShapeError: a matrix does not fit its format.
        UnsupportedError: the format cannot say what the scheme does.
    """
    _one_of("format", format, FORMATS[container], container)
    _one_of("embed", embed, EMBED_FORMATS[container], container)
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    planned = []
    for name in checkpoint.names():
        if name.endswith(_COMPUTED) or (tied and name == "lm_head.weight"):
            continue
        tensor = checkpoint.tensor(name)
        entry = _planned(tensor, scheme, format, embed)
        if len(entry.shape) == 2:
            _check_columns(entry, container)
            _check_scales(entry, tensor)
        if entry.format in pack.FORMATS and not pack.FORMATS[entry.format].scale_inside:
            entry = replace(entry, scale_shape=scale_shape(tensor, entry.claim))
        planned.append(entry)
    if format == "hf_2bit":
        _check_hf(planned)
    return planned


def _one_of(option: str, given: str, accepted: Sequence[str], container: str) -> None:
    if given not in accepted:
        raise OptionError(
            f"export: {option} is {given!r}; a {container} file takes {', '.join(accepted)}."
        )


def _planned(tensor: StoredTensor, scheme: Scheme, format: str, embed: str) -> Planned:
    module, _, kind = tensor.name.rpartition(".")
    role = role_of(module)
    if kind != "weight" or not role or len(tensor.shape) != 2:
        return Planned(tensor.name, "other", "f32", tensor.shape, FP)
    claim = scheme.linear(module)
    part = role if role in ("embed", "head") else "body"
    left_float = scheme.quantized and claim.weight == "fp"
    if claim.weight == "fp" and (part != "body" or (left_float and format in TERNARY)):
        return Planned(tensor.name, part, embed, tensor.shape, claim)
    return Planned(tensor.name, part, format, tensor.shape, claim)


def _check_columns(entry: Planned, container: str) -> None:
    """Refuse a width that does not fill the format's blocks, naming the formats that fit."""
    N, K = entry.shape
    if entry.format in FLOATS:
        return
    columns = pack.FORMATS[entry.format].columns
    if K % columns:
        fits = [f for f in FORMATS[container] if f in FLOATS or not K % pack.FORMATS[f].columns]
        raise ShapeError(
            f"{entry.name}: {K} columns do not fill {entry.format}'s blocks of {columns}. "
            f"Formats that fit: {', '.join(fits)}."
        )
    if entry.format == "hf_2bit" and N % 4:
        raise ShapeError(
            f"{entry.name}: {N} rows; transformers unpacks hf_2bit four rows at a time, so they "
            "must be a multiple of 4. Formats that fit: t1_6, t2."
        )


def _check_scales(entry: Planned, tensor: StoredTensor) -> None:
    """Refuse a scheme that shares its scales in a way that the format cannot hold."""
    if entry.format in FLOATS or entry.claim.weight == "fp" or tensor.format not in FLOATS:
        return
    columns = pack.FORMATS[entry.format].columns
    group = entry.claim.group
    one_scale = entry.format in ("i2_s", "hf_2bit") and entry.claim.weight_scale != "tensor"
    if one_scale or (group and group % columns):
        holds = "one scale per tensor" if one_scale else f"a scale per {columns} columns"
        raise ShapeError(
            f"{entry.name}: the scheme has one scale per {entry.claim.weight_scale}, and "
            f"{entry.format} holds {holds}. Formats that fit: t1_6, t2."
        )


def _check_hf(planned: list[Planned]) -> None:
    """Refuse what transformers would compute otherwise: its layers round every input to int8."""
    claims = {entry.claim for entry in planned if entry.format == "hf_2bit"}
    for entry in planned:
        if entry.format == "hf_2bit" and entry.claim.activation != "int8_absmax":
            raise UnsupportedError(
                f"{entry.name}: hf_2bit layers round their input to int8 per token, and the scheme "
                f"says {entry.claim.activation!r}. Export as t1_6 or t2, or to GGUF."
            )
    if len({claim.norm for claim in claims}) > 1:
        raise UnsupportedError(
            "hf_2bit: some layers have a norm inside and some have not; transformers knows only "
            "all or none. Export as t1_6 or t2, or to GGUF."
        )
