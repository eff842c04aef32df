"""One job: train a run, then measure its model. And the process that does one after another.

    python -m benchmarks.bitnet.job

reads jobs as lines of JSON and answers each with a line, until its input ends: so it also ends when
whoever started it is killed. `run.py` starts two of them.
"""

import contextlib
import importlib
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bitnet import measure, store
from benchmarks.bitnet.arms import Run, Setup

from onebit.errors import FileError, OnebitError, OptionError
from onebit.train import memory, train
from onebit.train.config import DataConfig, ModelConfig, OptimConfig, TrainConfig
from onebit.train.progress import Silent

PATIENCE_S = 60


class Watch(Silent):
    """Ends the process when the one that started it is gone."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def step(
        self, step: int, share: float, loss: float, rate_tokens_per_s: float, left_s: float
    ) -> None:
        """Look whether anybody still waits for this run."""
        if os.getppid() != self._parent:
            raise SystemExit(1)


def do(out: Path, setup: Setup, run: Run, measures: bool) -> None:
    """Train a run to its end if that is not done, and measure what is not measured.

    Raises:
        OnebitError: what `train` raises, but for a loss that becomes infinite: that is a result.
    """
    folder = store.claim(out, setup, run)
    if not store.finished(out, setup, run):
        try:
            _train(setup.config(run), folder)
        except OptionError as error:
            if "diverged" not in str(error):
                raise
            store.write(folder / "diverged.json", {"message": str(error)})
    for checkpoints in (folder / "checkpoints", folder / ".model"):
        store.remove(checkpoints)
    if measures:
        measure.all_of(out, setup, run)


def _train(config: TrainConfig, folder: Path) -> None:
    """Train; if a process whose starter was killed still has the folder, wait until it sees that.

    Raises:
        OnebitError: what `train` raises.
    """
    for _ in range(PATIENCE_S):
        try:
            train(config, folder, Watch())
            return
        except FileError as error:
            if "another process" not in str(error):
                raise
            time.sleep(1)
    train(config, folder, Watch())


def to_line(out: Path, setup: Setup, run: Run, measures: bool) -> str:
    """Write a job as a line."""
    job = {"of": type(setup).__module__, "out": str(out), "setup": asdict(setup)}
    return json.dumps(job | {"run": run.name, "measures": measures})


def from_line(line: str) -> tuple[Path, Setup, Run, bool]:
    """Read what `to_line` wrote."""
    job: dict[str, Any] = json.loads(line)
    given = job["setup"]
    setup: Setup = importlib.import_module(job["of"]).Setup(
        tokens=given["tokens"],
        data=DataConfig(**given["data"]),
        model=ModelConfig(**given["model"]),
        optim=OptimConfig(**given["optim"]),
        arms=tuple(given["arms"]),
        seeds=tuple(given["seeds"]),
        rates=tuple(given["rates"]),
    )
    run = store.parse(job["run"], setup.known)
    assert run is not None  # `to_line` had it from the same arms
    return Path(job["out"]), setup, run, job["measures"]


def answer(line: str) -> str | None:
    """Read a worker's answer: what went wrong, or None."""
    error: str | None = json.loads(line).get("error")
    return error


def main() -> None:
    """Do the jobs on standard input, one a line; an answer is {} or {"error": text}."""
    memory.keep_freed()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    for line in sys.stdin:
        said = {}
        try:
            do(*from_line(line))
        except OnebitError as error:
            said = {"error": str(error)}
        except Exception:
            said = {"error": traceback.format_exc()}
        print(json.dumps(said), file=answers, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
