"""SmoothQuant: the block computes as before, and rounds better where channels differ."""

import pytest
import torch

from onebit.ptq import channel_scales
from onebit.ptq.options import Options
from onebit.ptq.smoothquant import smoothing, smoothquant
from onebit.scheme import LinearScheme, Scheme, find

BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_function_stays_in_every_stage(one_block, kv_heads):
    one = one_block(find("w4a8"), num_key_value_heads=kv_heads, **BIASES)
    right = one.output()
    before = {name: p.clone() for name, p in one.block.layer.named_parameters()}
    one.transform(smoothquant, Options(alpha=0.5))
    assert (one.output() - right).norm() < 1e-5 * right.norm()
    after = dict(one.block.layer.named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    untouched = [f"self_attn.{x}_proj.bias" for x in "qko"]
    untouched += ["mlp.gate_proj.bias", "mlp.down_proj.bias"]
    assert changed == set(before) - set(untouched)


def test_formula():
    x, w = torch.tensor([1.0, 16.0]), torch.tensor([4.0, 1.0])
    s = smoothing(x, w, 0.5)
    assert s.tolist() == [0.5, 4.0]
    assert (x / s).tolist() == (w * s).tolist()  # alpha 0.5 makes both equal
    assert smoothing(x, w, 1.0).tolist() == [1.0, 16.0]
    assert smoothing(x, w, 0.0).tolist() == [0.25, 1.0]


def test_rounds_better_where_channels_differ(one_block):
    errors = []
    for smooth in (False, True):
        one = one_block(find("w8a4-row"))
        right = one.output()
        if smooth:
            one.transform(smoothquant, Options())
        errors.append(float((one.rounded() - right).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_searched_is_not_worse_than_any_alpha_nor_none(one_block):
    def error(alpha):
        """Of the first stage after scaling by an alpha; what is left to scale by is 1."""
        one = one_block(find("w4a4-row"))
        stage = one.stages["qkv"]
        if alpha != "none":
            smoothquant(one.block, stage, one.stats(stage), Options(alpha=alpha, grid=4))
        weights = channel_scales.rounded_linears(one.block, stage)
        x_TK = one.stats(stage).sample_TK
        return channel_scales.output_error(torch.ones(24), weights, x_TK)

    assert error(None) <= min(error(alpha) for alpha in ("none", 0.25, 0.5, 0.75)) * 1.0001


@pytest.mark.parametrize("hadamard", ["none", "both"])
def test_nothing_is_done_where_nothing_can_be(one_block, hadamard):
    """Float linears, and those behind a Hadamard turn, in which every channel is all channels."""
    how = LinearScheme() if hadamard == "none" else LinearScheme("int4", "absmax", hadamard="both")
    one = one_block(Scheme("test", {"body": how}))
    before = {name: p.clone() for name, p in one.block.layer.named_parameters()}
    one.transform(smoothquant, Options())
    after = dict(one.block.layer.named_parameters())
    assert all(torch.equal(p, after[name]) for name, p in before.items())


def test_dead_channels_stay(one_block):
    """A channel that is always 0 takes no scale from 0 / 0."""
    one = one_block(find("w4a8"))
    one.block.layer.input_layernorm.weight.data[[1, 7]] = 0
    one.block.linear("self_attn.q_proj").weight.data[:, 9] = 0
    right = one.output()
    one.transform(smoothquant, Options(alpha=0.5))
    assert all(bool(torch.isfinite(p).all()) for p in one.block.layer.parameters())
    assert (one.output() - right).norm() < 1e-5 * right.norm()
