"""MLGRU: its two forms, and the recurrence against flash-linear-attention's naive one.

Shape letters: B sequences, T tokens, C channels.
"""

import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from onebit.errors import OptionError
from onebit.nn import MLGRU
from onebit.nn.gates import gated
from onebit.nn.recurrence import recurrence


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_paper_and_code_differ_in_what_goes_out():
    torch.manual_seed(0)
    code, paper = MLGRU(8, eps=1e-6), MLGRU(8, eps=1e-6, form="paper")
    paper.load_state_dict(code.state_dict(), strict=False)
    assert set(dict(code.named_parameters())) - set(dict(paper.named_parameters())) == {
        "g_norm.weight"
    }
    g_BTC, h_BTC = drawn(2, 3, 8), drawn(2, 3, 8, seed=1)
    normal_BTC = g_BTC / (g_BTC.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(code.mixed(g_BTC, h_BTC), normal_BTC * F.silu(h_BTC))
    torch.testing.assert_close(paper.mixed(g_BTC, h_BTC), g_BTC * torch.sigmoid(h_BTC))
    x_BTC = drawn(2, 5, 8, seed=2)
    assert not torch.allclose(code(x_BTC), paper(x_BTC))
    with pytest.raises(OptionError, match="form is 'book'; accepted: code, paper"):
        MLGRU(8, eps=1e-6, form="book")


def test_a_gate_stays_above_its_bound():
    f_BTC, i_BTC = 20 * drawn(2, 9, 4), drawn(2, 9, 4, seed=1)
    bound_C = torch.tensor([0.0, 0.25, 0.5, 0.9])
    f, i = gated(f_BTC, i_BTC, bound_C)
    assert (f >= bound_C).all()
    assert (f <= 1).all()
    torch.testing.assert_close(i, F.silu(i_BTC) * (1 - f))
    free, _ = gated(f_BTC, i_BTC, None)
    assert torch.equal(f[..., 0], free[..., 0])


def test_gates_of_bfloat16_are_float():
    """1 - 2^-9 is no number of bfloat16: a state that should fade would stay for ever."""
    f, i = gated(torch.full((1, 1, 1), 7.0, dtype=torch.bfloat16), torch.ones(1, 1, 1), None)
    assert (f.dtype, i.dtype) == (torch.float32, torch.float32)
    assert 0.999 < float(f) < 1


def flash_linear_attentions():
    """Its module of plain loops, by its file: the package around it takes a minute to import."""
    package = importlib.util.find_spec("fla")
    if package is None:
        pytest.skip("flash-linear-attention is not installed")
    file = Path(package.origin).parent / "ops" / "hgrn" / "naive.py"
    spec = importlib.util.spec_from_file_location("fla_hgrn_naive", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_against_flash_linear_attentions_naive_recurrence():
    naive = flash_linear_attentions()
    f_BTC = torch.sigmoid(drawn(2, 37, 5)).requires_grad_()
    i_BTC, h0_BC = drawn(2, 37, 5, seed=1).requires_grad_(), drawn(2, 5, seed=2)
    weight = drawn(2, 37, 5, seed=3)
    h_BTC, last_BC = recurrence(f_BTC, i_BTC, h0_BC)
    found = torch.autograd.grad((h_BTC * weight).sum(), (f_BTC, i_BTC))
    theirs_BTC, theirs_BC = naive.naive_recurrent_hgrn(i_BTC, f_BTC.log(), h0_BC, True)
    wanted = torch.autograd.grad((theirs_BTC * weight).sum(), (f_BTC, i_BTC))
    for mine, other in zip((h_BTC, last_BC, *found), (theirs_BTC, theirs_BC, *wanted), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)
