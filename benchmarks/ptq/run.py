"""Quantize two real models in every way, measure each, then write the page: `make results-ptq`.

    python -m benchmarks.ptq.run [--models A,B] [--rows A,B] [--items N] [--limit-chars N]
                                 [--threads 2] [--peers] [--out FOLDER] [--page FOLDER]
                                 [--page-only]

One row after another, each in a process of its own that has all threads, so that its minutes and
its memory are its own. Stop it when you like and start it again: finished rows are kept, the one
under way goes on from its last block, and rows whose definition has changed are done anew.

With fewer questions or shorter texts than the page's, the page goes into the folder of the results,
not into docs/.
"""

import argparse
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from benchmarks.ptq import page, peers, store
from benchmarks.ptq.rows import MODELS, ROWS, Row, Setup

from onebit.errors import OnebitError, OptionError

OUT = Path("runs/results-ptq")
PAGE = Path("docs/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="results-ptq", description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="names, with commas")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, with commas")
    parser.add_argument("--items", type=int, default=Setup.items, help="questions of each task")
    parser.add_argument("--limit-chars", type=int, help="of each text; default: 40000")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", action="store_true", help="other projects' methods too")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the results")
    parser.add_argument("--page", type=Path, help="folder of the page")
    parser.add_argument("--page-only", action="store_true", help="of what is finished; do nothing")
    given = parser.parse_args(arguments)
    setup = Setup(
        models=tuple(given.models.split(",")),
        rows=tuple(given.rows.split(",")),
        items=given.items,
        limit_chars=given.limit_chars,
        threads=given.threads,
    )
    failed: dict[str, str] = {}
    try:
        if not given.page_only:
            failed = everything(given.out, setup)
            if given.peers:
                failed |= peers.everything(given.out, setup)
        whole = replace(setup, models=tuple(MODELS), rows=tuple(ROWS)) == Setup()
        written = page.write(given.out, setup, given.page or (PAGE if whole else given.out))
    except OnebitError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    print(written)
    for name, error in failed.items():
        print(f"{name}: {error}", file=sys.stderr)
    return 1 if failed else 0


def everything(out: Path, setup: Setup, stream: TextIO = sys.stderr) -> dict[str, str]:
    """Do all rows that are not finished.

    Returns:
        What went wrong, by "model/row"; the other rows are done all the same.

    Raises:
        OptionError: a row or model is unknown, or another process works in the folder.
    """
    for kind, names, known in (("row", setup.rows, ROWS), ("model", setup.models, MODELS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise OptionError(f"{unknown[0]!r} is no {kind}. Known: {', '.join(known)}.")
    out.mkdir(parents=True, exist_ok=True)
    with open(out / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OptionError(f"{out}: another process works here. Wait for it.") from error
        jobs = wanted(out, setup)
        failed, began = {}, time.monotonic()
        for done, (model, row) in enumerate(jobs):
            said = ""
            if done:
                left = (time.monotonic() - began) / done * (len(jobs) - done)
                said = f", about {left / 60:.0f} minutes left"
            print(f"{done + 1} of {len(jobs)}: {model} {row.name}{said}", file=stream, flush=True)
            error = _in_a_process(out, model, row, setup)
            if error:
                failed[f"{model}/{row.name}"] = error
                print(f"  {error}", file=stream, flush=True)
        return failed


def wanted(out: Path, setup: Setup) -> list[tuple[str, Row]]:
    """Return what is not done, in order; a row whose size another has comes after it."""
    rows = sorted((ROWS[name] for name in setup.rows), key=lambda row: bool(row.bits_of))
    return [
        (model, row)
        for model in setup.models
        for row in rows
        if model in row.models and store.result(out, model, row, setup) is None
    ]


def _in_a_process(out: Path, model: str, row: Row, setup: Setup) -> str:
    """Do a row; return what went wrong, or "". What it tells of itself goes into its log."""
    folder = store.claim(out, model, row, setup)
    given = {"out": str(out), "model": model, "row": row.name, "setup": asdict(setup)}
    with open(folder / "log.txt", "w") as log:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.ptq.job", json.dumps(given)],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    if done.returncode == 0:
        return ""
    last = done.stdout.strip().splitlines()
    return last[-1] if last else f"ended with {done.returncode}; see {folder / 'log.txt'}"


if __name__ == "__main__":
    sys.exit(main())
