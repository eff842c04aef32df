"""Which weights decay, and clipping."""

import pytest
import torch
from torch import nn

from onebit.train import optim
from onebit.train.config import OptimConfig
from onebit.train.schedule import Rates


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(5, 4)
        self.up_proj = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)
        self.lm_head = nn.Linear(4, 5, bias=False)


def test_matrices_decay_and_nothing_else():
    model = Tiny()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = optim.build(model, OptimConfig())
    optim.set_rates(optimizer, Rates(lr=0.5, weight_decay=0.1))
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    changed = {name for name, weight in model.named_parameters() if not weight.equal(before[name])}
    assert changed == {"up_proj.weight", "lm_head.weight"}
    torch.testing.assert_close(model.up_proj.weight, before["up_proj.weight"] * (1 - 0.5 * 0.1))


def test_betas_are_the_recipes():
    optimizer = optim.build(Tiny(), OptimConfig(beta1=0.8, beta2=0.9, epsilon=1e-6))
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {
        ((0.8, 0.9), 1e-6)
    }


@pytest.mark.parametrize(("largest", "after"), [(1.0, 1.0), (100.0, 20.0)])
def test_clipping_scales_all_gradients_together(largest, after):
    model = nn.Linear(5, 20, bias=False)
    optimizer = optim.build(model, OptimConfig())
    model.weight.grad = torch.full_like(model.weight, 2.0)  # norm 2 * sqrt(100)
    assert optim.clip(optimizer, largest) == pytest.approx(20.0)
    assert float(model.weight.grad.norm()) == pytest.approx(after, rel=1e-5)


@pytest.mark.parametrize("shape", [(1,), (4,), (4, 2)])
def test_learned_steps_take_their_share_of_the_rate_and_do_not_decay(shape):
    model = Tiny()
    model.up_proj.step = nn.Parameter(torch.ones(shape))
    optimizer = optim.build(model, OptimConfig(step_lr=0.25))
    optim.set_rates(optimizer, Rates(lr=0.5, weight_decay=0.1))
    rates = {
        id(weight): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.up_proj.step)] == (0.125, 0.0)
    assert rates[id(model.up_proj.weight)] == (0.5, 0.1)
    assert rates[id(model.norm.weight)] == (0.5, 0.0)
