"""The Triton kernel, by Triton's interpreter on the CPU, in a process of its own: whether kernels
are interpreted is settled when Triton is imported."""

import importlib.util
import os
import subprocess
import sys

import pytest

from onebit.errors import UnsupportedError

CHECK = """
import torch
from onebit.nn.recurrence import recurrence

def draw(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

def found(form, operands):
    leaves = [x.clone().requires_grad_() for x in operands]
    h_BTD, last_BD = recurrence(*leaves, form=form)
    loss = (h_BTD * draw(*h_BTD.shape, seed=6)).sum() + last_BD.square().sum()
    return h_BTD, last_BD, *torch.autograd.grad(loss, leaves)

for B, T, D in [(1, 1, 1), (2, 5, 128), (2, 3, 200)]:
    f_BTD = draw(B, T, D, seed=1).sigmoid()
    f_BTD[..., ::3], f_BTD[..., 1::3] = 0, 1
    operands = f_BTD, draw(B, T, D, seed=2), draw(B, D, seed=3)
    for some in (operands[:2], operands):
        for x, y in zip(found("triton", some), found("sequential", some), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)
print("equal")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_triton_is_the_definition():
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", CHECK]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout == "equal\n", run.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is not None, reason="Triton is installed")
def test_without_triton_its_form_is_refused():
    import torch

    from onebit.nn.recurrence import recurrence

    with pytest.raises(UnsupportedError, match="'triton' needs Triton, which is not installed"):
        recurrence(torch.ones(1, 2, 3), torch.ones(1, 2, 3), form="triton")
