"""What this machine can do at best: the limits that speeds are given as shares of.

Both are measured anew at each call. On a machine that others use too they move from minute to
minute, so a share is of the limit measured just before or after.
"""

from onebit.errors import OptionError
from onebit.kernels import cpu, ops

DRAM_BYTES = 512 << 20
"""Read in turn by `measure_read_bandwidth`: a few times the largest of today's last caches."""


def measure_read_bandwidth(
    threads: int, size_bytes: int = DRAM_BYTES, time_s: float = 0.1
) -> float:
    """Return the bytes per second that threads read together, each one stream of its own.

    Args:
        threads: at least 1.
        size_bytes: of memory, split among the threads; small numbers measure a cache.
        time_s: how long to read.

    Raises:
        OptionError: a number is not positive.
    """
    if threads < 1 or size_bytes < 1 or not time_s > 0:
        raise OptionError(
            f"measure_read_bandwidth: threads {threads}, size_bytes {size_bytes}, time_s {time_s}; "
            "each must be above 0."
        )
    return cpu.measure_read_bandwidth(threads, size_bytes, time_s)


def measure_int8_peak(threads: int, time_s: float = 0.05) -> float | None:
    """Return the multiplications and additions of int8 per second, or None.

    That is of the instruction that the kernels in use are built on, its operands in registers:
    vpdpbusd, vpmaddubsw with its addition, sdot or smmla. The scalar kernels have no such limit.

    Raises:
        OptionError: a number is not positive.
        UnsupportedError: ONEBIT_ISA names an instruction set that does not run here.
    """
    if threads < 1 or not time_s > 0:
        raise OptionError(
            f"measure_int8_peak: threads {threads}, time_s {time_s}; each must be above 0."
        )
    ops.active_isa()
    return cpu.measure_int8_peak(threads, time_s) or None
