"""AWQ: the block computes as before; weights that meet large inputs lose less."""

import numpy as np
import pytest
import torch

from onebit import models, ptq, quant
from onebit.ptq import channel_scales
from onebit.ptq.awq import awq
from onebit.ptq.calibration import Calibration
from onebit.ptq.options import Options
from onebit.ptq.smoothquant import smoothquant
from onebit.scheme import find


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_function_stays_in_every_stage(one_block, kv_heads):
    one = one_block(find("w3a16-g8"), num_key_value_heads=kv_heads, qkv_bias=True, out_bias=True)
    right, before = one.output(), one.block.linear("mlp.down_proj").weight.clone()
    one.transform(awq, Options(alpha=0.6))
    assert (one.output() - right).norm() < 1e-5 * right.norm()
    assert not torch.equal(one.block.linear("mlp.down_proj").weight, before)


def test_rounds_better_than_without(one_block):
    errors = []
    for scaled in (False, True):
        one = one_block(find("w3a16-g8"))
        right = one.output()
        if scaled:
            one.transform(awq, Options())
        errors.append(float((one.rounded() - right).norm()))
    assert errors[1] < 0.9 * errors[0]


def test_scales_are_the_formula(one_block):
    """mean |x| to the power of alpha, its middle at 1, in the weights and out of the norm."""
    one = one_block(find("w4a16-g8"))
    stage = one.stages["gate_up"]
    stats = one.stats(stage)
    up = one.block.linear("mlp.up_proj").weight.clone()
    norm = one.block.layer.post_attention_layernorm.weight.clone()
    s = stats.mean_abs_K.sqrt()
    s = s / (s.max() * s.min()).sqrt()
    awq(one.block, stage, stats, Options(alpha=0.5))
    torch.testing.assert_close(one.block.linear("mlp.up_proj").weight.detach(), up * s)
    torch.testing.assert_close(one.block.layer.post_attention_layernorm.weight.detach(), norm / s)
    assert stats.notes == ["awq: alpha 0.50"]


def test_the_largest_inputs_channel_is_rounded_finer(one_block):
    """What the method is about: the error moves away from the columns that count."""
    one = one_block(find("w3a16-row"))
    stage = one.stages["qkv"]
    stats = one.stats(stage)
    weights = channel_scales.rounded_linears(one.block, stage)
    w_NK, scheme = weights[0]

    def column_error(s_K):
        rounded = quant.dequantize(quant.quantize_weight(w_NK * s_K, scheme)) / s_K
        return (rounded - w_NK).square().mean(dim=0)[3]

    s_K = channel_scales.usable(stats.mean_abs_K.pow(0.5))
    assert column_error(s_K) < 0.5 * column_error(torch.ones(24))


def test_search_takes_the_best_of_its_grid(one_block):
    one = one_block(find("w2a16-g8"))
    stage = one.stages["down"]
    weights = channel_scales.rounded_linears(one.block, stage)
    stats = one.stats(stage)

    def scales(alpha):
        return channel_scales.usable(stats.mean_abs_K.pow(alpha))

    grid = [i / 5 for i in range(5)]
    alpha, s_K = channel_scales.search(scales, weights, stats.sample_TK, grid)
    errors = [channel_scales.output_error(scales(a), weights, stats.sample_TK) for a in grid]
    assert errors[grid.index(alpha)] == min(errors)
    assert torch.equal(s_K, scales(alpha))
    awq(one.block, stage, stats, Options(grid=5))
    assert stats.notes == [f"awq: alpha {alpha:.2f}"]


def test_two_transforms_one_after_the_other(one_block):
    """The second sees the inputs that the first has scaled."""
    one = one_block(find("w4a8-row"))
    stage = one.stages["qkv"]
    stats = one.stats(stage)
    smoothquant(one.block, stage, stats, Options(alpha=0.5))
    now = one.stats(stage)
    torch.testing.assert_close(stats.sample_TK, now.sample_TK, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.max_abs_K, now.max_abs_K, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stats.mean_abs_K, now.mean_abs_K, rtol=1e-4, atol=1e-5)


def test_the_file_is_the_scaled_model(tiny_source, tmp_path):
    """8 bits are fine enough to see that norms and linears are written as they were scaled."""
    model = tiny_source().checkpoint.path
    tokens = np.arange(96).reshape(4, 24) * 7 % 50
    report = ptq.quantize(
        model,
        tmp_path / "out",
        method="awq",
        scheme="w8a16-row",
        calibration=Calibration("test", tokens, ""),
        options=Options(alpha=0.5),
    )
    assert {row.method for row in report.rows} == {"awq+rtn"}
    assert all("awq: alpha 0.50" in row.note for row in report.rows)
    with torch.no_grad():
        right, found = (
            models.load(path)(torch.from_numpy(tokens)) for path in (model, tmp_path / "out")
        )
    assert (found - right).norm() < 0.05 * right.norm()
    norm = "model.layers.0.input_layernorm.weight"
    before, after = (models.load(path).state_dict()[norm] for path in (model, tmp_path / "out"))
    assert not torch.equal(before, after)
