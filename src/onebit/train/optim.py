"""AdamW for a language model: which weights decay, and how gradients are clipped."""

from itertools import chain
from typing import Any

import torch
from torch import nn

from onebit.scheme import role_of
from onebit.tensors import LOWER_BOUNDS
from onebit.train.config import OptimConfig
from onebit.train.schedule import Rates


def build(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over all weights, in groups: matrices, which decay, the rest, learned steps.

    Norms and biases have no scale to spare, and a row of the embedding that a batch does not
    mention would only shrink; neither decays. Nor does the step of a grid of weights, and it takes
    `step_lr` of the learning rate.
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    steps: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_matrix = weight.ndim >= 2 and role_of(name.removesuffix(".weight")) != "embed"
        is_matrix &= name != LOWER_BOUNDS  # a vector for each layer
        is_step = name.endswith(".step")
        (steps if is_step else decaying if is_matrix else others).append(weight)
    groups: list[dict[str, Any]] = [
        {"params": decaying, "decays": True, "pace": 1.0},
        {"params": others, "decays": False, "pace": 1.0},
        {"params": steps, "decays": False, "pace": config.step_lr},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=0.0,
        fused=True,
    )


def set_rates(optimizer: torch.optim.Optimizer, rates: Rates) -> None:
    """Write the step's learning rate and weight decay into the groups."""
    for group in optimizer.param_groups:
        group["lr"] = rates.lr * group["pace"]
        group["weight_decay"] = rates.weight_decay if group["decays"] else 0.0


def clip(optimizer: torch.optim.Optimizer, largest: float) -> float:
    """Scale all gradients down together to norm `largest` if it is above; return what it was."""
    weights = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    return float(nn.utils.clip_grad_norm_(weights, largest))
