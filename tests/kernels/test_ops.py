"""The door: which layout and instruction set is chosen, and what it refuses."""

import os
import signal

import ml_dtypes
import numpy as np
import pytest

from onebit.errors import OptionError, ShapeError, UnsupportedError
from onebit.kernels import cpu, ops
from onebit.pack import Unpacked


def unpacked(codes, G=1):
    codes = np.array(codes, np.int8)
    return Unpacked(codes, np.arange(1, len(codes) * G + 1, dtype=np.float32).reshape(-1, G))


@pytest.mark.parametrize(
    ("codes", "layout"),
    [
        ([0], "t2"),
        ([-1, 0], "t2"),
        ([-1, 1], "b1"),
        ([0, 2], "i4"),
        ([-8, 7], "i4"),
        ([0, 15], "i4"),
        ([-16, -1], "i4"),
        ([112, 127], "i4"),
        ([-8, 8], "i6"),
        ([-32, 31], "i6"),
        ([0, 64], "i8"),
        ([-128, 127], "i8"),
    ],
)
def test_narrowest_layout_is_chosen(codes, layout):
    weights = unpacked([codes, codes[::-1]])
    matrix = ops.repack(weights)
    assert matrix.layout == layout
    np.testing.assert_array_equal(matrix.rows(np.arange(2, dtype=np.int32)), weights.values())


def test_a_layout_is_taken_by_name():
    weights = unpacked([[1, -1, 0, 1]])
    for layout in ("t1_6", "t2", "i4", "i6", "i8"):
        matrix = ops.repack(weights, layout)
        assert matrix.layout == layout
        np.testing.assert_array_equal(matrix.rows(np.zeros(1, np.int32)), weights.values())


@pytest.mark.parametrize(
    ("weights", "layout", "message"),
    [
        (unpacked([[1, 0]]), "t3", r"layout is 't3'; accepted: b1, t1_6, t2, i4, i6, i8"),
        (unpacked([[1, 0]]), "b1", r"layout b1 does not hold these codes; accepted: t1_6, t2, i4"),
        (
            unpacked([[2, 0]]),
            "t1_6",
            r"layout t1_6 does not hold these codes; accepted: i4, i6, i8",
        ),
        (unpacked([[99, -99]]), "i4", r"layout i4 does not hold these codes; accepted: i8"),
        (unpacked([[1, -1] * 16], G=2), "b1", r"layout b1 does not hold these codes"),
    ],
)
def test_a_layout_that_does_not_hold_the_codes_is_refused(weights, layout, message):
    with pytest.raises(OptionError, match=message):
        ops.repack(weights, layout)


def test_t1_6_holds_one_scale_a_row():
    with pytest.raises(ShapeError, match=r"2 scales a row in layout t1_6, which holds one"):
        ops.repack(unpacked([[1, 0] * 16], G=2), "t1_6")


def test_equal_groups_become_one():
    codes = np.tile(np.array([-1, 0, 1], np.int8), (4, 4))  # groups of 3 columns fit no kernel
    matrix = ops.repack(Unpacked(codes, np.full((4, 4), 0.5, np.float32)))
    np.testing.assert_array_equal(matrix.rows(np.arange(4, dtype=np.int32)), codes * 0.5)


def test_bfloat16_is_known_by_its_type():
    values = np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16)
    matrix = ops.repack_floats(values)
    assert matrix.layout == "bf16"
    np.testing.assert_array_equal(matrix.rows(np.array([1], np.int32)), [[3, 4, 5]])


def test_every_isa_is_used_when_named(isa):
    assert ops.active_isa() == isa
    assert isa in ops.isas()


def test_best_isa_is_the_default(monkeypatch):
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ONEBIT_ISA", raising=False)
        else:
            monkeypatch.setenv("ONEBIT_ISA", unset)
        assert ops.active_isa() == ops.isas()[0]
    assert ops.isas()[-1] == "scalar"


