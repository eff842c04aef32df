"""Attention against float64 NumPy, and against itself: no query depends on another."""

import numpy as np
import pytest

from onebit.kernels import cpu, reference

# (positions, queries, heads, kv_heads, head_dim): the edges of a tile of 16 and a step of 64
# positions, of a register tile and of the 48 queries that go together
SHAPES = [
    (1, 1, 1, 1, 16),
    (15, 3, 2, 2, 10),
    (16, 16, 3, 1, 64),
    (17, 17, 8, 2, 24),
    (63, 20, 5, 1, 40),
    (64, 2, 6, 1, 128),
    (65, 13, 7, 1, 32),
    (129, 20, 8, 1, 80),
    (200, 7, 20, 5, 128),
    (700, 50, 2, 1, 16),
]
# Of the largest output: rounding of float32; of float16; and, against the keys and values that the
# codes stand for, of queries to 8 bits and of probabilities to 15 bits (8-bit caches) or 7.
TOLERANCE = {32: 3e-6, 16: 2e-3, 8: 0.02, 4: 0.05, 3: 0.06}


def random_case(N, T, heads, kv_heads, D, spread=1.0):
    rng = np.random.default_rng(N * 1000 + D)
    shapes = ((T, heads, D), (N, kv_heads, D), (N, kv_heads, D))
    q, k, v = (rng.standard_normal(shape).astype("f4") for shape in shapes)
    return q * np.float32(spread), k, v


def stored(x, kv_bits, turned):
    """The keys (turned) or values that a cache gives back."""
    if kv_bits == 32:
        return x
    if kv_bits == 16:
        return x.astype("f2").astype("f4")
    N, heads, D = x.shape
    rows = x.reshape(-1, D)
    power = D & -D
    if turned:
        rows = reference.hadamard(rows.reshape(-1, power)).reshape(-1, D)
    first = rows.reshape(N, heads, D)[:1].astype("f2")
    values = reference.quantize_range(rows.astype("f4"), kv_bits).reshape(N, heads, D)
    values[:1] = first
    if turned:
        values = reference.hadamard(values.reshape(-1, power)).reshape(x.shape)
    return values


def expected(q, k, v, kv_bits=32, window=0):
    k, v = stored(k, kv_bits, True), stored(v, kv_bits, False)
    q, k, v = (x.astype("f8") for x in (q, k, v))
    T, heads, D = q.shape
    N = len(k)
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("thd,nhd->htn", q, k) / np.sqrt(D)
    behind = np.arange(N - T, N)[:, None] - np.arange(N)
    scores[:, (behind < 0) | (behind >= (window or N))] = -np.inf
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("htn,nhd->thd", p / p.sum(-1, keepdims=True), v)


def run(q, k, v, kv_bits, pieces=(0,), window=0):
    """The newest len(q) positions, written and asked for in pieces that begin at `pieces`."""
    attention = cpu.Attention(q.shape[1], k.shape[1], q.shape[2], len(k), kv_bits, window)
    before, out = len(k) - len(q), []
    if before:
        attention.write(k[:before], v[:before])
    for begin, end in zip(pieces, [*pieces[1:], len(q)], strict=True):
        here = slice(before + begin, before + end)
        attention.write(k[here], v[here])
        out.append(attention.attend(q[begin:end]))
    return np.concatenate(out)


