"""One optimizer step: forward, backward, clip, update. And the precision it is done in.

Weights, gradients and moments are float32 always. With "bf16", torch's autocast does the matrix
products in bfloat16 and sums them in float32. The codes of a ternary layer are small integers,
which bfloat16 holds exactly; only the products' results are rounded.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit.errors import OptionError
from onebit.kernels import ops
from onebit.train import optim, schedule
from onebit.train.config import TrainConfig

# instruction sets that multiply bfloat16; without one torch converts each time, and is slower
_BF16_CPU = ("amx_bf16", "avx512_bf16", "bf16")


class Step(NamedTuple):
    """What one step did."""

    loss: float
    """Mean cross-entropy, nats per token."""
    gradient_norm: float
    """Before clipping."""
    lr: float
    """The learning rate used."""


def resolve_precision(wanted: str) -> str:
    """Return "fp32" or "bf16": for "auto", bf16 if this CPU has instructions for it."""
    if wanted != "auto":
        return wanted
    has = torch.cpu.get_capabilities()
    return "bf16" if any(has.get(name, False) for name in _BF16_CPU) else "fp32"


class Trainer:
    """A model, its optimizer and the rules by which a step is made."""

    def __init__(self, model: nn.Module, config: TrainConfig, precision: str) -> None:
        """`precision` is "fp32" or "bf16"."""
        self.model = model
        self.optimizer = optim.build(model, config.optim)
        self._config = config
        self._bf16 = precision == "bf16"

    def step(self, batches: Sequence[tuple[Tensor, Tensor]], progress: float) -> Step:
        """Learn from the mean loss of some batches of equal size.

        Raises:
            OptionError: the loss or a gradient is no longer finite.

        Args:
            batches: pairs of inputs and targets, int64 (B, T) each; the target is the next token.
            progress: share of the run done at the middle of this step.
        """
        rates = schedule.rates(progress, self._config.schedule)
        optim.set_rates(self.optimizer, rates)
        self.model.train()
        total = 0.0
        for inputs_BT, targets_BT in batches:
            loss = self.loss(inputs_BT, targets_BT) / len(batches)
            loss.backward()
            total += float(loss.detach())
        norm = optim.clip(self.optimizer, self._config.optim.clip)
        if not math.isfinite(total + norm):
            raise OptionError(
                f"recipe: training diverged (loss {total:g}, gradient norm {norm:g}). "
                f"Lower schedule.lr, which is {self._config.schedule.lr:g}."
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return Step(total, norm, rates.lr)

    def loss(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the mean cross-entropy of predicting the targets, in nats, float32 ()."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16):
            logits_BTV = self.model(inputs_BT)
        return F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten())


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and the kernels use this many CPU threads for as long as the block runs."""
    before = torch.get_num_threads(), ops.threads()
    torch.set_num_threads(count)
    ops.set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        ops.set_threads(before[1])
