"""Memory and time of quantizing a model of a large one's layers: a block's, however many there are.

    python benchmarks/ptq_memory.py [--layers 2,4] [--methods gptq,rtn] [--shape 4096x11008x32]

Random weights in the shape of Llama-7B's layers (width, gated width, heads) and a small vocabulary,
written as bfloat16 one layer at a time, a file each, so that the model is never in memory. Then
every method and depth has a fresh process, which quantizes it from random tokens and says the most
memory that it had resident. Files are in a temporary folder: 0.4 GB a layer of that shape, half as
much again while a run lasts.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from onebit import Architecture, ptq
from onebit.eval.fresh_process import peak_memory_bytes
from onebit.eval.machine import Machine
from onebit.io import safetensors
from onebit.scheme import SCHEMES
from onebit.tensors import shapes

SPREAD = 0.02
"""Standard deviation of the weights."""


def architecture(shape: str, layers: int, vocabulary: int) -> Architecture:
    """Return the architecture of a text as "4096x11008x32"."""
    width, gated, heads = map(int, shape.split("x"))
    return Architecture(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=gated,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
    )


def write_model(folder: Path, a: Architecture) -> None:
    """Write a random model, a file for each layer and one for the rest."""
    folder.mkdir()
    files: dict[str, list[safetensors.Declared]] = {}
    for name, shape in shapes(a, SCHEMES["fp"]).items():
        parts = name.split(".")
        file = f"layer-{int(parts[2]):03}" if parts[1] == "layers" else "rest"
        declared = safetensors.Declared(name, "BF16", shape)
        files.setdefault(f"{file}.safetensors", []).append(declared)
    random = torch.Generator().manual_seed(0)
    for file, tensors in files.items():
        with safetensors.Writer(folder / file, tensors) as writer:
            for tensor in tensors:
                if tensor.name.endswith("norm.weight"):
                    values = torch.ones(tensor.shape)
                else:
                    values = torch.randn(tensor.shape, generator=random).mul_(SPREAD)
                bits = values.to(torch.bfloat16).reshape(-1).view(torch.int16).numpy()
                writer.write(tensor.name, bits.view(np.uint8))
    (folder / "config.json").write_text(json.dumps(a.to_config()))


def run(model: Path, method: str, scheme: str, windows: int, window: int) -> None:
    """Quantize in this process; print what it took as JSON."""
    vocabulary = ptq.source.FileSource(model).architecture.vocab_size
    tokens_WT = np.random.default_rng(0).integers(0, vocabulary, (windows, window))
    text = ptq.Calibration("random", tokens_WT, "random tokens")
    clocks: list[tuple[float, float]] = []

    def block_done(status: ptq.Status) -> None:
        clocks.append((time.perf_counter(), time.process_time()))
        print(f"{method}: block {status.done} of {status.blocks}", file=sys.stderr, flush=True)

    out = model.with_name("out")
    ptq.quantize(model, out, method=method, scheme=scheme, calibration=text, progress=block_done)
    blocks = len(clocks) - 1
    time_s, cpu_s = ((clocks[-1][i] - clocks[0][i]) / blocks for i in (0, 1))
    found = {"peak_bytes": peak_memory_bytes(), "time_s": time_s, "cpu_s": cpu_s}
    print(json.dumps(found))


def measured(arguments: argparse.Namespace, method: str, layers: int) -> dict[str, float]:
    """Write a model, quantize it in a process of its own, and return what that took."""
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = Path(folder) / "model"
        write_model(model, architecture(arguments.shape, layers, arguments.vocabulary))
        command = [sys.executable, __file__, "--run", str(model), "--methods", method]
        for word in ("scheme", "windows", "window"):
            command += [f"--{word}", str(getattr(arguments, word))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    if done.returncode:
        sys.exit(f"{method} at {layers} layers failed.")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", default="2,4", help="depths, one after the other")
    parser.add_argument("--methods", default="gptq,rtn")
    parser.add_argument("--scheme", default="w4a16-g128")
    parser.add_argument("--shape", default="4096x11008x32", help="width x gated width x heads")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--window", type=int, default=512, help="tokens of each")
    parser.add_argument("--folder", help="for the files; else the system's temporary one")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    methods = arguments.methods.split(",")
    if arguments.run is not None:
        found = (arguments.scheme, arguments.windows, arguments.window)
        run(arguments.run, methods[0], *found)
        return
    depths = [int(layers) for layers in arguments.layers.split(",")]
    print(f"\n{Machine.here().processor}, {torch.get_num_threads()} threads, {arguments.shape}, ")
    print(f"{arguments.scheme}, {arguments.windows} x {arguments.window} tokens\n")
    print("method  layers   peak MB   s per block   CPU s per block")
    for method in methods:
        for layers in depths:
            took = measured(arguments, method, layers)
            print(
                f"{method:6} {layers:7} {took['peak_bytes'] / 1e6:9,.0f} {took['time_s']:13.1f} "
                f"{took['cpu_s']:17.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
