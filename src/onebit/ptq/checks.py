"""What is refused before a weight is read, since it would fail after hours."""

from collections.abc import Mapping
from pathlib import Path

from onebit import pack
from onebit.errors import InputError, OptionError, ShapeError
from onebit.models import export_gguf, stored_weight
from onebit.models.export import check_out
from onebit.models.export_plan import EMBED_FORMATS, FORMATS
from onebit.ptq import probe, size
from onebit.ptq.calibration import Calibration
from onebit.ptq.chain import Chain
from onebit.ptq.method import Method
from onebit.ptq.options import Options
from onebit.ptq.plan import FLOAT, KEEP, Held
from onebit.ptq.source import Source, finite
from onebit.runtime.load import PART_COLUMNS
from onebit.scheme import FP, of_config, role_of
from onebit.tensors import linears

BLOCK_METHOD = "kquants"
"""What rounds to block formats of ggml, whichever method rounds the other layers."""


def has_blocks(held: Mapping[str, Held]) -> bool:
    """Return whether a layer goes into a block format of ggml."""
    return any(h.format not in ("", KEEP, FLOAT) for h in held.values())


def has_static(held: Mapping[str, Held]) -> bool:
    """Return whether a layer's activations are static."""
    return any(h.scheme.static and h.format != KEEP for h in held.values())


def options_taken(
    methods: Chain, held: Mapping[str, Held], known: Mapping[str, Method]
) -> set[str]:
    """Return the names of the options that a run takes.

    Raises:
        OptionError: the rounding and the way that layers are to be held do not fit each other.
    """
    used = [method for _, method in methods.methods]
    if has_blocks(held):
        if BLOCK_METHOD not in known:
            raise OptionError(f"nothing rounds to block formats of ggml; {BLOCK_METHOD} is absent.")
        used.append(known[BLOCK_METHOD])
        if methods.rounding[0] != BLOCK_METHOD and all(h.scheme == FP for h in held.values()):
            raise OptionError(
                f"{methods.rounding[0]} rounds to no block format of ggml; take {BLOCK_METHOD}, or "
                "a scheme such as w4a16-g64."
            )
    elif methods.rounding[0] == BLOCK_METHOD:
        raise OptionError(
            f"{BLOCK_METHOD} rounds to block formats of ggml, for instance q4_k; the scheme names "
            "none."
        )
    own = {"seed", "input_clip"} if has_static(held) else {"seed"}
    return {name for method in used for name in method.options} | own


def check(
    source: Source,
    layers: Mapping[str, tuple[int, int]],
    held: Mapping[str, Held],
    out: Path,
    force: bool,
) -> None:
    """Refuse what cannot be rounded or written as it is asked.

    Args:
        source: the float model.
        layers: name -> (N, K) of its linears.
        held: name -> how it is to be held.
        out: where the result goes; `force` says that it may be overwritten.

    Raises:
        OptionError: the model's own layers have norms or turns, the scheme would put a norm into
            it, `out` exists or is the model, or its container has no such format.
        MissingError, UnsupportedError: GGUF cannot say what the model is.
        ShapeError: a layer does not fit its groups or blocks.
    """
    own = of_config(source.config)
    if any(linear.norm != "none" or linear.hadamard != "none" for linear in own.layers.values()):
        raise OptionError(
            f"{source.checkpoint.path}: its layers have norms or Hadamard turns inside, of "
            f"scheme {own.name!r}, which float layers have not. Take the float model."
        )
    for name, (N, K) in layers.items():
        scheme = held[name].scheme
        if scheme.norm != "none":
            raise OptionError(
                f"scheme: norm {scheme.norm!r} of {name} would put a norm into a trained model. "
                'Quantizing after training takes norm "none".'
            )
        if K % (scheme.group or 1):
            fits = [g for g in (256, 128, 64, 32, 16) if K % g == 0]
            raise ShapeError(
                f"{name}: {K} columns do not split into groups of {scheme.group}. Groups that fit: "
                f'{", ".join(map(str, fits))}, or "row".'
            )
        if scheme.planes > 1 and K % PART_COLUMNS:
            raise ShapeError(
                f"{name}: {K} columns in two planes of trits; the engine takes a multiple of "
                f"{PART_COLUMNS} columns. Give this layer another scheme by a plan."
            )
        with stored_weight.named(name):
            if held[name].format != KEEP:
                size.size_bytes(held[name], N, K)
    check_out(out, source.checkpoint.path, force)
    if _container(out) == "gguf":
        export_gguf.check(source.checkpoint)
    accepted = FORMATS[_container(out)]
    for name, layer in held.items():
        if layer.format not in ("", KEEP, *accepted):
            raise OptionError(
                f"{name}: a folder of safetensors holds no {layer.format}; accepted: "
                f"{', '.join(accepted)}, or an OUT that ends in .gguf."
            )


def _container(out: Path) -> str:
    return "gguf" if out.suffix == ".gguf" else "safetensors"


def check_methods(
    methods: Chain,
    held: Mapping[str, Held],
    settings: Options,
    calibrated: bool,
    known: Mapping[str, Method],
) -> None:
    """Refuse a rounding that does not know the grid of a layer.

    Raises:
        OnebitError: what the method has against it, the layer's name in front.
    """
    asked = set()
    for name, layer in held.items():
        if layer.format in (KEEP, FLOAT) or layer in asked:
            continue
        asked.add(layer)
        method = known[BLOCK_METHOD] if layer.format else methods.rounding[1]
        with stored_weight.named(name):
            probe.check(method, layer, settings, calibrated)


def check_finite(source: Source) -> None:
    """Refuse a model that holds a number that is not finite, wherever it is.

    Raises:
        InputError: a value is not finite.
    """
    for name in source.names():
        finite(source, name)


def check_tokens(text: Calibration, source: Source) -> Calibration:
    """Return the calibration windows.

    Raises:
        OptionError: they are no windows, or longer than the model's context.
        InputError: the model has not these tokens.
    """
    a, ids_WT = source.architecture, text.tokens_WT
    if ids_WT.ndim != 2 or 0 in ids_WT.shape or ids_WT.shape[1] > a.max_position_embeddings:
        raise OptionError(
            f"calibration: tokens of shape {ids_WT.shape}; accepted: (windows, tokens), at most "
            f"{a.max_position_embeddings} tokens, the model's context."
        )
    low, high = int(ids_WT.min()), int(ids_WT.max())
    if low < 0 or high >= a.vocab_size:
        raise InputError(
            f"calibration: token {low if low < 0 else high}, and the model has {a.vocab_size}. "
            "Take the tokenizer that the model was trained with."
        )
    return text


def check_embed(source: Source, out: Path, embed: str | None) -> None:
    """Refuse a format of embedding and head that the export would refuse.

    Raises:
        OptionError: there is no such format, or not in this container.
        ShapeError: a row does not fit its blocks.
    """
    if embed is None:
        return
    container = _container(out)
    if embed not in EMBED_FORMATS[container]:
        raise OptionError(
            f"embed is {embed!r:.40}; accepted in {container}: "
            f"{', '.join(EMBED_FORMATS[container])}."
        )
    for linear in linears(source.architecture):
        if role_of(linear.name) in ("embed", "head") and embed in pack.FORMATS:
            with stored_weight.named(linear.name):
                pack.find(embed).size_bytes(linear.N, linear.K)
