"""A process that opens a model and computes one token: from nothing to the first answer.

`first_token` starts it and holds the clock; this module is what it runs.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onebit.errors import OnebitError

_TOKEN = 1  # any does


@dataclass(frozen=True)
class Start:
    """How a fresh process came to its first token."""

    first_token_s: float
    """From the start of the process, Python and imports included; page cache as it happens."""
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
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "onebit.eval.fresh", *words]
    with (
        tempfile.TemporaryFile("w+") as errors,  # not a pipe: nobody would read it in time
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
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


def peak_memory_bytes() -> int:
    """Return the most memory that this process has had resident."""
    status = Path("/proc/self/status")
    if status.is_file():  # what getrusage says here may be of the process that started this one
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _run(engine: str, path: str, threads: int, options: dict[str, object]) -> None:
    start_s = time.perf_counter()
    if engine == "onebit":
        from onebit import LLM

        llm = LLM(path, threads=threads, **options)  # type: ignore[arg-type]
        load_s = time.perf_counter() - start_s
        llm.logits_after([_TOKEN])
    else:
        from onebit.eval.rivals import open_rival

        rival = open_rival(engine, Path(path), threads)
        load_s = time.perf_counter() - start_s
        rival.time_prefill([_TOKEN])
    print("token", load_s, peak_memory_bytes(), flush=True)


def _parse(word: str) -> tuple[str, object]:
    name, _, value = word.partition("=")
    return name, int(value) if value.isdecimal() else value


if __name__ == "__main__":
    _run(sys.argv[1], sys.argv[2], int(sys.argv[3]), dict(map(_parse, sys.argv[4:])))