@pytest.mark.parametrize("name", ["avx9000", "Scalar", "avx2 ", "neon_i8mm", "avx512_vnni"])
def test_isa_that_does_not_run_is_refused_everywhere(monkeypatch, name):
    if name in ops.isas():
        pytest.skip(f"this CPU runs {name}")
    matrix = ops.repack(unpacked([[1, -1]]))
    monkeypatch.setenv("ONEBIT_ISA", name)
    message = (
        rf"^ONEBIT_ISA={name} does not run here\. Available: .*scalar\. "
        rf"Unset ONEBIT_ISA to use {ops.isas()[0]}\.$"
    )
    x = np.ones((1, 2), np.float32)
    for call in (
        ops.active_isa,
        lambda: ops.linear(matrix, x),
        lambda: ops.int_sums(matrix, x.astype(np.int8)),
        lambda: ops.quantize_i8(x),
        lambda: ops.quantize(x, "fp4_e2m1"),
        lambda: ops.layer_norm(x, 1e-5),
        lambda: ops.hadamard(x),
    ):
        with pytest.raises(UnsupportedError, match=message):
            call()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (unpacked(np.zeros((0, 4))), r"codes are int8 \(0, 4\)"),
        (Unpacked(np.zeros((2, 4), np.int16), np.ones((2, 1))), r"codes are int16"),
        (unpacked(np.zeros((2, 40)), G=5), r"groups of 8 columns; the kernels need a multiple"),
        (unpacked(np.zeros((2, 40)), G=3), r"with G dividing K"),
        (Unpacked(np.zeros((2, 4), np.int8), np.ones(2, np.float32)), r"expected \(N, G\)"),
        (Unpacked(np.zeros((2, 4), np.int8), np.ones((3, 1), np.float32)), r"expected \(N, G\)"),
        (
            Unpacked(np.zeros((2, 4), np.int8), np.ones((2, 1)), np.ones((2, 2))),
            r"scales of shape \[\(2, 1\), \(2, 2\)\]",
        ),
        (unpacked(np.zeros((1, 131_072))), r"at most 131071 keep sums exact"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ShapeError, match=message):
        ops.repack(weights)


def test_float_arrays_that_do_not_fit_are_refused():
    with pytest.raises(OptionError, match=r"float64; accepted: float32, float16, bfloat16"):
        ops.repack_floats(np.zeros((2, 2)))
    for shape in ((4,), (0, 2), (2, 0)):
        with pytest.raises(ShapeError, match=r"expected \(N, K\)"):
            ops.repack_floats(np.zeros(shape, np.float32))


def test_inputs_that_do_not_fit_are_refused():
    matrix = ops.repack(unpacked([[1, -1, 0]]))
    floats = ops.repack_floats(np.zeros((1, 3), np.float32))
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(ShapeError, match=r"the matrix has 3 columns, the input has shape \(2, 4\)"):
        ops.linear(matrix, x)
    with pytest.raises(ShapeError, match="3 columns"):
        ops.int_sums(matrix, x.astype(np.int8))
    with pytest.raises(ShapeError, match=r"expected \(T, K\)"):
        ops.linear(matrix, x[0])
    with pytest.raises(OptionError, match="'int3'; accepted: fp, int8_absmax"):
        ops.linear(matrix, x[:, :3], "int3")
    for call in (ops.quantize, lambda x, rule: ops.linear(matrix, x[:, :3], rule)):
        with pytest.raises(OptionError, match="after dynamic: comes a number above 0"):
            call(x, "dynamic:many")
    with pytest.raises(OptionError, match="fp rounds nothing"):
        ops.quantize(x, "fp")
    with pytest.raises(OptionError, match="Take int8_absmax"):
        ops.quantize(x, "int8_absmax_tensor", parts=2)
    with pytest.raises(ShapeError, match="4 columns do not make 3 equal parts"):
        ops.quantize(x, "int8_b1", parts=3)
    with pytest.raises(ShapeError, match="4 columns do not make 0 equal parts"):
        ops.layer_norm(x, 1e-5, parts=0)
    with pytest.raises(ShapeError, match="parts of 1 columns; the kernels need a multiple of 32"):
        ops.linear(matrix, x[:, :3], "int8_b1", parts=3)
    with pytest.raises(OptionError, match="must be int8"):
        ops.int_sums(matrix, x[:, :3])
    with pytest.raises(OptionError, match="is f32; it must hold codes"):
        ops.int_sums(floats, x[:, :3].astype(np.int8))
    with pytest.raises(OptionError, match="block is -1"):
        ops.quantize_i8(x, -1)
    for n in (0, 1025):
        with pytest.raises(OptionError, match="from 1 to 1024"):
            ops.set_threads(n)


