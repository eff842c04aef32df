"""A torch model as a Hugging Face folder: config.json, model.safetensors, tokenizer files."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onebit import quant
from onebit.architecture import Architecture
from onebit.data import Tokenizer
from onebit.errors import FileError, OptionError
from onebit.io import atomic, hgrn_names, norm_offset, safetensors
from onebit.models.language_model import LanguageModel
from onebit.nn import PackedLinear, bit_linears
from onebit.scheme import LinearScheme, Scheme

_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def save(model: LanguageModel, folder: str | Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the model so that `load`, and transformers where it can, read it back.

    Trained weights are saved as the float masters they are, learned steps beside them. Frozen
    layers are saved as code * scale in float32, on their grid, which `load` finds again; to pack
    them, use `models.export`.
    Each file is whole or not there; config.json comes last.

    Args:
        model: what to save.
        folder: made if it is not there; files of the same names are replaced.
        tokenizer: saved beside the model.

    Raises:
        FileError: the system refused.
        OptionError: a parameter is of a dtype that is no float of a model, or layers are packed.
    """
    for name, layer in bit_linears(model):
        if layer.frozen and layer.scheme.planes > 1:
            raise OptionError(
                f"save: {name} holds two planes of trits, which floats do not show again. Keep the "
                "file that it came from."
            )
    for name, module in model.named_modules():
        if isinstance(module, PackedLinear):
            raise OptionError(
                f"save: {name} is packed for the kernels and has no weights to save. "
                "Save the model before `pack_linears`."
            )
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"{folder}: cannot be made ({error.strerror or error}).") from error
    if tokenizer is not None:
        tokenizer.save(folder)
    _write_tensors(model, folder / "model.safetensors")
    config = json.dumps(config_of(model), indent=2, ensure_ascii=False)
    atomic.write_bytes(folder / "config.json", f"{config}\n".encode())


def config_of(model: LanguageModel) -> dict[str, Any]:
    """Return the model's config.json: architecture, scheme, and what transformers needs to know."""
    a = model.architecture
    dtype = str(model.model.embed_tokens.weight.dtype).removeprefix("torch.")
    config = a.to_config() | {"torch_dtype": dtype, "onebit_scheme": model.scheme.to_dict()}
    frozen = any(layer.frozen for _, layer in bit_linears(model))
    hf = None if frozen else _quantization_config(model.scheme, a)
    return config if hf is None else config | {"quantization_config": hf}


def _quantization_config(scheme: Scheme, a: Architecture) -> dict[str, Any] | None:
    """Return how transformers says this scheme of float masters, or None if it has no word for it.

    Not for frozen weights: its online mode would round them a second time.
    """
    body = scheme.layers.get("body", LinearScheme())
    b158 = LinearScheme("ternary", activation="int8_absmax", norm=body.norm)
    if body.norm == "layer" or dict(scheme.layers) != {"body": b158}:
        return None
    if a.recurrent or scheme.kv_bits <= 8 or scheme.q_bits <= 8:
        return None
    if not a.pre_norms or a.softmax_temperature != 1 or a.learned_temperature:
        return None
    norm = {"use_rms_norm": True, "rms_norm_eps": a.rms_norm_eps} if body.norm == "rms" else {}
    return norm | {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
        "modules_to_not_convert": ["lm_head"],
    }


def _write_tensors(model: LanguageModel, path: Path) -> None:
    frozen = {f"{name}.weight": m.codes() for name, m in bit_linears(model) if m.frozen}
    parameters, config = dict(model.named_parameters()), model.architecture.to_config()
    declared = [
        safetensors.Declared(
            hgrn_names.published(config, name), _dtype(name, p, name in frozen), tuple(p.shape)
        )
        for name, p in parameters.items()
    ]
    with safetensors.Writer(path, declared, {"format": "pt"}) as writer:
        for name, parameter in parameters.items():
            exact = quant.dequantize(frozen[name]) if name in frozen else parameter.detach()
            if norm_offset.has_offset(config, name):
                less = norm_offset.less_one(exact.cpu().float().numpy())
                exact = torch.from_numpy(less).to(exact.dtype)
            data = exact.cpu().contiguous().view(torch.uint8).numpy()
            writer.write(hgrn_names.published(config, name), data)


def _dtype(name: str, parameter: Tensor, frozen: bool) -> str:
    if frozen:
        return "F32"
    if parameter.dtype not in _DTYPES:
        raise OptionError(f"{name} is {parameter.dtype}; accepted: {', '.join(map(str, _DTYPES))}.")
    return _DTYPES[parameter.dtype]
