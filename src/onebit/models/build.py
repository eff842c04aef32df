"""A new model with its first weights."""

import math

import torch
from torch import nn

from onebit.architecture import Architecture
from onebit.models.language_model import LanguageModel
from onebit.nn import bit_linears
from onebit.scheme import Scheme, role_of
from onebit.tensors import LOWER_BOUNDS

STD = 0.02
"""Of every matrix. Source: GPT-2, section 2.3, and Llama's `initializer_range`."""
RESIDUAL = ("o_proj.weight", "down_proj.weight")


def build(
    architecture: Architecture, scheme: Scheme, seed: int, embedding_std: float = STD
) -> LanguageModel:
    """Return a model with random weights, the same for the same seed under every scheme.

    Matrices are Gaussian with a standard deviation of 0.02, divided by sqrt(2 * layers) where they
    write into the residual stream; biases are 0 and norms 1. Learned steps begin where their rule
    says for these weights, learned temperatures at the architecture's. A MatMul-free
    model has its recurrent layers from `_of_mlgru`, and what is learned of lower bounds at 0. A
    ternary model and its float twin of one seed begin with equal float weights.

    Args:
        architecture: the shape; `scheme` how each linear holds its weight and input.
        seed: of the weights.
        embedding_std: standard deviation of the embedding, for a stream in which layers with norms
            inside their output projections would drown it.

    Raises:
        OptionError, ShapeError: the scheme does not fit; see `LanguageModel`.
    """
    with torch.device("meta"):  # the modules' own random weights would be drawn for nothing
        model = LanguageModel(architecture, scheme)
    model.to_empty(device="cpu")
    model.model.set_ropes(architecture)
    random = torch.Generator().manual_seed(seed)
    residual = STD / math.sqrt(2 * architecture.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if name.endswith(".step"):
            continue
        if name.endswith((".input_scale", ".input_zero")):
            nn.init.zeros_(parameter)  # calibration finds them
        elif name == LOWER_BOUNDS:
            nn.init.zeros_(parameter)
        elif name.endswith(".temperature"):
            nn.init.constant_(parameter, architecture.softmax_temperature)
        elif parameter.ndim == 1:
            nn.init.constant_(parameter, float(not name.endswith("bias")))
        elif architecture.recurrent and ".attn." in name:
            _of_mlgru(parameter, random)
        else:
            std = residual if name.endswith(RESIDUAL) else STD
            if role_of(name.removesuffix(".weight")) == "embed":
                std = embedding_std
            nn.init.normal_(parameter, std=std, generator=random)
    for _, layer in bit_linears(model):
        layer.start_step()
    return model


def _of_mlgru(w_NK: nn.Parameter, random: torch.Generator) -> None:
    """Draw a projection of a recurrent layer, output included: Glorot's uniform, scaled down.

    Source: ridgerchu/matmulfreellm, `layers/hgrn_bit.py`. Its model goes on to draw all matrices
    anew by 0.02, but transformers passes over layers that say they have their weights.
    """
    nn.init.xavier_uniform_(w_NK, gain=2**-2.5, generator=random)
