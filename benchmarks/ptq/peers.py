"""Other projects on the same weights, calibration tokens and evaluation, in one run.

GPTQ: each peer has an environment of its own under OUT/peers, made on first use, and a script
beside this file, as we have one. All scripts read

    floats/           the reference, float32 safetensors as transformers reads them
    calibration.npy   int64 token ids, (windows, tokens): those of the table's rows

and leave a model with the rounded values, and result.json with version, seconds and memory. One
after the other has the machine; then the values are measured as floats by our torch engine.

Block formats: ggml's own quantizers beside ours (`ggml.py`).

    python -m benchmarks.ptq.peers [--models A,B] [--only A,B] [--threads N] [--limit-chars N]
                                   [--out FOLDER]
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.ptq import ggml, store
from benchmarks.ptq.job import FILE, on_texts
from benchmarks.ptq.rows import CALIBRATION, MODELS, WINDOW, WINDOWS, Setup

from onebit import models
from onebit.data import Tokenizer
from onebit.errors import OnebitError, OptionError
from onebit.eval import engines
from onebit.ptq import calibration
from onebit.ptq.source import FileSource

OUT = Path("runs/results-ptq")
OURS = "peer_onebit.py"


@dataclass(frozen=True)
class Peer:
    """Another project's method."""

    name: str
    project: str
    """Of its environment."""
    words: str
    requirements: tuple[str, ...]
    script: str
    bits: int
    observer: str = ""
    """How its script looks for ranges; "" takes the smallest and the largest weight."""
    models: tuple[str, ...] = ("smollm2",)
    env: tuple[tuple[str, str], ...] = ()


_TORCH = "torch==2.13.0"
_LLMCOMPRESSOR = ("llmcompressor==0.14.0.1", _TORCH)
_GPTQMODEL = ("gptqmodel==7.6.0", _TORCH)
PEERS = (
    *(
        Peer(
            f"llm-compressor-w{bits}",
            "llm-compressor",
            f"GPTQ, {bits} bits, zero-point, groups of 64, act-order with static groups",
            _LLMCOMPRESSOR,
            "peer_llmcompressor.py",
            bits,
        )
        for bits in (3, 4)
    ),
    Peer(
        "llm-compressor-w3-mse",
        "llm-compressor",
        "the same, 3 bits, ranges of least squared error",
        _LLMCOMPRESSOR,
        "peer_llmcompressor.py",
        3,
        "mse",
    ),
    Peer(
        "gptqmodel-w3",
        "GPTQModel",
        "GPTQ, 3 bits, zero-point, groups of 64, its own order (groups by activation)",
        _GPTQMODEL,
        "peer_gptqmodel.py",
        3,
        env=(("GPTQMODEL_CPU_WORKERS", "2"),),
    ),
)


def everything(
    out: Path, setup: Setup, only: Sequence[str] = (), told: Any = sys.stderr
) -> dict[str, str]:
    """Do all peers that are not done, or those named; return what went wrong, by name.

    Raises:
        OptionError: a name is not known.
    """
    known = [peer.name for peer in PEERS] + [ggml.name(*way) for way in ggml.WAYS]
    unknown = [name for name in only if name not in known]
    if unknown:
        raise OptionError(f"{unknown[0]!r} is no peer. Known: {', '.join(known)}.")
    failed: dict[str, str] = {}
    for model in setup.models:
        for name, (made_of, job) in _jobs(out, model, setup).items():
            found = results(out, model)
            if (only and name not in only) or found.get(name, {}).get("made_of") == made_of:
                continue
            print(f"{model} beside {name}", file=told, flush=True)
            try:
                found[name] = {"made_of": made_of, **job()}
            except (OnebitError, OSError, subprocess.CalledProcessError) as error:
                failed[f"{model}/{name}"] = str(error)
                print(f"  {error}", file=told, flush=True)
            else:
                store.write(_path(out, model), found)
    return failed