@pytest.mark.parametrize("kv_bits", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_numpy(isa, shape, kv_bits):
    case = random_case(*shape)
    y = expected(*case, kv_bits)
    np.testing.assert_allclose(
        run(*case, kv_bits), y, rtol=0, atol=TOLERANCE[kv_bits] * np.abs(y).max()
    )


@pytest.mark.parametrize("kv_bits", TOLERANCE)
@pytest.mark.parametrize("window", [1, 5, 63, 64, 65, 130, 1000])
def test_a_window_hides_what_was_before(isa, window, kv_bits):
    """Many queries at once, one at a time and in pieces: the same bits, and what NumPy gives."""
    case = random_case(231, 70, 3, 1, 24)
    y = expected(*case, kv_bits, window)
    whole = run(*case, kv_bits, window=window)
    tolerance = TOLERANCE[kv_bits] * np.abs(y).max()
    np.testing.assert_allclose(whole, y, rtol=0, atol=tolerance)
    for pieces in ([0, 1, 18, 19], range(70)):
        np.testing.assert_array_equal(run(*case, kv_bits, pieces, window), whole)


@pytest.mark.parametrize("kv_bits", TOLERANCE)
def test_positions_before_the_window_are_not_even_looked_at(isa, kv_bits):
    """Whole steps of 64 of them, whatever they hold."""
    q, k, v = random_case(231, 3, 4, 2, 32)
    whole = run(q, k, v, kv_bits, window=20)
    k[:150], v[:150] = 1e4, -1e4
    np.testing.assert_array_equal(run(q, k, v, kv_bits, window=20), whole)


@pytest.mark.parametrize("spread", [0.0, 30.0])
def test_flat_and_sharp_softmax(isa, spread):
    """Equal scores, and scores of which one takes all and the running maximum often changes."""
    case = random_case(150, 20, 4, 2, 32, spread)
    np.testing.assert_allclose(run(*case, 32), expected(*case), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kv_bits", TOLERANCE)
def test_a_query_does_not_depend_on_the_others(isa, kv_bits):
    for shape in ((90, 20, 3, 1, 24), (131, 70, 8, 2, 16)):
        case = random_case(*shape)
        whole = run(*case, kv_bits)
        for pieces in ([0, 1], [0, 5, 6, 18], range(shape[1])):
            np.testing.assert_array_equal(run(*case, kv_bits, pieces), whole)


@pytest.mark.parametrize("kv_bits", TOLERANCE)
def test_same_bits_on_every_instruction_set(monkeypatch, kv_bits):
    for shape in ((150, 9, 4, 2, 40), (70, 20, 5, 1, 128)):
        case = random_case(*shape, spread=3.0)
        results = []
        for isa in cpu.isas():
            monkeypatch.setenv("ONEBIT_ISA", isa)
            both = [run(*case, kv_bits, window=window) for window in (0, 40)]
            results.append(np.concatenate(both))
        for result in results[1:]:
            np.testing.assert_array_equal(result, results[0])


def test_what_is_not_seen_does_not_count(isa):
    """Not even a NaN that a later token, or a forgotten one, left behind."""
    q, k, v = random_case(40, 20, 4, 2, 16)
    whole = run(q, k, v, 32)
    k[30:], v[30:] = np.nan, np.nan
    np.testing.assert_array_equal(run(q, k, v, 32)[:10], whole[:10])


@pytest.mark.parametrize("kv_bits", TOLERANCE)
@pytest.mark.parametrize("what", ["q", "k", "v"])
@pytest.mark.parametrize("position", [0, 5, 70, 89])
def test_a_nan_comes_out_where_it_is_seen(isa, kv_bits, what, position):
    """In the heads that read it; all else is as it was. Keys and values lie 64 to a step."""
    q, k, v = random_case(90, 90, 4, 2, 32)
    whole = run(q, k, v, kv_bits)
    x = {"q": q, "k": k, "v": v}[what]
    x[position, 1, 3] = np.nan
    y = run(q, k, v, kv_bits)
    lost = np.zeros(y.shape[:2], bool)
    if what == "q":
        lost[position, 1] = True
    else:
        lost[position:, 2:] = True
    assert np.isnan(y[lost]).any(axis=-1).all()
    np.testing.assert_array_equal(y[~lost], whole[~lost])


@pytest.mark.parametrize(("kv_bits", "error"), [(16, 1e-3), (8, 0.015), (4, 0.2), (3, 0.4)])
def test_fewer_bits_cost_precision_as_stated(isa, kv_bits, error):
    """RMS, of that of the output, for normal keys and values: a nearly flat softmax, the worst."""
    case = random_case(200, 20, 8, 2, 64)
    y = expected(*case)
    rms = np.sqrt(((run(*case, kv_bits) - y) ** 2).mean() / (y**2).mean())
    assert error / 4 < rms < error


def test_outlier_channels_of_keys_do_no_harm():
    q, k, v = random_case(200, 20, 4, 1, 64)
    k[:, :, 5] *= 30
    q[:, :, 5] /= 30
    y = expected(q, k, v)
    assert np.abs(run(q, k, v, 8) - y).max() < 0.15 * np.abs(y).max()


def test_memory():
    """Codes take the bits they have, and two halves for a position and head, of keys and values."""
    for kv_bits, position in ((32, 512), (16, 256), (8, 128 + 8), (4, 64 + 8), (3, 48 + 8)):
        first = 2 * 2 * 64 * 2 if kv_bits < 16 else 0
        attention = cpu.Attention(4, 2, 64, 160, kv_bits)
        assert attention.size_bytes == 160 * 2 * position + first


def test_a_long_context(isa):
    case = random_case(3000, 1, 2, 1, 16)
    np.testing.assert_allclose(run(*case, 32), expected(*case), rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(*case, 8), expected(*case, 8), rtol=0, atol=1e-3)


def test_wrong_sizes_are_refused():
    for sizes in ((3, 2, 16, 8, 32), (0, 1, 16, 8, 32), (2, 1, 0, 8, 32), (2, 1, 16, 0, 32)):
        with pytest.raises(ValueError, match="multiple of kv_heads"):
            cpu.Attention(*sizes)
    with pytest.raises(ValueError, match="kv_bits is 5; accepted: 32, 16, 8, 4, 3"):
        cpu.Attention(2, 1, 16, 8, 5)
    one = cpu.Attention(2, 1, 16, 8, 32)
    ones = np.ones((9, 1, 16), np.float32)
    with pytest.raises(ValueError, match="do not fit"):
        one.write(ones, ones)
    with pytest.raises(ValueError, match="more queries than positions"):
        one.attend(np.ones((1, 2, 16), np.float32))
    with pytest.raises(ValueError, match="other heads or dimensions"):
        one.write(ones[:1, :, :8], ones[:1, :, :8])
