"""What the linear layers of a model are given: how heavy the tails are, how many codes are zero.

    given = layer_inputs.record(model, tokens_BT)
    x_TK = given["model.layers.0.mlp.down_proj"]
    layer_inputs.kurtosis(x_TK)

Kurtosis says what rounding to few bits will cost: 3 for a bell, hundreds where a few columns stick
out. A Hadamard turn is there to bring it down. Sparsity is the share of input codes that are zero,
whose weights need not be touched.

Shape letters: B sequences, T tokens (in all), K columns of a layer's input.
"""

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from onebit import quant
from onebit.errors import OptionError
from onebit.models import LanguageModel
from onebit.nn import BitLinear, zero_share
from onebit.scheme import role_of

TABLE = {"qkv": ("q", "k", "v"), "out": ("o",), "up": ("up",), "gate": ("gate",), "down": ("down",)}
"""Columns of table 2 in the paper on BitNet a4.8, and the roles that each stands for."""


@torch.no_grad()
def record(model: LanguageModel, tokens_BT: Tensor) -> dict[str, Tensor]:
    """Run the model once and return the input of each linear in its layers, float32 (T, K).

    It is what the layer is handed, in front of any norm inside it. The head is left out.
    """
    given: dict[str, Tensor] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and role_of(name) not in ("", "head"):

            def keep(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                given[name] = inputs[0].flatten(0, -2).float()

            hooks.append(module.register_forward_pre_hook(keep))
    training = model.training
    model.eval()
    try:
        model(tokens_BT)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return given


@torch.no_grad()
def before_and_after(layer: nn.Linear, x_TK: Tensor) -> tuple[Tensor, Tensor]:
    """Return a layer's input behind its norm, as it is and after a Hadamard turn, (T, K) each.

    A layer without a turn gets a plain one, to see what it would do there.
    """
    if not isinstance(layer, BitLinear):
        return x_TK, quant.hadamard.transform(x_TK)
    x_TK = layer.turned_input(x_TK).float()
    if layer.scheme.hadamard == "none":
        return x_TK, quant.hadamard.transform(x_TK)
    signs = quant.hadamard.signs_of(layer.scheme, x_TK.shape[-1], x_TK.device)
    return quant.hadamard.transform(x_TK, signs, transpose=True), x_TK


def kurtosis(x_TK: Tensor) -> float:
    """Return the mean over tokens of E[(x - mean)^4] / variance^2 over a token's columns.

    Per token, as the rounding is. 3 for a normal distribution, 1 at least, K at most. Tokens whose
    columns are all equal count for nothing.
    """
    x_TK = x_TK.double()
    square_TK = (x_TK - x_TK.mean(dim=-1, keepdim=True)).square()
    variance_T = square_TK.mean(dim=-1)
    some_T = variance_T > 0
    return float((square_TK.square().mean(dim=-1)[some_T] / variance_T[some_T].square()).mean())


def sparsity(model: LanguageModel, given: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of the layers' weights that need not be touched, by projection and overall.

    A column whose code is zero needs none of its weights. The up projection is also spared the
    rows whose gate is closed: with a share s of zero codes and g of closed gates it needs
    (1 - s)(1 - g) of its weights.

    Args:
        model: of the squared-ReLU family, for closed gates; others have none.
        given: what `record` returned.

    Returns:
        Shares under "qkv", "out", "up", "gate", "down" and, weighted by their sizes, "overall".

    Raises:
        OptionError: `given` lacks a layer of the model.

    Source: BitNet a4.8, table 2, https://arxiv.org/abs/2411.04965
    """
    spared: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or role_of(name) in ("", "head"):
            continue
        if name not in given:
            raise OptionError(f"sparsity: nothing is recorded of {name}. Record all layers.")
        share = zero_share(module, given[name])
        if role_of(name) == "up" and model.architecture.hidden_act == "relu2":
            gate = model.get_submodule(f"{name.rpartition('.')[0]}.gate_proj")
            with torch.no_grad():
                closed = float((gate(given[name]) <= 0).double().mean())
            share = 1 - (1 - share) * (1 - closed)
        spared[role_of(name)].append((share, module.weight.numel()))
    shares = {
        column: _mean([pair for role in roles for pair in spared[role]])
        for column, roles in TABLE.items()
    }
    return shares | {"overall": _mean([pair for pairs in spared.values() for pair in pairs])}


def _mean(pairs: list[tuple[float, int]]) -> float:
    """Return the mean of shares, each weighted by its number."""
    return sum(share * count for share, count in pairs) / sum(count for _, count in pairs)
