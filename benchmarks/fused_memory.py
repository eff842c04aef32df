"""What a training step keeps and takes at most, with norm and BitLinear as one and apart.

    python benchmarks/fused_memory.py [--shape 512x1536x6] [--tokens 4x256] [--vocabulary 1024]

A MatMul-free model (width x hidden width x layers) with random weights, in three ways that differ
in its BitLinears alone:

    fused   norm, roundings and product are one: x is kept, the rest is made again (nn/fused.py)
    apart   the norm keeps x; the product keeps int8 codes of input and weights
    plain   torch operations as the published code writes them, gradients by autograd

First the gradients: of the first two they must be equal to the bit, of the third within rounding.
Then each way has a fresh process. "kept" are the bytes that autograd holds when the forward pass is
done, each storage once, parameters left out; of them "linears" are those that only BitLinears hold.
"step" is by how much the process's resident memory grows at most in a forward and backward pass,
the gradients of the weights included, which are alike; what is freed is given back at once for it.
The time is the processor's, the least of some passes, in another process, which keeps what it
frees, as training does.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onebit import Architecture, models
from onebit.architecture import RECURRENT
from onebit.eval.machine import Machine
from onebit.nn import BitLinear, bit_linears
from onebit.scheme import SCHEMES
from onebit.train.memory import keep_freed

WAYS = ("fused", "apart", "plain")
TOLERANCE = 2e-3
"""Of the plain way's gradients, of the largest number in each: an input at a tie may fall to the
other code, and every layer after it then sees another input."""
TIMES = 3


def plain_forward(self: BitLinear, x_TK: Tensor) -> Tensor:
    """Compute what BitLinear does for b1.58 behind an RMSNorm, one operation after another."""
    assert self.rms_norm is not None
    r_T1 = torch.rsqrt(x_TK.square().mean(dim=-1, keepdim=True) + self.rms_norm.eps)
    y_TK = x_TK * r_T1 * self.rms_norm.weight
    scale_T1 = 127 / y_TK.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    x_hat_TK = (y_TK * scale_T1).round().clamp(-128, 127) / scale_T1
    scale = 1 / self.weight.abs().mean().clamp(min=1e-5)
    w_hat_NK = (self.weight * scale).round().clamp(-1, 1) / scale
    x_hat_TK = y_TK + (x_hat_TK - y_TK).detach()
    return F.linear(x_hat_TK, self.weight + (w_hat_NK - self.weight).detach())


@contextlib.contextmanager
def gone_by(way: str) -> Iterator[None]:
    """Let every BitLinear go one of the ways for as long as the block runs."""
    forward, remakes = BitLinear.forward, BitLinear.remakes
    BitLinear.remakes = way == "fused"
    if way == "plain":
        BitLinear.forward = plain_forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        BitLinear.forward, BitLinear.remakes = forward, remakes  # type: ignore[method-assign]


def model_of(shape: str, vocabulary: int) -> nn.Module:
    width, hidden, layers = map(int, shape.split("x"))
    architecture = Architecture(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=0,
        num_key_value_heads=0,
        head_dim=0,
        model_type=RECURRENT,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
    )
    return models.build(architecture, SCHEMES["matmulfree"], 0)


def text(tokens: str, vocabulary: int) -> Tensor:
    B, T = map(int, tokens.split("x"))
    return torch.randint(0, vocabulary, (B, T + 1), generator=torch.Generator().manual_seed(0))


def loss_of(model: nn.Module, text_BT: Tensor) -> Tensor:
    logits_BTV = model(text_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), text_BT[:, 1:].flatten())


def check() -> None:
    """Hold the gradients of the ways to one another, or exit."""
    model, text_BT = model_of("64x128x2", 300), text("2x40", 300)
    found = {}
    for way in WAYS:
        with gone_by(way):
            found[way] = torch.autograd.grad(loss_of(model, text_BT), [*model.parameters()])
    pairs = [*zip(found["fused"], found["plain"], strict=True)]
    worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)
    equal = all(torch.equal(a, b) for a, b in zip(found["fused"], found["apart"], strict=True))
    print(
        f"gradients: fused and apart {'equal to the bit' if equal else 'DIFFER'}; from plain by "
        f"{worst:.1e} at most (accepted {TOLERANCE:g})"
    )
    if not equal or worst > TOLERANCE:
        sys.exit("The gradients are wrong; nothing was measured.")


class Held:
    """A tensor that autograd keeps, for as long as it does."""

    def __init__(self, tensor: Tensor, inside: bool) -> None:
        self.tensor, self.inside = tensor, inside


def kept_bytes(model: nn.Module, text_BT: Tensor) -> tuple[int, int]:
    """Return what the forward pass keeps for the gradients, and what only BitLinears keep of it."""
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    held: weakref.WeakSet[Held] = weakref.WeakSet()
    inside = False

    def keep(tensor: Tensor) -> Held:
        # without its history: of what an operation has given, that would hold the operation
        held.add(found := Held(tensor.detach(), inside))
        return found

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    hooks = []
    for _, layer in bit_linears(model):
        hooks += [layer.register_forward_pre_hook(enter), layer.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        loss = loss_of(model, text_BT)
    for hook in hooks:
        hook.remove()
    sizes, others = {}, set()
    for kept in held:
        storage = kept.tensor.untyped_storage()
        if (address := storage.data_ptr()) not in own:
            sizes[address] = storage.nbytes()
            if not kept.inside:
                others.add(address)
    del loss
    return sum(sizes.values()), sum(size for a, size in sizes.items() if a not in others)


def resident(which: str) -> int:
    """Return bytes of this process: "VmRSS" now, "VmHWM" the most since it was last reset."""
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {which}.")


def memory(model: nn.Module, text_BT: Tensor) -> dict[str, float]:
    """Return the bytes of one way."""
    loss_of(model, text_BT[:1, :9]).backward()  # what is made once is made
    model.zero_grad(set_to_none=True)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # the most begins anew
    loss_of(model, text_BT).backward()
    step = resident("VmHWM") - before
    kept, linears = kept_bytes(model, text_BT)
    return {"step": step, "kept": kept, "linears": linears}


def seconds(model: nn.Module, text_BT: Tensor) -> dict[str, float]:
    """Return the least processor time of a forward and backward pass."""
    keep_freed()
    times = []
    for _ in range(1 + TIMES):
        start = time.process_time()
        loss_of(model, text_BT).backward()
        times.append(time.process_time() - start)
    return {"time_s": min(times[1:])}


MEASURES = {"memory": memory, "seconds": seconds}


def fresh(way: str, what: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Return the numbers of one way, from a process of its own."""
    command = [sys.executable, __file__, "--way", way, "--what", what]
    for word in ("shape", "tokens", "vocabulary", "threads"):
        command += [f"--{word}", str(getattr(arguments, word))]
    # what is larger than 64 KB goes back to the system when it is freed
    gives_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    environment = os.environ | (gives_back if what == "memory" else {})
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{way} failed.")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="512x1536x6", help="width x hidden width x layers")
    parser.add_argument("--tokens", default="4x256", help="sequences x tokens")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--what", choices=MEASURES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.way is not None:
        model = model_of(arguments.shape, arguments.vocabulary)
        with gone_by(arguments.way):
            found = MEASURES[arguments.what](model, text(arguments.tokens, arguments.vocabulary))
        print(json.dumps(found))
        return
    check()
    ways: dict[str, dict[str, float]] = {way: {} for way in WAYS}
    for way, numbers in ways.items():
        for what in MEASURES:
            numbers |= fresh(way, what, arguments)
    print(
        f"\n{Machine.here().processor}, {arguments.threads} threads, {arguments.shape}, "
        f"{arguments.tokens} tokens, float32\n"
    )
    print("way      kept MB   linears MB   step MB   CPU s a step   step, of plain's")
    for way, numbers in ways.items():
        sizes = (numbers[name] / 1e6 for name in ("kept", "linears", "step"))
        print(
            "{:6}{:10.1f}{:13.1f}{:10.1f}".format(way, *sizes)
            + f"{numbers['time_s']:15.3f}{numbers['step'] / ways['plain']['step']:19.3f}"
        )


if __name__ == "__main__":
    main()
