"""What this machine can do at best: the limits that speeds are given as shares of.

Both are measured anew at each call. On a machine that others use too they move from minute to
minute, so a share is of the limit measured just before or after.
"""

import math

from onebit.errors import OptionError
from onebit.kernels import cpu, ops

DRAM_BYTES = 512 << 20
"""Read in turn by `measure_read_bandwidth`: a few times the largest of today's last caches."""


def measure_read_bandwidth(
    threads: int, size_bytes: int = DRAM_BYTES, time_s: float = 0.1
) -> float:
    """Return the bytes per second that threads read together, each one stream of its own.

    Args:
        threads: from 1 to 1024.
        size_bytes: of memory, split among the threads; small numbers measure a cache.
        time_s: how long to read.

    Raises:
        OptionError: a number is out of range, or there is no memory of that size.
    """
    _check("measure_read_bandwidth", threads, time_s, size_bytes)
    try:
        return cpu.measure_read_bandwidth(threads, size_bytes, time_s)
    except MemoryError:
        raise OptionError(
            f"measure_read_bandwidth: size_bytes is {size_bytes}, more than this machine gives. "
            "Choose less."
        ) from None


def measure_int8_peak(threads: int, time_s: float = 0.05) -> float | None:
    """Return the multiplications and additions of int8 per second, or None.

    That is of the instruction that the kernels in use are built on, its operands in registers:
    vpdpbusd, vpmaddubsw with its addition, sdot or smmla. The scalar kernels have no such limit.

    Raises:
        OptionError: a number is out of range.
        UnsupportedError: ONEBIT_ISA names an instruction set that does not run here.
    """
    _check("measure_int8_peak", threads, time_s)
    ops.active_isa()
    return cpu.measure_int8_peak(threads, time_s) or None


def _check(op: str, threads: int, time_s: float, size_bytes: int = 1) -> None:
    """Every thread measures on its own, so a slip in their number would take all memory."""
    if not 1 <= threads <= ops.MAX_THREADS or size_bytes < 1 or not 0 < time_s < math.inf:
        raise OptionError(
            f"{op}: threads {threads}, size_bytes {size_bytes}, time_s {time_s}; "
            f"accepted: threads from 1 to {ops.MAX_THREADS}, the others above 0."
        )
