"""GPTQ: below rounding to nearest, equal to the plain algorithm, sound where inputs are poor."""

import pytest
import torch

from onebit import quant
from onebit.errors import InputError, OptionError, ShapeError
from onebit.ptq import METHODS, Options
from onebit.ptq.gptq import inverse_factor
from onebit.ptq.stats import Recorder
from onebit.scheme import LinearScheme, find

gptq, rtn = METHODS["gptq"].run, METHODS["rtn"].run


def of(name):
    return find(name).linear("model.layers.0.mlp.up_proj")


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(T=1024, K=64, seed=1):
    """Inputs that hang together, some columns much larger than others."""
    return normal(T, K, seed=seed) @ normal(K, K, seed=seed + 1) * normal(K, seed=7).exp()


def stats_of(x_TK):
    recorder = Recorder(x_TK.shape[1], len(x_TK), gram=True)
    for part in x_TK.split(100):
        recorder.add(part)
    return recorder.stats()


def output_error(q, w, stats):
    miss = quant.dequantize(q) - w
    return float(((miss @ stats.gram()) * miss).sum() / ((w @ stats.gram()) * w).sum()) ** 0.5


def plain(w_NK, scheme, stats, damping=0.01):
    """GPTQ as the paper writes it: the inverse of what is left, after each column."""
    q = rtn(w_NK, scheme, stats, Options())
    N, K = w_NK.shape
    w = w_NK.double().clone()
    H = stats.gram().double().clone()
    H.diagonal().add_(damping * float(H.diagonal().mean()))
    codes = torch.empty(N, K, dtype=torch.int8)
    scale = q.scale_NG.repeat_interleave(K // q.scale_NG.shape[1], dim=1).double()
    zero = q.zero_NG.repeat_interleave(K // q.zero_NG.shape[1], dim=1).double()
    high = 2 ** (int(scheme.weight.removeprefix("int")) - 1)
    for j in range(K):
        inverse = torch.linalg.inv(H[j:, j:])
        code = ((w[:, j] / scale[:, j]).round() + zero[:, j]).clamp(-high, high - 1)
        codes[:, j] = code.to(torch.int8)
        error = (w[:, j] - (code - zero[:, j]) * scale[:, j]) / inverse[0, 0]
        w[:, j:] -= error[:, None] * inverse[0][None]
    return codes


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_are_those_of_the_paper_s_algorithm(bits):
    w, stats, scheme = normal(16, 32), stats_of(inputs(K=32)), of(f"w{bits}a16-g16")
    q = gptq(w, scheme, stats, Options(act_order=False))
    assert torch.equal(q.codes_NK, plain(w, scheme, stats))


@pytest.mark.parametrize("changes", [{}, {"act_order": False}, {"static_groups": False}])
@pytest.mark.parametrize("name", ["w3a16-g16", "w4a16-row-sym", "w1.58a16-row"])
def test_blocked_is_unblocked(name, changes):
    w, stats = normal(16, 64), stats_of(inputs())
    once, each, odd = (
        gptq(w, of(name), stats, Options(block=block, **changes)) for block in (64, 1, 24)
    )
    for q in (each, odd):
        assert torch.equal(q.codes_NK, once.codes_NK)
        assert torch.equal(q.scale_NG, once.scale_NG)


@pytest.mark.parametrize("changes", [{}, {"act_order": False}, {"clip": "none"}])
@pytest.mark.parametrize("name", ["w2a16-g16", "w3a16-g32", "w4a16-row", "w4a16-g16-sym"])
def test_error_is_below_that_of_rounding_to_nearest(name, changes):
    w, stats = normal(48, 64), stats_of(inputs())
    clip = changes.get("clip", Options.clip)
    nearest = output_error(rtn(w, of(name), stats, Options(clip=clip)), w, stats)
    found = output_error(gptq(w, of(name), stats, Options(**changes)), w, stats)
    assert found < 0.9 * nearest


def test_act_order_helps_where_columns_differ():
    w, stats = normal(48, 64), stats_of(inputs())
    as_they_stand, ordered = (
        output_error(gptq(w, of("w3a16-g16"), stats, Options(act_order=order)), w, stats)
        for order in (False, True)
    )
    assert ordered < as_they_stand


def test_of_inputs_that_do_not_hang_together_it_is_rounding_to_nearest():
    w, stats = normal(16, 64), stats_of(inputs())
    stats.gram_KK = torch.diag(torch.rand(64, generator=torch.Generator().manual_seed(3)) + 0.5)
    q, nearest = (
        gptq(w, of("w3a16-g16"), stats, Options()),
        rtn(w, of("w3a16-g16"), stats, Options()),
    )
    assert torch.equal(q.codes_NK, nearest.codes_NK)


def test_static_groups_keep_the_scales_of_the_weights():
    w, stats = normal(16, 64), stats_of(inputs())
    nearest = rtn(w, of("w3a16-g16"), stats, Options())
    static = gptq(w, of("w3a16-g16"), stats, Options())
    moving = gptq(w, of("w3a16-g16"), stats, Options(static_groups=False))
    assert torch.equal(static.scale_NG, nearest.scale_NG)
    assert torch.equal(static.zero_NG, nearest.zero_NG)
    assert not torch.equal(moving.scale_NG, nearest.scale_NG)
    assert moving.scale_NG.shape == nearest.scale_NG.shape


def test_inverse_factor():
    A_KK = stats_of(inputs()).gram()
    U_KK = inverse_factor(A_KK, torch.arange(len(A_KK)), 0.01, []).double()
    damped_KK = A_KK.double() + 0.01 * A_KK.double().diagonal().mean() * torch.eye(64)
    assert torch.equal(U_KK, U_KK.triu())
    torch.testing.assert_close(U_KK.T @ U_KK @ damped_KK, torch.eye(64).double(), atol=1e-4, rtol=0)


def test_dead_columns_are_rounded_to_nearest_and_named():
    x_TK = inputs()
    x_TK[:, [3, 40]] = 0
    w, stats = normal(16, 64), stats_of(x_TK)
    q = gptq(w, of("w4a16-g16"), stats, Options())
    nearest = rtn(w, of("w4a16-g16"), stats, Options())
    assert torch.equal(q.codes_NK[:, [3, 40]], nearest.codes_NK[:, [3, 40]])
    assert "2 dead columns" in stats.notes


def test_fewer_tokens_than_columns_are_damped_and_named():
    w, stats = normal(16, 64), stats_of(inputs(T=20))
    q = gptq(w, of("w4a16-g16"), stats, Options())
    nearest = rtn(w, of("w4a16-g16"), stats, Options())
    assert output_error(q, w, stats) < output_error(nearest, w, stats)
    assert any("20 tokens for 64 columns" in note for note in stats.notes)


def test_damping_grows_until_it_is_enough_and_says_so():
    w, stats = normal(16, 64), stats_of(inputs())
    stats.gram_KK = stats.gram() - 0.03 * stats.gram().diagonal().mean() * torch.eye(64)
    gptq(w, of("w4a16-g16"), stats, Options())
    assert stats.notes == ["damping raised to 0.1"]
    stats.gram_KK = -stats.gram()
    with pytest.raises(InputError, match="not positive definite, even with damping"):
        gptq(w, of("w4a16-g16"), stats, Options())


def test_hadamard_turns_the_weights_before():
    w, stats, plain_scheme = normal(16, 64), stats_of(inputs()), of("w4a16-row")
    scheme = LinearScheme("int4", "zero_point", "row", hadamard="both", signs=3)
    q = gptq(w, scheme, stats, Options())
    wanted = gptq(quant.hadamard.turned(w, scheme), plain_scheme, stats, Options())
    assert torch.equal(q.codes_NK, wanted.codes_NK)


def test_what_cannot_be_done_is_refused():
    stats = stats_of(inputs())
    with pytest.raises(InputError, match="Name a calibration text"):
        gptq(normal(4, 64), of("w4a16-g16"), None, Options())
    with pytest.raises(ShapeError, match=r"\(64, 64\) for 32 columns"):
        gptq(normal(4, 32), of("w4a16-g16"), stats, Options())
    with pytest.raises(InputError, match="weights that are not finite"):
        gptq(normal(4, 64) / 0, of("w4a16-g16"), stats, Options())
    with pytest.raises(OptionError, match="no grid"):
        gptq(normal(4, 64), of("w1a16-row"), stats, Options())
    with pytest.raises(InputError, match="inputs that are not finite"):
        stats_of(torch.full((4, 8), float("inf")))