def test_no_tokens_give_no_rows(isa):
    for matrix in (ops.repack(unpacked([[1, -1]])), ops.repack_floats(np.ones((1, 2), np.float32))):
        for activation in ops.ACTIVATIONS:
            y = ops.linear(matrix, np.zeros((0, 2), np.float32), activation)
            assert y.shape == (0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: cpu.Matrix.from_codes("t3", one, np.ones((1, 1), "f4")), "t3 is unknown"),
        (lambda one: cpu.Matrix.from_codes("t2", one * 2, np.ones((1, 1), "f4")), "holds -1 to 1"),
        (lambda one: cpu.Matrix.from_codes("t2", one, np.ones((2, 1), "f4")), "2 rows"),
        (lambda one: cpu.Matrix.from_codes("t2", one, np.ones(1, "f4")), "1 dimensions"),
        (lambda one: cpu.Matrix.from_codes("t2", one[:, :0], np.ones((1, 1), "f4")), "is empty"),
        (lambda one: cpu.Matrix.from_codes("t2", one, np.ones((1, 3), "f4")), "3 scale groups"),
        (
            lambda one: cpu.Matrix.from_codes("i4", one * [[8, -8]], np.ones((1, 1), "f4")),
            "codes -8 to 8 do not fit layout i4; it holds 16 values",
        ),
        (lambda one: cpu.Matrix.from_floats(np.ones((1, 2))), "must be float32, float16"),
        (lambda one: cpu.set_threads(0), "accepted: 1 to 1024"),
        (lambda one: cpu.measure_read_bandwidth(1025, 1, 1.0), "accepted: 1 to 1024"),
        (lambda one: cpu.measure_int8_peak(0, 1.0), "accepted: 1 to 1024"),
        (lambda one: cpu.time_products([None], np.ones((1, 2), "f4"), "fp"), "None is no matrix"),
    ],
)
def test_the_extension_itself_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.ones((1, 2), np.int8))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_too():
    """A child has none of its parent's threads; it must start its own, not wait for them."""
    matrix = ops.repack(unpacked(np.ones((300, 64))))
    x = np.ones((9, 64), np.float32)
    before = ops.threads()
    ops.set_threads(2)
    try:
        expected = ops.linear(matrix, x)
        child = os.fork()
        if not child:
            os._exit(0 if (ops.linear(matrix, x) == expected).all() and ops.threads() == 2 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        ops.set_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_weights_settle_makes_matrices():
    """The thread that moves pages is not in the child, nor may what it held be held for ever."""
    blocks = np.full((16_384 * 8192 // 256, 66), 0x55, np.uint8)  # 32 MB of code 0
    blocks[:, 64:] = np.array([1.0], "<f2").view(np.uint8)
    for _ in range(3):
        weights = ops.repack_stored("tq2_0", blocks.reshape(-1), (16_384, 8192))
        cpu.settle_weights(0.0)
        for _ in range(3):
            child = os.fork()
            if not child:
                signal.alarm(20)
                ops.repack(unpacked(np.zeros((600, 600))))
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert weights.layout == "t2"


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's list of threads")
def test_the_same_number_of_threads_keeps_the_threads():
    """`LLM` says its number before every token; that must not end and start threads."""
    matrix, x = ops.repack(unpacked(np.ones((300, 64)))), np.ones((9, 64), np.float32)
    before, seen = ops.threads(), []
    try:
        for n in (3, 3, 2, 2):
            ops.set_threads(n)
            ops.linear(matrix, x)
            seen.append(set(os.listdir("/proc/self/task")))
    finally:
        ops.set_threads(before)
    assert seen[0] == seen[1]
    assert seen[1] != seen[2] == seen[3]


def test_arrays_that_are_not_aligned_are_taken():
    """A tensor may begin at any byte of a file."""
    values = np.arange(70, dtype=np.float32).reshape(2, 35)
    for dtype in (np.float32, np.float16):
        memory = np.zeros(values.size * 4 + 1, np.uint8)[1:]
        odd = memory[: values.size * np.dtype(dtype).itemsize].view(dtype).reshape(2, 35)
        odd[:] = values
        assert not odd.flags.aligned
        matrix = ops.repack_floats(odd)
        np.testing.assert_array_equal(matrix.rows(np.arange(2, dtype=np.int32)), values)
        if dtype == np.float32:
            np.testing.assert_array_equal(ops.linear(matrix, odd), ops.linear(matrix, values))


def test_default_threads_are_those_this_process_may_use():
    assert 1 <= ops.default_threads() <= (os.cpu_count() or 1)
