"""Write a model as one GGUF file, as llama.cpp lays it out.

Names are GGUF's, rows of q and k are permuted for architecture "llama", norms are float32, and the
tokenizer goes along. Codes in formats of our own, which GGUF has no type for, are I8 tensors named
in the key "onebit.tensors" (docs/formats/container.md). Nothing in the file depends on the time,
the machine or the path, so the same model gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onebit import pack
from onebit.data import Tokenizer
from onebit.errors import FormatError, MissingError
from onebit.io import Checkpoint, gguf, gguf_names, packed
from onebit.io.gguf_config import ROPE_FACTORS_NAME, config_to_metadata, rope_factors
from onebit.models import export_weights
from onebit.models.export_plan import Planned, Progress

_FILE_TYPES = {  # of llama.cpp, "mostly" this
    **{"f32": 0, "f16": 1, "bf16": 32},
    **{"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11},
    **{"q4_k": 14, "q5_k": 16, "q6_k": 18},
    **{"tq1_0": 36, "tq2_0": 37, "i2_s": 40},
}
_QUANTIZATION_VERSION = 2  # of ggml's block formats
_UNUSED_TOKEN = 5
# of the source's general.* keys, those that this export decides itself
_DECIDED = ("architecture", "file_type", "quantization_version", "alignment", "size_label")


def write(
    path: Path,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    planned: list[Planned],
    format: str | None,
    progress: Progress,
) -> dict[str, int]:
    """Write the file, one tensor at a time.

    Args:
        config: of the model to be written, in the style of config.json.
        planned: from `export_plan.plan`.
        format: of the linear layers; None where each has its own.
        progress: called after each tensor with how many are written, and of how many.

    Returns:
        The bytes of each tensor, scale included.

    Raises:
        MissingError: the source has no tokenizer.
        NotTernaryError, InputError, ShapeError: a tensor does not fit its format.
        FileError: the system refused; what was at `path` before is still there.
    """
    tokenizer = _tokenizer(checkpoint, int(config["vocab_size"]))
    metadata = _metadata(checkpoint, config, planned, format, tokenizer)
    factors = rope_factors(config)
    model_type = str(config["model_type"])
    declared = _all_declared(config, planned)
    heads = _permuted_heads(metadata["general.architecture"], config)
    sizes = {}
    with gguf.Writer(path, metadata, declared) as file:
        for entry in planned:
            encoded = _encoded(entry, checkpoint, heads)
            own = gguf_names.to_gguf(entry.name, model_type)
            file.write(own, encoded.data)
            if encoded.scale is not None:
                file.write(packed.scale_name(own), encoded.scale)
            if encoded.zero is not None:
                file.write(packed.zero_name(own), encoded.zero)
            sizes[entry.name] = encoded.size_bytes
            progress(len(sizes), len(planned))
        if factors is not None:
            file.write(ROPE_FACTORS_NAME, factors)
    return sizes


def size_bytes(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    planned: list[Planned],
    format: str | None,
    tokenizer: Mapping[str, Any],
) -> int:
    """Return how long the file will be that `write` writes. Arguments as there, and the tokenizer's
    keys, which may be none.
    """
    metadata = _metadata(checkpoint, config, planned, format, tokenizer)
    return gguf.size_bytes(metadata, _all_declared(config, planned))


def check(checkpoint: Checkpoint) -> None:
    """Refuse a model now whose file could not be written after hours of work on it.

    Raises:
        MissingError, FormatError: it has no tokenizer, or that of another model.
        UnsupportedError: GGUF cannot say what the model is, or has no name for a tensor.
    """
    config_to_metadata(checkpoint.config)
    for name in checkpoint.names():
        if not name.endswith((".inv_freq", ".step")):  # which no file gets
            gguf_names.to_gguf(name, checkpoint.config["model_type"])
    _tokenizer(checkpoint, int(checkpoint.config["vocab_size"]))


def _metadata(
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    planned: list[Planned],
    format: str | None,
    tokenizer: Mapping[str, Any],
) -> dict[str, Any]:
    own = config_to_metadata(config)
    general = {
        key: value
        for key, value in checkpoint.metadata.items()
        if key.startswith("general.") and key.removeprefix("general.") not in _DECIDED
    }
    decided: dict[str, Any] = {"general.quantization_version": _QUANTIZATION_VERSION}
    if format in _FILE_TYPES:
        decided["general.file_type"] = _FILE_TYPES[format]
    metadata = own | general | decided | dict(tokenizer)
    tensors = {
        gguf_names.to_gguf(entry.name, config["model_type"]): packed.Packed(
            entry.format, (entry.shape[0], entry.shape[1])
        )
        for entry in planned
        if entry.format in export_weights.OURS
    }
    if tensors:
        metadata[packed.TENSORS_KEY] = packed.to_json(tensors)
    return {key: value for key, value in metadata.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    """Whether this is a list of nothing, whose type nobody can tell."""
    return isinstance(value, list | tuple) and not value


def _tokenizer(checkpoint: Checkpoint, vocab_size: int) -> dict[str, Any]:
    """Return the tokenizer's keys, its tokens filled up to the rows of the embedding."""
    if checkpoint.tokenizer is None:
        raise MissingError(
            f"{checkpoint.path}: no tokenizer.json, and a GGUF file carries its tokenizer. "
            "Put the model's tokenizer files beside it, or export to safetensors."
        )
    metadata = Tokenizer.load(checkpoint.tokenizer.source).to_gguf()
    tokens = list(metadata["tokenizer.ggml.tokens"])
    missing = range(len(tokens), vocab_size)
    if len(tokens) > vocab_size:
        raise FormatError(
            f"{checkpoint.path}: the tokenizer has {len(tokens)} tokens and the embedding "
            f"{vocab_size} rows. It is another model's tokenizer."
        )
    if not missing:
        return metadata
    metadata["tokenizer.ggml.tokens"] = tokens + [f"[UNUSED_{i}]" for i in missing]
    for key, filler in (("token_type", _UNUSED_TOKEN), ("scores", -1000.0)):
        if (values := metadata.get(f"tokenizer.ggml.{key}")) is not None:
            metadata[f"tokenizer.ggml.{key}"] = np.append(values, [filler] * len(missing)).astype(
                np.int32 if key == "token_type" else np.float32
            )
    return metadata


