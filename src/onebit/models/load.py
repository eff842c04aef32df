"""A checkpoint in any format we read, as a torch model, tensor by tensor."""

from pathlib import Path

import torch
from torch import nn

from onebit import pack
from onebit.architecture import Architecture
from onebit.errors import FormatError, MissingError
from onebit.io import Checkpoint, open_checkpoint
from onebit.models import stored_weight
from onebit.models.language_model import LanguageModel
from onebit.nn import BitLinear
from onebit.scheme import of_config
from onebit.tensors import check_spare, codes_shape


def load(path: str | Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return the model in a folder, a .safetensors or .gguf file, or of a catalog name.

    Packed weights, and float ones that lie on their scheme's grid already, keep their codes and
    scale: those layers are frozen and round nothing. `nn.unfreeze` makes them trainable. The model
    is in evaluation mode, in which it computes what the engine does.

    Args:
        path: what `io.open_checkpoint` takes.
        dtype: of the float weights; frozen codes and scales do not depend on it.

    Raises:
        FileError: the files are missing, damaged or do not fit their config.
        OptionError, UnsupportedError: the config or scheme is not one we build.
    """
    checkpoint = open_checkpoint(path)
    model = skeleton(checkpoint).to(dtype)
    model.model.set_ropes(model.architecture)
    for name, _ in list(model.named_parameters()):  # a layer's weight comes before its step
        _put(model, checkpoint, name, dtype)
    return model.eval()


def skeleton(checkpoint: Checkpoint) -> LanguageModel:
    """Return the model of a checkpoint without its weights (on torch's device "meta").

    Whoever gets one knows that the file holds every tensor of the model in its shape, and no other.

    Raises:
        MissingError, FormatError, UnsupportedError: it does not.
        OptionError, UnsupportedError: the config or scheme is not one we build.
    """
    architecture = Architecture.from_config(checkpoint.config)
    scheme = of_config(checkpoint.config)
    with torch.device("meta"):
        model = LanguageModel(architecture, scheme)
    there = set(checkpoint.names())
    wanted = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name in there or not _is_scale(checkpoint, there, name)
    }
    _check_names(checkpoint, set(wanted), architecture)
    for name, parameter in wanted.items():
        tensor = checkpoint.tensor(name)
        shape, wanted_shape = tensor.shape, tuple(parameter.shape)
        if tensor.format in pack.FORMATS and len(wanted_shape) == 2:
            wanted_shape = codes_shape(scheme.linear(name.removesuffix(".weight")), *wanted_shape)
        if shape != wanted_shape:
            raise FormatError(
                f"{checkpoint.path}: {name} has shape {list(shape)}, and the config asks "
                f"for {list(wanted_shape)}. Config and weights are not of one model."
            )
    return model


def _put(model: LanguageModel, checkpoint: Checkpoint, name: str, dtype: torch.dtype) -> None:
    """Give a tensor to its module."""
    module_name, _, leaf = name.rpartition(".")
    module = model.get_submodule(module_name)
    if isinstance(module, BitLinear) and module.frozen and leaf == "step":
        return  # the codes brought it, as their scale
    stored = checkpoint.tensor(name)
    if isinstance(module, BitLinear) and leaf == "weight" and module.scheme.weight != "fp":
        codes = stored_weight.codes(stored, module.scheme)
        if codes is not None:
            module.freeze(codes)
            return
    values = torch.from_numpy(stored_weight.values(stored))
    if not bool(torch.isfinite(values).all()):
        raise FormatError(
            f"{checkpoint.path}: {name} holds a value that nothing can be computed with. The "
            "run that made it failed, or the file is damaged."
        )
    if leaf in ("input_scale", "input_zero"):  # of a static activation: what the engine has
        setattr(module, leaf, nn.Parameter(values, requires_grad=False))
    else:
        setattr(module, leaf, nn.Parameter(values.to(dtype)))


def _is_scale(checkpoint: Checkpoint, there: set[str], name: str) -> bool:
    """Whether a tensor is the learned step of packed weights, which their scale already says."""
    weight = f"{name.removesuffix('.step')}.weight"
    packed = weight in there and checkpoint.tensor(weight).format in pack.FORMATS
    return name.endswith(".step") and packed


def _check_names(checkpoint: Checkpoint, wanted: set[str], a: Architecture) -> None:
    """Refuse a file that lacks a tensor, or holds one that would silently not be used."""
    there = set(checkpoint.names())
    if missing := sorted(wanted - there):
        raise MissingError(
            f"{checkpoint.path}: {missing[0]} is not there"
            f"{f', nor are {len(missing) - 1} others' if missing[1:] else ''}. "
            "The file is incomplete or of another architecture than its config says."
        )
    check_spare(checkpoint.path, a.model_type, there, wanted)
