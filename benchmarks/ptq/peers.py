"""Other projects on the same weights, calibration tokens and evaluation, in one run.

Each peer has an environment of its own under OUT/peers, made on first use, and a script beside this
file that reads

    floats/           the reference, float32 safetensors as transformers reads them
    calibration.npy   int64 token ids, (windows, tokens): those of the table's rows

and writes a folder of the same float32 tensors with rounded values, and result.json with its
version and seconds. Both its values and ours are then measured as floats by our torch engine.

    python -m benchmarks.ptq.peers [--models A,B] [--out FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.ptq import store
from benchmarks.ptq.job import FILE
from benchmarks.ptq.rows import CALIBRATION, MODELS, ROWS, WINDOW, WINDOWS, Setup

from onebit import models, pack, quant
from onebit.data import Tokenizer
from onebit.errors import OnebitError
from onebit.eval import engines, perplexity, texts
from onebit.nn import native_blocks
from onebit.pack import Unpacked
from onebit.ptq import calibration
from onebit.ptq.source import FileSource
from onebit.scheme import role_of
from onebit.tensors import linears


@dataclass(frozen=True)
class Peer:
    """Another project's method."""

    name: str
    words: str
    requirements: tuple[str, ...]
    script: str
    ours: str
    """The row that does the same."""
    models: tuple[str, ...] = ("smollm2",)
    env: tuple[tuple[str, str], ...] = ()


PEERS = (
    Peer(
        "llm-compressor",
        "GPTQ, 3 bits, zero-point, groups of 64, static act-order",
        ("llmcompressor==0.14.0.1", "torch==2.13.0"),
        "peer_llmcompressor.py",
        "gptq-w3",
    ),
    Peer(
        "GPTQModel",
        "GPTQ, 3 bits, zero-point, groups of 64, no act-order",
        ("gptqmodel==7.6.0", "torch==2.13.0"),
        "peer_gptqmodel.py",
        "gptq-w3-in-order",
        env=(("GPTQMODEL_CPU_WORKERS", "2"),),
    ),
)
BLOCK_FORMATS = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k")


def everything(out: Path, setup: Setup) -> dict[str, str]:
    """Do all peers that are not done; return what went wrong, by name."""
    failed = {}
    for model in setup.models:
        path = out / model / "peers.json"
        found = store.read(path) or {}
        for peer in PEERS:
            if peer.name in found or model not in peer.models:
                continue
            try:
                found[peer.name] = _peer(out, model, peer, setup)
                store.write(path, found)
            except (OnebitError, subprocess.CalledProcessError) as error:
                failed[f"{model}/{peer.name}"] = str(error)
        for name in BLOCK_FORMATS:
            if f"libgguf {name}" not in found:
                found[f"libgguf {name}"] = libgguf(model, name, setup)
                store.write(path, found)
    return failed


def _peer(out: Path, model: str, peer: Peer, setup: Setup) -> dict[str, Any]:
    folder = (out / model / "peers" / peer.name).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    floats, tokens = _inputs(out / model / "peers", model)
    python = _environment(out / "peers" / peer.name, peer.requirements)
    script = Path(__file__).with_name(peer.script)
    threads = str(setup.threads)
    env = os.environ | dict(peer.env) | {"OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    env.pop("PYTHONPATH", None)  # and -P: this folder's numbers.py is not the library's
    with open(folder / "log.txt", "w") as log:
        subprocess.run(
            [python, "-P", script, floats, tokens, folder / "model", threads],
            check=True,
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = store.read(folder / "model" / "result.json")
    assert found is not None  # the script ended well
    found |= {"words": peer.words, "wiki_perplexity": _of_floats(folder / "model", setup)}
    ours = store.result(out, model, ROWS[peer.ours], setup)
    if ours is not None:
        file = store.folder(out, model, ROWS[peer.ours]) / FILE
        found["ours"] = {
            "row": peer.ours,
            "time_s": ours["time_s"],
            "wiki_perplexity": _of_floats(file, setup),
        }
    return found


def _inputs(folder: Path, model: str) -> tuple[Path, Path]:
    """Return the float model and the calibration tokens that all peers are given."""
    folder = folder.resolve()
    floats, tokens = folder / "floats", folder / "calibration.npy"
    if not floats.exists():
        models.export(model, floats, "f32", embed="f32")
    if not tokens.exists():
        source = FileSource(model).checkpoint.tokenizer
        assert source is not None  # a model of the catalog
        tokenizer = Tokenizer.load(source.source)
        bos = tokenizer.bos_id if tokenizer.add_bos else None
        read = calibration.read(CALIBRATION, tokenizer, windows=WINDOWS, length=WINDOW, bos=bos)
        np.save(tokens, read.tokens_WT)
    return floats, tokens


def _environment(folder: Path, requirements: Sequence[str]) -> Path:
    """Return the Python of an environment that has these packages."""
    folder = folder.resolve()
    python = folder / "bin" / "python"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)
        (folder / "done").touch()
    return python


def _of_floats(model: Path, setup: Setup) -> float:
    """Return the perplexity of a model's weights in float32 torch."""
    opened, tokenizer = engines.open_model(model, "torch", setup.threads)
    text = texts.read("wiki", setup.limit_chars)
    return perplexity(opened, text.text, None, tokenizer).perplexity


def libgguf(model: str, name: str, setup: Setup) -> dict[str, Any]:
    """Return relative errors and seconds of ggml's own quantizer and of ours, from floats to bytes,
    on the layers whose width its blocks divide, in turns on one thread."""
    import gguf
    import libgguf as peer

    source = FileSource(model)
    kind = gguf.GGMLQuantizationType[name.upper()]
    sums = {"theirs": [0.0, 0.0], "ours": [0.0, 0.0]}
    whole, layers = 0.0, 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for linear in linears(source.architecture):
        if role_of(linear.name) in ("embed", "head") or linear.K % 256:
            continue
        w_NK = source.tensor(f"{linear.name}.weight")
        array = np.ascontiguousarray(w_NK.numpy())
        started = time.perf_counter()
        raw = peer.quantize_rows(array, kind)
        sums["theirs"][1] += time.perf_counter() - started
        values = gguf.quants.dequantize(raw, kind).reshape(array.shape)
        sums["theirs"][0] += float(np.square(values - array, dtype=np.float64).sum())
        started = time.perf_counter()
        codes = native_blocks.FORMATS[name](w_NK)
        minimum_NG = None if codes.minimum_NG is None else codes.minimum_NG.numpy()
        pack.FORMATS[name].pack(
            Unpacked(codes.codes_NK.numpy(), codes.scale_NG.numpy(), minimum_NG)
        )
        sums["ours"][1] += time.perf_counter() - started
        miss = (quant.dequantize(codes) - w_NK).double()
        sums["ours"][0] += float(miss.square().sum())
        whole += float(w_NK.double().square().sum())
        layers += 1
    torch.set_num_threads(threads)
    error = {who: (lost / whole) ** 0.5 for who, (lost, _) in sums.items()}
    return {
        "version": "0.2.2",
        "words": f"{name.upper()} of {layers} layers, no importance weights",
        "time_s": sums["theirs"][1],
        "weight_error": error["theirs"],
        "ours": {"time_s": sums["ours"][1], "weight_error": error["ours"]},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the peers alone; return the exit code."""
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument("--out", type=Path, default=Path("runs/results-ptq"))
    given = parser.parse_args(arguments)
    failed = everything(given.out, Setup(models=tuple(given.models.split(","))))
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    print(json.dumps({m: store.read(given.out / m / "peers.json") for m in MODELS}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
