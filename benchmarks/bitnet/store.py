"""The folder that the runs live in, and what is finished there.

runs/results-bitnet/
  text/                    tokenizer and tokens, made once
  NAME-lrRATE-seedS/       a run's folder, as `onebit.train` makes it; `data` is a link to text
    result.json            it is finished ...
    diverged.json          ... or its loss became infinite
    measures/KIND.json     what was measured on its model

A run is finished when its folder holds the recipe that is wanted and one of the two. A folder with
another recipe is of an arm that has since changed, and makes way.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bitnet.arms import ARMS, Arm, Run, Setup

from onebit.errors import OnebitError
from onebit.io.atomic import write_bytes
from onebit.train import recipe
from onebit.train.config import TrainConfig
from onebit.train.progress import Silent
from onebit.train.text import Text, prepare

TEXT = "text"


def text(out: Path, setup: Setup) -> Text:
    """Return the text that all runs share, made on the first call and when it has changed."""
    made_of = out / f"{TEXT}.json"
    if not made_of.exists() or read(made_of) != asdict(setup.data):
        shutil.rmtree(out / TEXT, ignore_errors=True)
        write(made_of, asdict(setup.data))
    return prepare(setup.data, out / TEXT, Silent())


def finished(out: Path, setup: Setup, run: Run) -> bool:
    """Whether the run has come to its end, under the recipe that is wanted now."""
    folder = out / run.name
    if not any((folder / name).exists() for name in ("result.json", "diverged.json")):
        return False
    return _holds(folder, setup.config(run))


def claim(out: Path, setup: Setup, run: Run) -> Path:
    """Return the run's folder with the shared text in it, emptied if it is of another recipe."""
    folder, config = out / run.name, setup.config(run)
    if folder.exists() and not _holds(folder, config):
        shutil.rmtree(folder)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_bytes(folder / "recipe.toml", recipe.write(config).encode())
    if not (folder / "data").exists():
        os.symlink(Path("..") / TEXT, folder / "data")
    return folder


def score(out: Path, run: Run) -> float:
    """Return a finished run's held-out bits per byte; infinite where training diverged."""
    if (out / run.name / "diverged.json").exists():
        return math.inf
    return float(read(out / run.name / "result.json")["held_out_bits_per_byte"])


def scores(out: Path, setup: Setup) -> dict[str, float]:
    """Return the scores of all finished runs in the folder, by name."""
    found = {}
    for folder in sorted(out.glob("*-lr*-seed*")):
        run = parse(folder.name, setup.known)
        if run is not None and finished(out, setup, run):
            found[run.name] = score(out, run)
    return found


def parse(name: str, known: Mapping[str, Arm] = ARMS) -> Run | None:
    """Return the run that a folder's name stands for; None if it is no arm's (any more)."""
    arm, _, rest = name.rpartition("-lr")
    lr, _, seed = rest.rpartition("-seed")
    if arm not in known:
        return None
    run = Run(known[arm], float(lr), int(seed))
    return run if run.name == name else None


def share_done(out: Path, setup: Setup, run: Run) -> float:
    """Return how much of a run is done, 0 to 1: by the last step that its metrics tell of."""
    path = out / run.name / "metrics.jsonl"
    steps = setup.config(run).steps
    assert steps is not None  # every run has a number of tokens
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 4096))
            lines = file.read().splitlines()
        done = max(json.loads(line)["step"] for line in lines[1:] if line.startswith(b"{"))
    except (OSError, ValueError, KeyError):
        return 0.0
    return min(done / steps, 1.0)


def remove(folder: Path) -> None:
    """Remove a folder of a finished run that nobody needs any more."""
    shutil.rmtree(folder, ignore_errors=True)


def read(path: Path) -> dict[str, Any]:
    """Return a JSON file as a dict."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def write(path: Path, values: dict[str, Any]) -> None:
    """Write a dict as a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, (json.dumps(values, indent=1) + "\n").encode())


def _holds(folder: Path, config: TrainConfig) -> bool:
    """Whether the folder's recipe is this one."""
    try:
        return not recipe.differences(recipe.read(folder / "recipe.toml"), config)
    except OnebitError:  # of another version, or cut short
        return False
