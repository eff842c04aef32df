"""Shared by all tests: one torch thread, and the `isa` fixture that runs a test per instruction set."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests run side by side
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _isas() -> list[str]:
    from onebit.kernels import cpu

    return cpu.isas()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "isa" in metafunc.fixturenames:
        metafunc.parametrize("isa", _isas(), indirect=True)


@pytest.fixture
def isa(request, monkeypatch):
    """Runs the test once per instruction set that works here, and checks that it is the one in use."""
    from onebit.kernels import cpu

    monkeypatch.setenv("ONEBIT_ISA", request.param)
    assert cpu.active_isa() == request.param
    return request.param
