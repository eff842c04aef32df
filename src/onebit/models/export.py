"""Export: a model in any form we read, to a file that others read, its codes packed.

    export("runs/demo/model", "demo.gguf", "tq2_0")     llama.cpp
    export("runs/demo/model", "demo.gguf")              onebit, in the fewest bits: 1.6 for ternary
    export("runs/demo/model", "demo-hf", "hf_2bit")     transformers

Every width is held against its format before anything is written; weights on a grid keep their
codes and scale; what is to be ternary must be ternary. The file is there whole or not at all, and
the same model gives the same bytes.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onebit import scheme as schemes
from onebit.architecture import Architecture
from onebit.errors import FileError, OptionError
from onebit.io import Checkpoint, open_checkpoint
from onebit.models import export_folder, export_gguf
from onebit.models.export_plan import FORMATS, Planned, Progress, plan
from onebit.models.export_weights import FLOATS, TERNARY
from onebit.models.load import skeleton
from onebit.scheme import SCHEMES, Scheme

__all__ = ["FORMATS", "ExportReport", "export"]

_MODEL_FILES = (".json", ".safetensors", ".jinja", ".model", ".txt", ".md")


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    path: str
    container: str
    """"gguf" or "safetensors"."""
    scheme: str
    """Name of the scheme that the written model carries."""
    format: str
    """Of the linear layers; several names where they differ."""
    embed: str
    """Of embedding and head; two names where they differ."""
    parameters: int
    size_bytes: int
    """Of the file or folder."""
    body_weights: int
    body_bits_per_weight: float
    """Of the linear layers without embedding and head, scales included."""
    part_bytes: Mapping[str, int]
    """Bytes of the tensors of "body", "embed", "head" and "other" (norms, biases)."""
    rounded_again: Mapping[str, int]
    """"q8_0 to q4_0" -> weights that were in codes already, and lost by being rounded to others."""
    tensor_bytes: Mapping[str, int]
    """Of every tensor by its Hugging Face name, scales included."""


def export(
    source: str | Path | Checkpoint,
    out: str | Path,
    format: str | None = None,
    *,
    embed: str | None = None,
    formats: Mapping[str, str] | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> ExportReport:
    """Write a model to `out` for others to run.

    Args:
        source: a folder, a file or a catalog name, or an open checkpoint.
        out: a file that ends in .gguf, or a folder for safetensors.
        format: of the linear layers: t1_6, t2, tq1_0, tq2_0, i2_s or hf_2bit for ternary models,
            b1 for binary ones; i2 to i8 for integers; q8_0, f16, bf16 or f32 for any model that is
            not of integers, and q6_k to q4_0 for any that is in no codes. A ternary model written
            as these keeps its grid. None gives each layer what holds its codes in the fewest bits:
            t1_6, b1, or i2 to i8.
        embed: of embedding and head: f16, f32, bf16, and for GGUF q8_0, q6_k, q5_k, q5_1, q5_0,
            q4_k, q4_1 or q4_0. Default: the format of the linear layers if it is a float type;
            else, for GGUF, blocks of codes that are there already, or q8_0; f16 for safetensors.
            f32 repeats the trained model's logits exactly where f16 is within 0.05 % of each
            embedding.
        formats: of single linear layers, by the name of their module; before `format`.
        force: overwrite what is at `out`.
        progress: called after each tensor with how many are written, and of how many.

    Raises:
        MissingError, FormatError: the source, or its tokenizer, is not there or damaged, or does
            not hold the model that its config describes.
        OptionError: no such format, or it does not hold a layer's codes; `out` exists; or it is the
            source.
        NotTernaryError: a ternary format is asked for weights that are not.
        ShapeError: a width does not fit the format.
        UnsupportedError: the format cannot say what the model does.
        FileError: the system refused; what was at `out` before is still there.
    """
    out = Path(out)
    container = "gguf" if out.suffix == ".gguf" else "safetensors"
    checkpoint = open_checkpoint(source) if isinstance(source, str | Path) else source
    check_out(out, checkpoint.path, force)
    skeleton(checkpoint)  # refuses a file that does not hold the model of its config
    scheme = schemes.of_config(checkpoint.config)
    planned = plan(checkpoint, scheme, container, format, embed, formats or {})
    config = _config(checkpoint.config, scheme, format, bool(formats))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{out.parent}: cannot be made ({error.strerror}).") from error
    if container == "gguf":
        sizes = export_gguf.write(out, checkpoint, config, planned, format, progress)
    else:
        float_type = embed or (format if format in FLOATS else "f16")
        sizes = export_folder.write(out, checkpoint, config, planned, float_type, progress)
    written = schemes.of_config(config).name
    return _report(out, container, written, planned, sizes)


def check_out(out: Path, origin: Path, force: bool) -> None:
    """Refuse a place that must not be overwritten.

    Raises:
        OptionError: it is taken, is the model at `origin`, or is no name for a model.
        FileError: the system refused to look.
    """
    try:
        _check_out(out, origin, "gguf" if out.suffix == ".gguf" else "safetensors", force)
    except OSError as error:
        raise FileError(f"{out}: cannot be written ({error.strerror}). Name another.") from error


def _check_out(out: Path, origin: Path, container: str, force: bool) -> None:
    if out.suffix in (".safetensors", ".bin", ".pt") or out.name in ("", ".."):
        raise OptionError(f"{out}: name a new folder for safetensors, or a file ending in .gguf.")
    if out.suffix != ".gguf" == out.suffix.lower():
        raise OptionError(f"{out}: write .gguf in small letters, or name a folder.")
    if not out.exists():
        return
    if origin.exists() and out.resolve() in (origin.resolve(), origin.resolve().parent):
        raise OptionError(f"{out} is the model that is exported. Name another place with -o.")
    if not force:
        raise OptionError(f"{out} exists. Name another place with -o, or pass --force.")
    if out.is_dir() != (container == "safetensors"):
        kind = "folder" if out.is_dir() else "file"
        raise OptionError(
            f"{out} is a {kind}, and a {container} export is not. Name another place."
        )
    if out.is_dir() and not all(_is_models(file) for file in out.iterdir()):
        raise OptionError(
            f"{out} holds more than a model, and a folder is replaced whole. Name another place."
        )


def _is_models(file: Path) -> bool:
    return file.is_file() and (file.suffix in _MODEL_FILES or file.name == ".gitattributes")


def _config(
    source: Mapping[str, Any], scheme: Scheme, format: str | None, formats: bool
) -> dict[str, Any]:
    """Return the config of the model that is written; what describes only the source stays out.

    Weights that pass into a ternary format are ternary, whether or not the source says so. Where
    single layers have formats of their own, the scheme is as it is.
    """
    config = Architecture.from_config(source).to_config()
    if not formats and (format is None or format in TERNARY) and not scheme.quantized:
        scheme = SCHEMES["ternary-weights"]
    if scheme.quantized or "onebit_scheme" in source:
        config["onebit_scheme"] = scheme.to_dict()
    return config


def _report(
    out: Path,
    container: str,
    scheme: str,
    planned: list[Planned],
    sizes: Mapping[str, int],
) -> ExportReport:
    counts = {entry.name: _count(entry.shape) for entry in planned}
    parts = dict.fromkeys(("body", "embed", "head", "other"), 0)
    for entry in planned:
        parts[entry.part] += sizes[entry.name]
    again: Counter[str] = Counter()
    for entry in planned:
        if entry.rounded_again:
            again[f"{entry.source} to {entry.format}"] += counts[entry.name]
    bodies = {entry.format for entry in planned if entry.part == "body"}
    embeds = {entry.format for entry in planned if entry.part in ("embed", "head")}
    body = sum(counts[entry.name] for entry in planned if entry.part == "body")
    files = out.iterdir() if out.is_dir() else [out]
    static = (".input_scale", ".input_zero")
    return ExportReport(
        path=str(out),
        container=container,
        scheme=scheme,
        format=", ".join(sorted(bodies)),
        embed=", ".join(sorted(embeds)),
        parameters=sum(n for name, n in counts.items() if not name.endswith(static)),
        size_bytes=sum(file.stat().st_size for file in files),
        body_weights=body,
        body_bits_per_weight=8 * parts["body"] / body if body else 0.0,
        part_bytes=parts,
        rounded_again=dict(again),
        tensor_bytes=dict(sizes),
    )


def _count(shape: tuple[int, ...]) -> int:
    count = 1
    for width in shape:
        count *= width
    return count
