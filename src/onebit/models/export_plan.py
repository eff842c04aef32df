"""What an export will write, decided and checked before the first byte.

Each tensor gets one format: the linear layers that the scheme quantizes get the one asked for, or
each the one that holds its codes in the fewest bits; embedding and head get `embed`; linear layers
that a scheme leaves float among others that it does not stay float, in `embed` if that is a float
type; norms and biases are float32.

Where `embed` is not given, an embedding that is in blocks of codes keeps them, and any other gets
the smallest format whose cost in perplexity was measured to be below 0.1 %: q8_0 (docs/log.md).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from onebit import pack, tensors
from onebit.errors import OptionError, ShapeError, UnsupportedError
from onebit.io import Checkpoint, StoredTensor
from onebit.models.export_weights import (
    BLOCKS,
    FLOATS,
    OURS,
    TERNARY,
    holding,
    scale_shape,
    scale_type,
    zero_rows,
)
from onebit.models.stored_weight import has_zero_point
from onebit.scheme import FP, LinearScheme, Scheme, role_of

Progress = Callable[[int, int], None]

FORMATS = {
    "gguf": (*OURS, "tq1_0", "tq2_0", "i2_s", *BLOCKS, "f16", "bf16", "f32"),
    "safetensors": (*OURS, "hf_2bit", "f16", "bf16", "f32"),
}
"""Container -> the formats of its linear layers."""
EMBED_FORMATS = {"gguf": (*FLOATS, *BLOCKS), "safetensors": tuple(FLOATS)}
"""Container -> the formats of embedding and head."""
DEFAULT_EMBED = "q8_0"
"""In GGUF, if its blocks fill the width; else f16."""

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
    source: str
    """The format that it has in the source."""
    scale_shape: tuple[int, ...] | None = None
    """Of the scale that is stored beside it, where there is one."""

    scale_type: str = "f32"
    """Of that scale: "f32" or "f16"."""

    @property
    def zero_shape(self) -> tuple[int, int] | None:
        """Of the bytes of the zero-points that are stored beside the scale, where there are any."""
        if self.scale_shape is None or not has_zero_point(self.claim):
            return None
        rows = zero_rows(self.scale_shape)
        groups = self.scale_shape[1] if len(self.scale_shape) == 2 else 1
        return rows, pack.FORMATS[self.format].size_bytes(rows, groups) // rows

    @property
    def matrix(self) -> tuple[int, int]:
        """`shape` of what is known to be a matrix (N, K)."""
        N, K = self.shape
        return N, K

    @property
    def rounded_again(self) -> bool:
        """Whether it lies in codes of one format and is rounded to those of another."""
        return (
            self.claim.weight == "fp"
            and self.format in BLOCKS
            and self.source in pack.FORMATS
            and self.source not in (self.format, *TERNARY)
        )


def plan(
    checkpoint: Checkpoint,
    scheme: Scheme,
    container: str,
    format: str | None,
    embed: str | None,
    formats: Mapping[str, str] | None = None,
) -> list[Planned]:
    """Return what is to be written, in the source's order. None takes the default.

    `formats` has those of single linear layers, by the name of their module.

    Raises:
        OptionError: the container has no such format, or it cannot hold a layer's codes.
        ShapeError: a matrix does not fit its format.
        UnsupportedError: the format cannot say what the scheme does.
    """
    if format is not None:
        _one_of("format", format, FORMATS[container], container)
    for chosen in (formats or {}).values():
        _one_of("format", chosen, FORMATS[container], container)
    if embed is not None:
        _one_of("embed", embed, EMBED_FORMATS[container], container)
    tied = bool(checkpoint.config.get("tie_word_embeddings"))
    planned = []
    for name in checkpoint.names():
        if name.endswith(_COMPUTED) or (tied and name == "lm_head.weight"):
            continue
        if name.endswith(".step") and scheme.linear(name.removesuffix(".step")).learned:
            continue  # of masters; what is written has its scale
        tensor = checkpoint.tensor(name)
        entry = _planned(tensor, scheme, container, format, embed)
        own = (formats or {}).get(name.removesuffix(".weight"))
        if own is not None:
            entry = replace(entry, format=own)
        if len(entry.shape) == 2:
            _check_codes(entry, scheme, container)
            _check_columns(entry, container)
            _check_scales(entry, tensor)
        if entry.format in pack.FORMATS and not pack.FORMATS[entry.format].scale_inside:
            shape = scale_shape(tensor, entry.claim)
            entry = replace(entry, scale_shape=shape, scale_type=scale_type(tensor, shape))
        planned.append(entry)
    if format == "hf_2bit":
        _check_hf(planned)
    return planned


def _one_of(option: str, given: str, accepted: Sequence[str], container: str) -> None:
    if given not in accepted:
        raise OptionError(
            f"export: {option} is {given!r}; a {container} file takes {', '.join(accepted)}."
        )


def _planned(
    tensor: StoredTensor, scheme: Scheme, container: str, format: str | None, embed: str | None
) -> Planned:
    module, _, kind = tensor.name.rpartition(".")
    role = role_of(module)
    if kind != "weight" or not role or len(tensor.shape) != 2:
        return Planned(tensor.name, "other", "f32", tensor.shape, FP, tensor.format)
    claim = scheme.linear(module)
    part = role if role in ("embed", "head") else "body"
    chosen = format or pack.USUAL.get(claim.weight, pack.USUAL["ternary"])
    if claim.weight == "fp" and part != "body":
        chosen = embed or _default_embed(tensor, container, format)
    elif claim.weight == "fp" and scheme.quantized and chosen in (*TERNARY, *OURS):  # left float
        chosen = embed if embed in FLOATS else "f16"
    N, K = tensor.shape
    shape = (N, K) if tensor.format in pack.FORMATS else tensors.codes_shape(claim, N, K)
    return Planned(tensor.name, part, chosen, shape, claim, tensor.format)


def _default_embed(tensor: StoredTensor, container: str, format: str | None) -> str:
    if format in FLOATS:
        return format
    if container != "gguf":
        return "f16"
    if tensor.format in BLOCKS:
        return tensor.format
    fits = not tensor.shape[1] % pack.FORMATS[DEFAULT_EMBED].columns
    return DEFAULT_EMBED if fits else "f16"


def _check_codes(entry: Planned, scheme: Scheme, container: str) -> None:
    """Refuse a format that does not hold the codes of a layer, naming those that do."""
    if entry.part != "body" and entry.claim.weight == "fp":
        return
    if entry.claim.weight == "fp":
        if entry.format not in _fitting(entry, container):
            raise OptionError(
                f"{entry.name}: {entry.format} holds codes, and scheme {scheme.name!r} leaves this "
                f"layer float. Formats for it: {', '.join((*BLOCKS, *FLOATS))}."
            )
        return
    if entry.format not in _fitting(entry, container):
        holds = [form for form in FORMATS[container] if form in holding(entry.claim)]
        raise OptionError(
            f"{entry.name}: {entry.format} does not hold the codes of {entry.claim.weight} "
            f"weights as they are. Formats that do: {', '.join(holds)}."
        )


def _fitting(entry: Planned, container: str) -> list[str]:
    """Return the formats of the container that `entry`, a linear layer, could be written in."""
    if entry.claim.weight == "fp":
        return [form for form in FORMATS[container] if form not in ("b1", *pack.INTEGERS)]
    ternary = entry.claim.weight in ("ternary", "binary")  # of which `encode` refuses some blocks
    holds = (*holding(entry.claim), *(BLOCKS if ternary else ()))
    return [form for form in FORMATS[container] if form in holds]


def _check_columns(entry: Planned, container: str) -> None:
    """Refuse a width that does not fill the format's blocks, naming the formats that fit."""
    N, K = entry.shape
    if entry.format in FLOATS:
        return
    columns = pack.FORMATS[entry.format].columns
    if K % columns:
        linear = entry.part == "body" or entry.claim.weight != "fp"
        known = _fitting(entry, container) if linear else EMBED_FORMATS[container]
        fits = [f for f in known if f in FLOATS or not K % pack.FORMATS[f].columns]
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
    kind, _, _ = entry.claim.split.partition(":")
    if kind == "in":
        group = entry.shape[1] // entry.claim.parts
    one_scale = entry.format in ("i2_s", "hf_2bit") and (
        entry.claim.weight_scale != "tensor" or kind != "none"
    )
    if one_scale or (group and group % columns):
        holds = "one scale per tensor" if one_scale else f"a scale per {columns} columns"
        shared = entry.claim.weight_scale if kind == "none" else f"part (split {entry.claim.split})"
        raise ShapeError(
            f"{entry.name}: the scheme has one scale per {shared}, and "
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
    for entry in planned:
        claim = entry.claim
        if entry.format == "hf_2bit" and (claim.norm == "layer" or claim.hadamard != "none"):
            what = "a LayerNorm" if claim.norm == "layer" else "a Hadamard matrix"
            raise UnsupportedError(
                f"{entry.name}: the scheme has {what} inside, which transformers does not know. "
                "Export as t1_6 or t2, or to GGUF."
            )
    if len({claim.norm for claim in claims}) > 1:
        raise UnsupportedError(
            "hf_2bit: some layers have a norm inside and some have not; transformers knows only "
            "all or none. Export as t1_6 or t2, or to GGUF."
        )
