"""What `fresh.first_token` runs: open a model, compute one token, say so."""

import resource
import sys
import time
from pathlib import Path

_TOKEN = 1  # any does


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
