"""A model on this machine: time to load, memory, and the speed of reading and writing."""

import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from onebit.eval.speed import Speed, measure_speed
from onebit.kernels import ops
from onebit.runtime.llm import LLM


@dataclass(frozen=True)
class Bench:
    """A measurement, and the machine it was made on."""

    scheme: str
    """Name of the model's."""
    speed: Speed
    load_time_s: float
    """From the path to a model ready for its first prompt; page cache as it happens to be."""
    peak_memory_bytes: int
    """The most this process has had resident, Python included."""
    isa: str
    """The kernels' instruction set."""
    processor: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"speed": self.speed.to_dict()}


def bench_model(
    path: str | Path,
    decode: int = 64,
    rounds: int = 3,
    threads: int | None = None,
    begin: Callable[[], None] = lambda: None,
) -> Bench:
    """Load a model and time it; see `measure_speed`, also for `begin`.

    Raises:
        OnebitError: the model cannot be opened, an option is out of range, or the check fails.
    """
    start_s = time.perf_counter()
    with LLM(path, threads=threads) as llm:
        load_time_s = time.perf_counter() - start_s
        speed = measure_speed(llm, decode=decode, rounds=rounds, begin=begin)
        machine = ops.active_isa(), processor()
        return Bench(llm.scheme.name, speed, load_time_s, peak_memory_bytes(), *machine)


def peak_memory_bytes() -> int:
    """Return the most memory this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def processor() -> str:
    """Return the name of the CPU, as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
