"""The recurrence of an MLGRU layer in its forms, beside what the machine's memory allows.

    python benchmarks/recurrence.py [--shapes 8x1024x1024,1x128x2560] [--threads 1]

A shape is sequences x tokens x channels. First every form is held to the sequential one, values and
gradients. Then each is timed, the least time of half a second of runs counting: forward alone, and
forward and backward together. "kernel" is the native form on arrays that are there already; what
"native" takes longer is autograd. Memory that was freed is used again, as in training. GB/s count
each tensor once, 12 bytes a number forward (f, i, h) and 20 backward (f, h, dh, df, di); the share
is of the rate of c = a + b on tensors of the same size, in the same threads, 12 bytes too. Tensors
that fit a cache are compared with that cache.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from onebit.eval.machine import Machine
from onebit.kernels import ops
from onebit.nn.recurrence import recurrence
from onebit.train.memory import keep_freed

FORMS = ("native", "chunked", "scan", "sequential")
FORWARD_BYTES, BACKWARD_BYTES = 12, 20
TOLERANCE = 1e-5

Shape = tuple[int, int, int]


def given(shape: Shape) -> tuple[Tensor, Tensor, Tensor]:
    """Return f, i and the gradient of h."""
    random = torch.Generator().manual_seed(0)
    f, i, dh = torch.randn(3, *shape, generator=random)
    return f.sigmoid(), i, dh


def forward_and_backward(form: str, f: Tensor, i: Tensor, dh: Tensor) -> list[Tensor]:
    f, i = f.detach().requires_grad_(), i.detach().requires_grad_()
    h, _ = recurrence(f, i, form=form)
    return [h.detach(), *torch.autograd.grad(h, (f, i), dh)]


def error(form: str) -> float:
    """Return the largest difference from the sequential form, of the largest number."""
    operands = given((3, 203, 140))
    pairs = zip(
        forward_and_backward(form, *operands),
        forward_and_backward("sequential", *operands),
        strict=True,
    )
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def seconds(run: Callable[[], object]) -> float:
    """Return the least time of a call, over about half a second, after one that is not counted."""
    run()
    best, spent = float("inf"), 0.0
    while spent < 0.5:
        start = time.perf_counter()
        run()
        total = time.perf_counter() - start
        best, spent = min(best, total), spent + total
    return best


def kernel_seconds(shape: Shape, threads: int) -> tuple[float, float]:
    """Return the time of the native kernels alone: forward, and both."""
    f, i, dh = (x.numpy() for x in given(shape))
    h, df, di = (np.zeros(shape, np.float32) for _ in range(3))
    last = h[:, 0].copy()

    def forward() -> None:
        ops.recurrence(f, i, None, h, last, threads)

    def backward() -> None:
        ops.recurrence_backward(f, h, None, dh, None, df, di, None, threads)

    alone = seconds(forward)
    return alone, alone + seconds(backward)


def report(shape: Shape, threads: int) -> None:
    f, i, dh = given(shape)
    numbers = f.numel()
    out = torch.zeros_like(f)
    stream = FORWARD_BYTES * numbers / seconds(lambda: torch.add(f, i, out=out))
    print(f"\n{'x'.join(map(str, shape))}, {threads} threads: c = a + b at {stream / 1e9:.1f} GB/s")
    print("form          forward ms    GB/s   share   and back ms    GB/s   share")
    for form in ("kernel", *FORMS):
        if form == "kernel":
            times = kernel_seconds(shape, threads)
        else:
            with torch.no_grad():
                alone = seconds(lambda form=form: recurrence(f, i, form=form))
            times = alone, seconds(lambda form=form: forward_and_backward(form, f, i, dh))
        line = f"{form:12}"
        both = FORWARD_BYTES, FORWARD_BYTES + BACKWARD_BYTES
        for width, time_s, size in zip((12, 14), times, both, strict=True):
            rate = size * numbers / time_s
            line += f"{time_s * 1e3:{width}.3f}{rate / 1e9:8.2f}{rate / stream:8.0%}"
        print(line, flush=True)


def shapes(text: str) -> list[Shape]:
    found = [tuple(int(n) for n in word.split("x")) for word in text.split(",")]
    if any(len(shape) != 3 or min(shape) < 1 for shape in found):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 8x1024x1024,1x1x2560")
    return [(B, T, D) for B, T, D in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=shapes, default=shapes("8x1024x1024,1x128x2560"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    keep_freed()
    torch.set_num_threads(args.threads)
    ops.set_threads(args.threads)

    for form in FORMS[:-1]:
        found = error(form)
        print(f"{form}: largest difference {found:.2g}, accepted {TOLERANCE:g}")
        if not found < TOLERANCE:
            sys.exit("The recurrence is wrong; nothing was timed.")
    print(f"\n{Machine.here().processor}, {ops.active_isa()}, float32")
    for shape in args.shapes:
        report(shape, args.threads)


if __name__ == "__main__":
    main()