def _jobs(
    out: Path, model: str, setup: Setup
) -> dict[str, tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """Return, by name, what a result is made of and what makes it."""
    jobs = {
        peer.name: (stamp(peer, setup), partial(_peer, out, model, peer, setup))
        for peer in PEERS
        if model in peer.models
    }
    return jobs | {
        ggml.name(*way): (
            _measured_by(setup) | {"way": list(way)},
            partial(_ggml, out, model, way, setup),
        )
        for way in ggml.WAYS
    }


def _ggml(out: Path, model: str, way: tuple[str, bool], setup: Setup) -> dict[str, Any]:
    return ggml.beside(_inputs(_folder(out, model), model), model, *way, setup)


def results(out: Path, model: str) -> dict[str, Any]:
    """Return what was found, by the peer's name."""
    return store.read(_path(out, model)) or {}


def _path(out: Path, model: str) -> Path:
    return out / model / "peers.json"


def _folder(out: Path, model: str) -> Path:
    return (out / model / "peers").resolve()


def _measured_by(setup: Setup) -> dict[str, Any]:
    return {"limit_chars": setup.limit_chars, "threads": setup.threads}


def stamp(peer: Peer, setup: Setup) -> dict[str, Any]:
    """Return all that a peer's result depends on, as JSON gives it back."""
    made = {
        "requirements": peer.requirements,
        "bits": peer.bits,
        "observer": peer.observer,
        "env": peer.env,
    }
    plain: dict[str, Any] = json.loads(json.dumps(made | _measured_by(setup)))
    return plain


def _peer(out: Path, model: str, peer: Peer, setup: Setup) -> dict[str, Any]:
    """Run a peer and ours, one after the other, and measure both."""
    inputs = _inputs(_folder(out, model), model)
    folder = _folder(out, model) / peer.name
    python = _environment(out / "peers" / peer.project, peer.requirements)
    found = _script([python, "-P"], peer.script, inputs, folder / "theirs", peer, setup)
    ours = _script([sys.executable], OURS, inputs, folder / "ours", peer, setup)
    theirs = _of_floats(folder / "theirs" / "model", setup)
    return {
        "project": peer.project,
        "words": peer.words,
        **found,
        "texts": theirs,
        "ours": ours | {"texts": _of_floats(folder / "ours" / "model" / FILE, setup)},
    }


def _script(
    python: Sequence[str | Path],
    script: str,
    inputs: tuple[Path, Path],
    folder: Path,
    peer: Peer,
    setup: Setup,
) -> dict[str, Any]:
    """Run a script in its folder, where it may leave what it likes; return its result."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = json.dumps({"bits": peer.bits, "observer": peer.observer, "threads": setup.threads})
    env = os.environ | {"OMP_NUM_THREADS": str(setup.threads), "HF_HUB_OFFLINE": "1"}
    if script != OURS:
        env |= dict(peer.env)
        env.pop("PYTHONPATH", None)  # and -P: this folder's numbers.py is not the library's
    path = Path(__file__).with_name(script).resolve()
    module = ["-m", f"benchmarks.ptq.{path.stem}"] if script == OURS else [path]
    with open(folder / "log.txt", "w") as log:
        done = subprocess.run(
            [*python, *module, *inputs, folder / "model", settings],
            env=env,
            cwd=None if script == OURS else folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    found = store.read(folder / "model" / "result.json")
    if done.returncode or found is None:
        raise OnebitError(f"{script} ended with {done.returncode}; see {folder / 'log.txt'}")
    return found


def _inputs(folder: Path, model: str) -> tuple[Path, Path]:
    """Return the float model and the calibration tokens that all peers are given."""
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
    python, done = folder / "bin" / "python", folder / "done"
    wanted = "\n".join(requirements)
    if not done.exists() or done.read_text() not in ("", wanted):
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [python, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
        subprocess.run([*pip, *requirements], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return python


def _of_floats(model: Path, setup: Setup) -> dict[str, Any]:
    """Return what float32 torch says of a model's values."""
    return on_texts(*engines.open_model(model, "torch", setup.threads), setup)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the peers alone; return the exit code."""
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument("--only", default="", help="names of peers, with commas; default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit-chars", type=int, help="of each text; default: 40000")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args(arguments)
    setup = Setup(
        models=tuple(given.models.split(",")),
        limit_chars=given.limit_chars,
        threads=given.threads,
    )
    try:
        failed = everything(given.out, setup, tuple(filter(None, given.only.split(","))))
    except OnebitError as error:
        print(error, file=sys.stderr)
        return 1
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    print(json.dumps({m: results(given.out, m) for m in setup.models}, indent=1))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
