"""The straight-through estimator, and why it is written in this order."""

import pytest
import torch

from onebit.quant import dequantize, straight_through, ternary


def weights(dtype):
    w = 0.02 * torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    return w.to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_forward_is_exact_and_the_gradient_is_the_identity(dtype):
    w = weights(dtype)
    w_hat = dequantize(ternary.quantize_absmean(w)).to(dtype)
    out = straight_through(w, w_hat)
    assert torch.equal(out, w_hat)
    assert out.detach().unique().numel() == 3
    upstream = torch.randn(512, 512, generator=torch.Generator().manual_seed(1)).to(dtype)
    out.backward(upstream)
    assert torch.equal(w.grad, upstream)


def test_the_usual_order_leaves_the_grid_in_bf16():
    w = weights(torch.bfloat16)
    w_hat = dequantize(ternary.quantize_absmean(w)).bfloat16()
    usual = (w + (w_hat - w).detach()).detach()
    off = float((usual != w_hat).float().mean())
    assert 0.005 < off < 0.05  # about 2 %
    assert usual.unique().numel() > 3
