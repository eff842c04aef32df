"""The whole float model of a source in torch: for what cannot go block by block."""

import torch
from torch import nn

from onebit.models import LanguageModel
from onebit.ptq.source import Source
from onebit.scheme import SCHEMES, Scheme


def float_model(source: Source, scheme: Scheme = SCHEMES["fp"]) -> LanguageModel:
    """Return the model of a source, packed weights dequantized, without gradients.

    Args:
        source: all of whose tensors are read.
        scheme: how the model is to compute with these floats.

    Raises:
        MissingError, FormatError: a tensor is not there, or damaged.
    """
    a = source.architecture
    with torch.device("meta"):
        model = LanguageModel(a, scheme)
    model.model.set_ropes(a)
    for name, _ in list(model.named_parameters()):
        module, _, leaf = name.rpartition(".")
        values = nn.Parameter(source.tensor(name), requires_grad=False)
        setattr(model.get_submodule(module), leaf, values)
    return model.eval()