def _permuted_heads(arch: str, config: Mapping[str, Any]) -> dict[str, int]:
    """Return the modules whose rows llama.cpp orders otherwise, with their number of heads."""
    if arch != "llama":
        return {}
    heads = int(config["num_attention_heads"])
    return {"q_proj": heads, "k_proj": int(config.get("num_key_value_heads") or heads)}


def _all_declared(config: Mapping[str, Any], planned: list[Planned]) -> list[gguf.Declared]:
    """Return what the file's head says of its tensors."""
    declared = [d for entry in planned for d in _declared(entry, str(config["model_type"]))]
    factors = rope_factors(config)
    if factors is not None:
        declared.append(gguf.Declared(ROPE_FACTORS_NAME, "f32", factors.shape))
    return declared


def _declared(entry: Planned, model_type: str) -> list[gguf.Declared]:
    """Return what the file's head says of a tensor, and of its factors if they stand apart."""
    own = gguf_names.to_gguf(entry.name, model_type)
    if entry.format not in export_weights.OURS:
        return [gguf.Declared(own, entry.format, entry.shape)]
    N, K = entry.shape
    row_bytes = pack.FORMATS[entry.format].size_bytes(N, K) // N
    assert entry.scale_shape is not None
    found = [
        gguf.Declared(own, "i8", (N, row_bytes)),
        gguf.Declared(packed.scale_name(own), entry.scale_type, entry.scale_shape),
    ]
    if entry.zero_shape is not None:
        found.append(gguf.Declared(packed.zero_name(own), "i8", entry.zero_shape))
    return found


def _encoded(
    entry: Planned, checkpoint: Checkpoint, heads: Mapping[str, int]
) -> export_weights.Encoded:
    tensor = checkpoint.tensor(entry.name)
    *_, module, kind = entry.name.rsplit(".", 2)
    count = heads.get(module) if kind in ("weight", "bias") else None
    kept = export_weights.kept(tensor, entry.claim, entry.format, count)
    if kept is not None:
        return kept
    step = export_weights.step_of(checkpoint, tensor, entry.claim)
    weights = export_weights.weights_of(tensor, entry.part, entry.claim, step)
    if count:
        weights = export_weights.permuted(weights, count)
    factors = entry.scale_shape, entry.scale_type
    return export_weights.encode(entry.name, weights, entry.format, *factors)
