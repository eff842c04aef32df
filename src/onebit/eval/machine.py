"""The machine that something was measured on, and what it could do at best at that moment."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

from onebit.kernels import machine, ops

_TELLING = re.compile(r"avx\w*|fma|f16c|bmi2|asimddp|i8mm|asimdhp|bf16|sve2?|sme2?")


@dataclass(frozen=True)
class Machine:
    """What decides how fast it is. Never its name on a network."""

    processor: str
    cores: int
    """That this process may use."""
    memory_bytes: int
    """Of the whole machine; 0 where the system does not tell."""
    isa: str
    """The kernels' instruction set."""
    flags: tuple[str, ...]
    """The processor's, those that kernels may ask for."""
    system: str

    @classmethod
    def here(cls) -> "Machine":
        """Describe the machine that this runs on."""
        return cls(
            _cpuinfo("model name") or platform.processor() or platform.machine(),
            ops.default_threads(),
            _memory_bytes(),
            ops.active_isa(),
            tuple(sorted(set(filter(_TELLING.fullmatch, _flags())))),
            f"{platform.system()} {platform.machine()}",
        )


@dataclass(frozen=True)
class Limits:
    """What a number of threads can do at best."""

    bandwidth: float
    """Bytes per second, read from DRAM."""
    int8: float | None
    """Multiplications and additions per second; None where the kernels' kind has no such limit."""

    @classmethod
    def measure(cls, threads: int, size_bytes: int, time_s: float) -> "Limits":
        """Measure both; see `kernels.machine`."""
        return cls(
            machine.measure_read_bandwidth(threads, size_bytes, time_s),
            machine.measure_int8_peak(threads, time_s / 2),
        )

    def between(self, other: "Limits") -> "Limits":
        """Return the mean: of what was measured before and after something."""
        both = self.int8 is not None and other.int8 is not None
        return Limits(
            (self.bandwidth + other.bandwidth) / 2,
            (self.int8 + other.int8) / 2 if both else None,  # type: ignore[operator]
        )

    def least_time_s(self, size_bytes: float, operations: float) -> float:
        """Return the least time that reading so many bytes and so many operations can take."""
        return max(size_bytes / self.bandwidth, operations / self.int8 if self.int8 else 0.0)


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text("utf-8").splitlines():
            if line.partition(":")[0].strip() == key:
                return line.partition(":")[2].strip()
    return ""


def _flags() -> list[str]:
    return (_cpuinfo("flags") or _cpuinfo("Features")).split()


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
