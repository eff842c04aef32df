"""The native loops over columns: the codes, errors and changes of torch's loops, bit for bit."""

from functools import partial

import numpy as np
import pytest
import torch

from onebit import quant
from onebit.kernels import cpu
from onebit.ptq import METHODS, Options, native_columns
from onebit.ptq.stats import Recorder
from onebit.quant import descent
from onebit.scheme import find

K, UP = 192, "model.layers.0.mlp.up_proj"


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(N):
    w_NK = 0.02 * normal(N, K, seed=N)
    w_NK[N // 2] = 0
    return w_NK


@pytest.fixture(scope="module")
def stats():
    recorder = Recorder(K, 600, gram=True)
    recorder.add(normal(600, K, seed=1) @ normal(K, K, seed=2))
    return recorder.stats()


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert (x is None) == (y is None)
        assert x is None or torch.equal(x, y)


@pytest.mark.parametrize("N", [1, 16, 37, 130])
@pytest.mark.parametrize("name", ["w3a16-g64", "w2a16-g32", "w4a16-row-sym", "w1.58a16-g64"])
def test_gptq_gives_the_codes_of_torch(isa, monkeypatch, stats, name, N):
    linear = find(name).linear(UP)
    for iterations, block in ((0, 128), (2, 64)):
        options = Options(iterations=iterations, block=block)
        native = METHODS["gptq"].run(draw(N), linear, stats, options)
        with monkeypatch.context() as patch:
            patch.setattr(native_columns, "rounding", lambda *_: None)
            patch.setattr(native_columns, "sweeping", lambda: None)
            assert_same(native, METHODS["gptq"].run(draw(N), linear, stats, options))


def test_sweeps_of_blocks_with_a_minimum_do_too(isa, stats):
    w_NK = draw(21)
    gram_KK = descent.damped(stats.gram(), 0.01)
    q = quant.blockwise.FORMATS["q4_1"](w_NK)
    improved = partial(descent.improved, w_NK, q, gram_KK, (0, 15), 2, False)
    assert_same(improved(native_columns.sweeping()), improved())


def test_threads_change_nothing(stats):
    w_NK = draw(400)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            rounded = native_columns.rounding(
                torch.full((400, 3), 0.01),
                torch.zeros(400, 3),
                torch.arange(K) // 64,
                (-4, 3),
                128,
            )
            found.append(rounded(0, w_NK.T[:128].contiguous(), stats.gram()[:128, :128]))
    finally:
        torch.set_num_threads(before)
    assert_same(*found)


def test_wide_blocks_go_by_torch(stats):
    options = Options(block=512)
    found = METHODS["gptq"].run(draw(3), find("w3a16-g64").linear(UP), stats, options)
    assert_same(found, METHODS["gptq"].run(draw(3), find("w3a16-g64").linear(UP), stats, Options()))


def test_what_does_not_fit_together_is_refused():
    w, u, scale = np.zeros((4, 5), "f4"), np.zeros((4, 4), "f4"), np.ones((2, 5), "f4")
    group, out = np.array([0, 0, 1, 1], "i4"), np.zeros((4, 5), "f4")
    good = [w, u, scale, scale, group, -4.0, 3.0, out, out.copy(), 1]
    cpu.round_columns(*good)
    for place, bad, message in (
        (1, u[:3].copy(), "U_bb must be"),
        (3, scale[:1].copy(), "zero_GN must be"),
        (4, group + 1, "no such group"),
        (4, group[:2].copy(), "a number for each column"),
        (7, out[:2].copy(), "codes_bN must be"),
    ):
        with pytest.raises(ValueError, match=message):
            cpu.round_columns(*good[:place], bad, *good[place + 1 :])
    with pytest.raises(ValueError, match="1 to 256 columns"):
        cpu.round_columns(np.zeros((257, 5), "f4"), *good[1:])
