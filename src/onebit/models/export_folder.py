"""Write a model as a Hugging Face folder: config.json, model.safetensors and the tokenizer's files.

The folder is made under a temporary name beside its place and takes it when it is complete. With
hf_2bit the config asks transformers for layers that multiply by `weight_scale` ("autobitlinear",
"offline"): what our files mean everywhere else too.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from onebit import pack
from onebit.data import Tokenizer
from onebit.errors import FileError
from onebit.io import Checkpoint, hgrn_names, norm_offset, packed, safetensors
from onebit.io.atomic import write_bytes
from onebit.models import export_weights
from onebit.models.export_plan import Planned, Progress

_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
_HF_DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "generation_config.json",
)


def write(
    path: Path,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    planned: list[Planned],
    embed: str,
    progress: Progress,
) -> dict[str, int]:
    """Write the folder, one tensor at a time.

    Args:
        config: of the model to be written, in the style of config.json.
        planned: from `export_plan.plan`.
        embed: the float type of embedding and head, in which transformers will compute.
        progress: called after each tensor with how many are written, and of how many.

    Returns:
        The bytes of each tensor, scale included.

    Raises:
        NotTernaryError, InputError, ShapeError: a tensor does not fit its format.
        FileError: the system refused; what was at `path` before is still there.
    """
    config = {**config, "dtype": _HF_DTYPES[embed]}
    if any(entry.format == "hf_2bit" for entry in planned):
        config["quantization_config"] = _quantization_config(planned, config)
    with _folder(path) as folder:
        sizes = _write_tensors(folder / "model.safetensors", checkpoint, config, planned, progress)
        write_bytes(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
        _write_tokenizer(folder, checkpoint)
    return sizes


def _write_tensors(
    path: Path,
    checkpoint: Checkpoint,
    config: Mapping[str, Any],
    planned: list[Planned],
    progress: Progress,
) -> dict[str, int]:
    ours = {
        hgrn_names.published(config, entry.name): packed.Packed(entry.format, entry.matrix)
        for entry in planned
        if entry.format in export_weights.OURS
    }
    metadata = {"format": "pt"} | ({packed.TENSORS_KEY: packed.to_json(ours)} if ours else {})
    declared = [
        d._replace(name=hgrn_names.published(config, d.name))
        for entry in planned
        for d in _declared(entry)
    ]
    sizes = {}
    with safetensors.Writer(path, declared, metadata) as file:
        for entry in planned:
            tensor = checkpoint.tensor(entry.name)
            step = export_weights.step_of(checkpoint, tensor, entry.claim)
            weights = export_weights.weights_of(tensor, entry.part, entry.claim, step)
            if norm_offset.has_offset(config, entry.name) and isinstance(weights, np.ndarray):
                weights = norm_offset.less_one(weights)
            factors = entry.scale_shape, entry.scale_type
            encoded = export_weights.encode(entry.name, weights, entry.format, *factors)
            in_file = hgrn_names.published(config, entry.name)
            file.write(in_file, encoded.data)
            if encoded.scale is not None:
                file.write(packed.scale_name(in_file), encoded.scale)
            if encoded.zero is not None:
                file.write(packed.zero_name(in_file), encoded.zero)
            sizes[entry.name] = encoded.size_bytes
            progress(len(sizes), len(planned))
    return sizes


def _declared(entry: Planned) -> list[safetensors.Declared]:
    """Return what the file's head says of a tensor, and of its factors if it has any."""
    if entry.format in _DTYPES:
        return [safetensors.Declared(entry.name, _DTYPES[entry.format], entry.shape)]
    N, K = entry.shape
    size = pack.FORMATS[entry.format].size_bytes(N, K)
    shape = (N // 4, K) if entry.format == "hf_2bit" else (N, size // N)
    assert entry.scale_shape is not None
    scale = packed.scale_name(entry.name)
    found = [
        safetensors.Declared(entry.name, "U8", shape),
        safetensors.Declared(scale, _DTYPES[entry.scale_type], entry.scale_shape),
    ]
    if entry.zero_shape is not None:
        found.append(safetensors.Declared(packed.zero_name(entry.name), "U8", entry.zero_shape))
    return found


def _quantization_config(planned: list[Planned], config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells transformers how to read hf_2bit."""
    modules = {
        entry.name.removesuffix(".weight"): entry for entry in planned if entry.part == "body"
    }
    return {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "offline",
        "use_rms_norm": any(
            e.claim.norm == "rms" for e in modules.values() if e.format == "hf_2bit"
        ),
        "rms_norm_eps": config["rms_norm_eps"],
        "modules_to_not_convert": [
            *(module for module, entry in modules.items() if entry.format != "hf_2bit"),
            "lm_head",
        ],
    }


def _write_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    source = checkpoint.tokenizer
    if source is None:
        return
    if source.folder is None:
        Tokenizer.load(source.source).save(folder)
        return
    for name in _TOKENIZER_FILES:
        file = source.folder / name
        if file.is_file():
            write_bytes(folder / name, file.read_bytes())


@contextmanager
def _folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill, which takes the place of `path` when the block ends well.

    No system call swaps two folders everywhere: a kill between the two renames leaves the old one
    whole, under its hidden name `.<name>.<random>.old` beside the place.
    """
    mark = secrets.token_hex(6)
    new = path.with_name(f".{path.name}.{mark}.tmp")
    old = path.with_name(f".{path.name}.{mark}.old")
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(new, path)
        except OSError:
            if old.exists():
                os.rename(old, path)
            raise
    except FileError as error:  # names a file under the temporary name, which nobody knows
        raise FileError(str(error).replace(str(new), str(path))) from error
    except OSError as error:
        raise FileError(
            f"{path}: cannot be written ({error.strerror or error}). Nothing was changed; free "
            "space or choose another place."
        ) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
