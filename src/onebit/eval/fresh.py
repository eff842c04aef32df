"""A process that opens a model and computes one token: from nothing to the first answer.

`first_token` starts it and holds the clock; `fresh_process.py` is what it runs, and imports nothing
that the model does not need.
"""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onebit.errors import OnebitError

_COMMAND = (sys.executable, "-m", "onebit.eval.fresh_process")


@dataclass(frozen=True)
class Start:
    """How a fresh process came to its first token."""

    first_token_s: float
    """From the start of the process, Python and imports included; page cache as it happens.

    Python's byte code is there, as it is where a package has been installed and used once.
    """
    load_s: float
    """Of that, from the path to a model ready for its first prompt."""
    peak_memory_bytes: int
    """The most that the process has had resident, Python and mapped file included."""


def first_token(
    engine: str, path: str | Path, threads: int, options: Mapping[str, object]
) -> Start:
    """Start a process that opens a model and computes one token.

    Args:
        engine: "onebit", or a key of `rivals.RIVALS`.
        path: of the model.
        threads: for the engine.
        options: for `LLM`: kv_bits and so on.

    Raises:
        OnebitError: the process failed; with the last line that it wrote.
    """
    words = [engine, str(path), str(threads), *(f"{k}={v}" for k, v in options.items())]
    environment = _with_byte_code(engine, str(path))
    start_s = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,  # not a pipe: nobody would read it in time
        subprocess.Popen(
            [*_COMMAND, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        first_token_s = time.perf_counter() - start_s
        if process.wait() or not line.startswith("token "):
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or ["it wrote nothing"]
            raise OnebitError(f"bench: a fresh process of {engine} failed: {last[0]:.300}")
    _, load_s, peak = line.split()
    return Start(first_token_s, float(load_s), int(peak))


@cache
def _with_byte_code(engine: str, path: str) -> dict[str, str]:
    """Return an environment that has the byte code of all that such a process imports.

    An installation's may be out of date, or never written where PYTHONDONTWRITEBYTECODE is set;
    compiling anew takes Python a third of a second. The folder goes when this process does.
    """
    folder = tempfile.mkdtemp(prefix="onebit-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    changes = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
    environment = dict(os.environ) | changes
    subprocess.run(
        [*_COMMAND, engine, path, "1"], env=environment, capture_output=True, check=False
    )
    return environment
