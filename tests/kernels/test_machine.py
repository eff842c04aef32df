"""The machine's limits come out as numbers; which numbers is the machine's affair."""

import math

import pytest

from onebit.errors import OptionError, UnsupportedError
from onebit.kernels import machine


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("size_bytes", [1, 3 << 20])
def test_read_bandwidth(threads, size_bytes):
    rate = machine.measure_read_bandwidth(threads, size_bytes, time_s=0.002)
    assert 0 < rate < math.inf


@pytest.mark.parametrize("threads", [1, 3])
def test_int8_peak(isa, threads):
    peak = machine.measure_int8_peak(threads, time_s=0.002)
    if isa == "scalar":
        assert peak is None
    else:
        assert 0 < peak < math.inf


@pytest.mark.parametrize(
    "numbers",
    [(0, 1, 1.0), (1025, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0), (1, 1, math.nan), (1, 1, math.inf)],
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(OptionError, match="accepted: threads from 1 to 1024, the others above 0"):
        machine.measure_read_bandwidth(*numbers)


@pytest.mark.parametrize("threads", [0, 1025])
def test_peak_of_threads_out_of_range_is_refused(threads):
    with pytest.raises(OptionError, match="accepted: threads from 1 to 1024"):
        machine.measure_int8_peak(threads)


def test_more_memory_than_there_is_is_refused():
    with pytest.raises(OptionError, match="more than this machine gives"):
        machine.measure_read_bandwidth(1, 1 << 60)


def test_unknown_instruction_set_is_refused(monkeypatch):
    monkeypatch.setenv("ONEBIT_ISA", "avx9000")
    with pytest.raises(UnsupportedError, match="avx9000"):
        machine.measure_int8_peak(1)
